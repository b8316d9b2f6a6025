"""Continual pre-training and fine-tuning through transformers.Trainer, on one device or many.

Start it plainly, by ``torchrun`` or by ``accelerate launch``: the rows of a step are the same,
and so is the run, up to rounding. A run that was killed goes on with the same command.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import SequentialSampler
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from langmerge.errors import LangmergeError
from langmerge.files import write_text
from langmerge.merging import hub
from langmerge.model import train_layers_alone
from langmerge.provenance import provenance
from langmerge.scale import cost, rows
from langmerge.scale.settings import ContinualPretraining, Finetuning, Run

#: What a checkpoint of the training state has when all processes have written their part.
WHOLE = "whole"
#: Settings that change no result, so that a run may go on with others.
FREE = {"out", "per_device_batch", "save_steps", "gradient_checkpointing", "keep_state"}
Progress = Callable[[int, int], None]


def continual_pretrain(
    run: ContinualPretraining,
    progress: Progress | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> dict[int, Path]:
    """Train a model on running text; its checkpoints' folders by their budget in tokens.

    progress: called with (step, steps). Raises LangmergeError for what a user can mend.
    """
    return _train(run, progress, callbacks)


def finetune(
    run: Finetuning, progress: Progress | None = None, callbacks: Sequence[TrainerCallback] = ()
) -> Path:
    """Train a model on instructions; the folder of the result. As `continual_pretrain`."""
    return _train(run, progress, callbacks)[run.steps * run.tokens_per_step]


def is_done(run: Run) -> bool:
    """Whether all models of a run are there."""
    return all(path.is_dir() for path in run.checkpoints().values())


def prepare(run: Run, progress: Progress | None = None) -> rows.Rows:
    """Tokenize and pack a run's rows beforehand, where no GPU waits for them."""
    return rows.prepare(run, _tokenizer(run, hub.folder_of(run.model)), progress)


def _train(
    run: Run, progress: Progress | None, callbacks: Sequence[TrainerCallback]
) -> dict[int, Path]:
    folders = {step * run.tokens_per_step: path for step, path in run.checkpoints().items()}
    if is_done(run):
        _check_settings(run)
        return folders
    # These come first: they set up the group of processes that all else asks for its place.
    arguments = _arguments(run)
    with arguments.main_process_first(local=False):
        if arguments.process_index == 0:
            run.out.mkdir(parents=True, exist_ok=True)
            _check_settings(run)
            _remove_broken(run.out / "state")
        start = hub.folder_of(run.model)
        tokenizer = _tokenizer(run, start)
        data = rows.prepare(run, tokenizer)
        if arguments.process_index == 0:
            _check_disk(run, start)
            write_text(run.out / "run.json", json.dumps(_spec(run) | {"provenance": provenance()}))
    net = load(start, torch.float32)
    if isinstance(run, Finetuning) and run.freeze_embeddings:
        train_layers_alone(net)
    trainer = _InOrder(run, net, arguments, data)
    _add_callbacks(trainer, run, tokenizer, progress, callbacks)
    newest = _newest(run.out / "state")
    with explained(run):
        trainer.train(resume_from_checkpoint=str(newest) if newest else None)
    if arguments.process_index == 0 and not run.keep_state:
        shutil.rmtree(run.out / "state", ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    return folders


def load(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """A causal language model of a checkpoint's folder; code of a repository is never run."""
    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    except (ValueError, OSError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise LangmergeError(f"{folder}: no causal language model can be read ({first})") from None


def _tokenizer(run: Run, start: Path) -> PreTrainedTokenizerBase:
    """The run's tokenizer, which the model has to have a row of its embedding for."""
    folder = hub.folder_of(run.tokenizer) if run.tokenizer else start
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (ValueError, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise LangmergeError(
            f"{folder}: it has no tokenizer ({first}). Name one: `tokenizer:`."
        ) from None
    size = AutoConfig.from_pretrained(start).vocab_size
    if len(tokenizer) > size:
        raise LangmergeError(
            f"the tokenizer of {run.tokenizer or run.model} has {len(tokenizer):,} tokens, and "
            f"{run.model} embeds {size:,}: they do not belong together. Leave `tokenizer:` out to "
            "take the model's own."
        )
    own = start / "tokenizer.json"
    if run.tokenizer and own.is_file():
        model_own = AutoTokenizer.from_pretrained(start)
        if rows.fingerprint(model_own) != rows.fingerprint(tokenizer):
            raise LangmergeError(
                f"{run.tokenizer} has another vocabulary than {run.model}: the same number would "
                "mean different tokens. Leave `tokenizer:` out to take the model's own."
            )
    if tokenizer.eos_token_id is None:
        raise LangmergeError(f"{folder}: its tokenizer has no end-of-text token to part examples.")
    return tokenizer


class _InOrder(Trainer):
    """A Trainer that takes the rows in their order, at the rate that the run's settings say."""

    def __init__(self, run: Run, model: PreTrainedModel, arguments: Any, data: rows.Rows) -> None:
        # Examples in one row are kept apart only where no cache of keys is made.
        model.config.use_cache = False
        if run.gradient_checkpointing:
            checkpoint_activations(model)
        self.run = run
        super().__init__(model=model, args=arguments, train_dataset=data)

    def _get_train_sampler(self, *args: object, **kwargs: object) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """The run's schedule, whose decay may be longer than the run."""
        if self.lr_scheduler is None:
            peak = self.run.learning_rate
            self.lr_scheduler = LambdaLR(
                optimizer or self.optimizer, lambda step: self.run.learning_rate_at(step) / peak
            )
        return self.lr_scheduler


class _Budgets(TrainerCallback):
    """Saves the model at the run's budgets, and marks the training state that is whole."""

    def __init__(self, trainer: Trainer, run: Run, tokenizer: PreTrainedTokenizerBase) -> None:
        self.trainer, self.run, self.tokenizer = trainer, run, tokenizer
        # Looked up before the first step: later the first process may be ahead of the others, and
        # all have to take part in a save.
        self.at = {step: path for step, path in run.checkpoints().items() if not path.is_dir()}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = self.at.get(state.global_step)
        if folder is not None:
            dtype = getattr(torch, self.run.save_dtype)
            save(self.trainer.model_wrapped, folder, self.tokenizer, dtype)
            self.trainer.accelerator.wait_for_everyone()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.accelerator.wait_for_everyone()
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / WHOLE).touch()


class _Log(TrainerCallback):
    """One line of JSON a step: loss, learning rate, tokens so far and per second."""

    def __init__(self, path: Path, run: Run) -> None:
        self.path, self.run = path, run
        self.before = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        kept = [line for line in read_log(self.path) if line["step"] <= state.global_step]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self.before = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or "loss" not in logs:
            return
        now = time.monotonic()
        line = {
            "step": state.global_step,
            "tokens": state.global_step * self.run.tokens_per_step,
            "loss": logs["loss"],
            "learning_rate": logs["learning_rate"],
            "tokens_per_second": round(self.run.tokens_per_step / (now - self.before), 1),
        }
        self.before = now
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class _Progress(TrainerCallback):
    def __init__(self, report: Progress) -> None:
        self.report = report

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.report(state.global_step, state.max_steps)


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a run's log.jsonl; a last one that a kill cut in two is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def save(
    model: torch.nn.Module, folder: Path, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype
) -> None:
    """Write a model's whole weights as transformers does, on the first process; whole or absent.

    model: plain, or wrapped by DDP or FSDP, on all processes alike: its shards are gathered.
    """
    if torch.distributed.is_initialized():
        # Here, for it takes seconds to import, which a single process need not wait for.
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = get_model_state_dict(model, options=options)
        if torch.distributed.get_rank() != 0:
            return
    else:
        weights = model.state_dict()
    inner = model.module if hasattr(model, "module") else model
    temporary = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    tied = getattr(inner, "all_tied_weights_keys", None) or {}
    weights = {k: one.to("cpu", dtype) for k, one in weights.items() if k not in tied}
    inner.save_pretrained(temporary, state_dict=weights)
    tokenizer.save_pretrained(temporary)
    config = json.loads((temporary / "config.json").read_text(encoding="utf-8"))
    config |= {"dtype": str(dtype).removeprefix("torch."), "use_cache": True}
    write_text(temporary / "config.json", json.dumps(config, indent=2) + "\n")
    temporary.rename(folder)


@contextmanager
def explained(run: Run) -> Iterator[None]:
    """A device that runs out of memory as one message that says what to lower."""
    try:
        yield
    except torch.OutOfMemoryError:
        mends = [f"per_device_batch (now {run.per_device_batch}; the result stays the same)"]
        if run.per_device_batch == 1:
            mends = [f"sequence (now {run.sequence})"]
        if not run.gradient_checkpointing:
            mends.append("memory by gradient_checkpointing: true")
        raise LangmergeError(
            f"The device ran out of memory. Lower {', or '.join(mends)}, or spread the model over "
            "more devices with data/accelerate/fsdp.yaml. The same command then goes on from the "
            "last saved state."
        ) from None


def _add_callbacks(
    trainer: Trainer,
    run: Run,
    tokenizer: PreTrainedTokenizerBase,
    progress: Progress | None,
    callbacks: Sequence[TrainerCallback],
) -> None:
    trainer.callback_handler.callbacks = [
        one
        for one in trainer.callback_handler.callbacks
        if type(one).__name__ not in {"PrinterCallback", "ProgressCallback"}
    ]
    trainer.add_callback(_Budgets(trainer, run, tokenizer))
    trainer.add_callback(_Log(run.out / "log.jsonl", run))
    if progress and trainer.is_world_process_zero():
        trainer.add_callback(_Progress(progress))
    for one in callbacks:
        trainer.add_callback(one)


def _refuse_fsdp_without_gpu() -> None:
    """Raise LangmergeError where accelerate would quietly train whole copies of the model."""
    asked = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    if asked and not torch.cuda.is_available():
        raise LangmergeError(
            "FSDP needs GPUs, and there is none here. Without one start several processes by "
            "`torchrun --nproc_per_node 2 -m langmerge train ...`, each with the whole model."
        )


def _arguments(run: Run) -> TrainingArguments:
    _refuse_fsdp_without_gpu()
    cpu = not torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(run.out / "state"),
        max_steps=run.steps,
        per_device_train_batch_size=run.per_device_batch,
        learning_rate=run.learning_rate,
        weight_decay=run.weight_decay,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        bf16=use_bf16(run.precision),
        save_strategy="steps",
        save_steps=run.save_steps,
        save_total_limit=2,
        logging_steps=1,
        report_to=[],
        use_cpu=cpu,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=not cpu,
        seed=run.seed,
    )
    devices, rows_ = arguments.world_size, run.rows_per_step
    if rows_ % (run.per_device_batch * devices):
        raise LangmergeError(
            f"a step of {run.tokens_per_step:,} tokens has {rows_} rows, which cannot be parted "
            f"among {devices} device(s) by {run.per_device_batch}: choose a per_device_batch and a "
            "number of devices whose product divides them."
        )
    arguments.gradient_accumulation_steps = rows_ // (run.per_device_batch * devices)
    return arguments


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Keep the layers' inputs alone, and compute the rest anew in the backward pass."""
    # The newer name where transformers has it: the older one warns there.
    enable = getattr(model, "activation_checkpointing_enable", None)
    (enable or model.gradient_checkpointing_enable)({"use_reentrant": False})


def use_bf16(precision: str) -> bool:
    """Whether to compute in bfloat16: as told, or where the GPU can."""
    if precision == "auto":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return precision == "bf16"


def _spec(run: Run) -> dict[str, Any]:
    """What a run's results depend on."""
    return run.model_dump(mode="json", exclude=FREE)


def _check_settings(run: Run) -> None:
    """Raise LangmergeError where the run's folder was begun with other settings."""
    path = run.out / "run.json"
    if not path.is_file():
        return
    there = json.loads(path.read_text(encoding="utf-8"))
    # What an older run does not tell was as it is where nothing is said of it now.
    usual = {key: field.default for key, field in type(run).model_fields.items()}
    other = sorted(key for key, now in _spec(run).items() if there.get(key, usual[key]) != now)
    if other:
        raise LangmergeError(
            f"{run.out}: a run with other settings was begun here ({', '.join(other)} differ). "
            "Choose another `out:`, or remove that folder."
        )


def _check_disk(run: Run, start: Path) -> None:
    """Raise LangmergeError where checkpoints and training state will not fit on the disk."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(start))
    needed = cost.disk(sum(one.numel() for one in model.parameters()), run)["checkpoints"]
    written = [*run.out.glob("tokens-*/*"), *(run.out / "state").glob("*/*")]
    there = sum(path.stat().st_size for path in written if path.is_file())
    free = shutil.disk_usage(run.out).free
    if needed > free + there:
        raise LangmergeError(
            f"{run.out}: checkpoints and training state take {needed / 1e9:,.1f} GB and the disk "
            f"has {free / 1e9:,.1f} GB left. Make room, choose another `out:`, fewer `budgets:`, "
            "or save_dtype: bfloat16."
        )


def _remove_broken(state: Path) -> None:
    for path in state.glob("checkpoint-*"):
        if not (path / WHOLE).exists():
            shutil.rmtree(path)


def _newest(state: Path) -> Path | None:
    whole = [path for path in state.glob("checkpoint-*") if (path / WHOLE).exists()]
    return max(whole, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)
