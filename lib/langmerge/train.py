"""Training through transformers.Trainer: base, continual pre-training and fine-tuning.

One thread per process, fixed order of data: a run is a pure function of its weights, data
and settings on one machine (a GPU aside: `langmerge.device`).
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset, SequentialSampler
from transformers import LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

from langmerge import device
from langmerge.model import StateDict, state

IGNORED = -100
Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """How to train: steps of `batch` sequences at a peak learning rate."""

    steps: int
    batch: int
    learning_rate: float
    schedule: str = "constant"  # any of transformers' schedulers: constant, cosine, linear
    warmup_steps: int = 0
    weight_decay: float = 0.0


class Rows(Dataset):
    """Token rows (n × length, uint16) as language-modelling examples, in their order."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.rows[index]


def collate_rows(rows: list[np.ndarray]) -> dict[str, torch.Tensor]:
    """A batch of language-modelling rows: every token is predicted."""
    ids = torch.from_numpy(np.stack(rows).astype(np.int64))
    return {"input_ids": ids, "labels": ids}


class Answers(Dataset):
    """Instruction examples as (prompt ids, answer ids); only the answer carries loss."""

    def __init__(self, examples: list[tuple[list[int], list[int]]]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[list[int], list[int]]:
        return self.examples[index]


def collate_answers(examples: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
    """A batch of instruction examples, padded on the right."""
    width = max(len(prompt) + len(answer) for prompt, answer in examples)
    ids = torch.zeros(len(examples), width, dtype=torch.int64)
    labels = torch.full_like(ids, IGNORED)
    for row, (prompt, answer) in enumerate(examples):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = torch.tensor(answer)
    return {"input_ids": ids, "labels": labels}


class Batches(Dataset):
    """Batches of any kind, ready made, one a step: two kinds of data in one run."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        return self.batches[index]


def collate_batches(batches: list[Batch]) -> Batch:
    """The one batch of a step."""
    (batch,) = batches
    return batch


_COLLATE = {Rows: collate_rows, Answers: collate_answers, Batches: collate_batches}


class _InOrder(Trainer):
    """A Trainer that takes the examples in the order given: the data are shuffled already."""

    def _get_train_sampler(self, *args: object, **kwargs: object) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def compute_loss(self, model: LlamaForCausalLM, inputs: Batch, **_: object) -> torch.Tensor:
        """Mean cross-entropy of the labelled tokens, as the model's own loss is.

        Only positions that predict a label go through the output matrix, and padding needs no
        mask where it stands on the right of a causal model: half the time of the stock loss.
        """
        labels = inputs["labels"][:, 1:]
        hidden = model.model(input_ids=inputs["input_ids"]).last_hidden_state[:, :-1]
        labelled = labels != IGNORED
        return cross_entropy(model.lm_head(hidden[labelled]), labels[labelled])


class _Keep(TrainerCallback):
    """Hands out the weights after the steps asked for."""

    def __init__(self, steps: set[int], keep: Callable[[int, StateDict], None]) -> None:
        self.steps, self.keep = steps, keep

    def on_step_end(self, args, state_, control, model=None, **kwargs) -> None:
        if state_.global_step in self.steps:
            self.keep(state_.global_step, state(model))


def fit(
    model: LlamaForCausalLM,
    data: Dataset,
    recipe: Recipe,
    keep_at: Callable[[int, StateDict], None] | None = None,
    steps: set[int] = frozenset(),
    progress: Callable[[int], None] | None = None,
    resume_folder: Path | None = None,
    save_steps: int = 500,
) -> LlamaForCausalLM:
    """Train a model in place and return it in evaluation mode.

    model, data, recipe: what is trained on what (`Rows`, `Answers`, or `Batches` with a recipe's
        batch of 1) and how.
    keep_at, steps: called with (step, weights) after each of these steps.
    progress: called with the step after every step.
    resume_folder: where full training state is saved every `save_steps` steps; a killed run
        goes on from there (optimizer, scheduler and position in the data included), and
        `keep_at` is then called for the steps that were still to come alone.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = resume_folder or Path(scratch)
        trainer = _InOrder(
            model=model,
            args=_arguments(recipe, folder, save_steps if resume_folder else None),
            train_dataset=data,
            data_collator=_COLLATE[type(data)],
        )
        trainer.callback_handler.callbacks = [
            callback
            for callback in trainer.callback_handler.callbacks
            if type(callback).__name__ not in {"PrinterCallback", "ProgressCallback"}
        ]
        if keep_at:
            trainer.add_callback(_Keep(set(steps), keep_at))
        if progress:
            trainer.add_callback(_Progress(progress))
        found = _last_checkpoint(resume_folder) if resume_folder else None
        trainer.train(resume_from_checkpoint=str(found) if found else None)
    return model.eval()


class _Progress(TrainerCallback):
    def __init__(self, report: Callable[[int], None]) -> None:
        self.report = report

    def on_step_end(self, args, state_, control, **kwargs) -> None:
        self.report(state_.global_step)


def _last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; one that a kill left half-written is removed."""
    whole = []
    for path in folder.glob("checkpoint-*"):
        if _is_whole(path):
            whole.append(path)
        else:
            shutil.rmtree(path)
    return max(whole, key=lambda path: int(path.name.removeprefix("checkpoint-")), default=None)


def _is_whole(checkpoint: Path) -> bool:
    """Whether the file that the Trainer writes last is there and complete."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return True


def _arguments(recipe: Recipe, folder: Path, save_steps: int | None) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        save_strategy="steps" if save_steps else "no",
        save_steps=save_steps or recipe.steps,
        save_total_limit=2,
        logging_strategy="no",
        report_to=[],
        use_cpu=device.chosen().type == "cpu",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        seed=0,
        data_seed=0,
    )
