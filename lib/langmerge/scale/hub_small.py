"""The bridge from the lab to 7B: the three findings with a model of half a billion parameters.

One base; CT with checkpoints at budgets; SFT; SFT from every CT checkpoint; merges of every CT
checkpoint with the SFT model, by the streaming engine; lm-eval on all of them; and for every
budget what the election discards. Each model is a folder that is found again, and each number a
row that is appended when it is there, so a run that was killed goes on with the same command.
"""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError

from langmerge import diagnosis, hub_rows, languages, paths
from langmerge.errors import LangmergeError, nearest, readable
from langmerge.files import read_yaml, sha256, write_text
from langmerge.hub_rows import Row
from langmerge.merging import hub, recipe, stream
from langmerge.merging import stream_diagnostics as streaming
from langmerge.profiles import Positive, Whole
from langmerge.provenance import provenance
from langmerge.scale import cost, evaluation, plan, settings, training
from langmerge.scale.settings import Instructions, Strict, Text

#: The settings that ship.
SETTINGS = "hub_small"
#: Methods whose election is diagnosed, and what `diagnosis.by` calls the metrics of rows.
_ELECTING = ("ties", "ties_sv")
_DIAGNOSED = {
    "sft_outvoted": "discarded_sft_share",
    "sft_outvoted_l2": "discarded_sft_share_l2",
    "norm_ratio": "norm_ratio",
    "cosine": "cosine",
}


class Merge(Strict):
    """One merge of a CT checkpoint with the SFT model, as a recipe writes it.

    parameters: of the merge; each: of both models alike (weight, density).
    """

    method: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    each: dict[str, Any] = Field(default_factory=dict)

    def setting(self) -> str:
        """What tells it from other merges by its method."""
        both = {**self.each, **self.parameters}
        return ", ".join(f"{name} {value}" for name, value in both.items())

    def recipe(self, base: str, ct: str, sft: str) -> recipe.Recipe:
        """The merge as a recipe; LangmergeError for a method or parameter that is not known."""
        models = [{"model": ct, "parameters": self.each}, {"model": sft, "parameters": self.each}]
        raw = {
            "merge_method": self.method,
            "models": models,
            "parameters": self.parameters,
            "out_dtype": "float32",
        }
        if recipe.METHODS[self.method].base if self.method in recipe.METHODS else False:
            raw["base_model"] = base
        return recipe.parse(raw, json.dumps(raw))


class Questions(Strict):
    """What the models are asked; see `evaluation.Asked`. tasks: else those of the language."""

    tasks: list[str] | None = None
    data: dict[str, str] = Field(default_factory=dict)
    folder: Path | None = None
    items: Positive | None = None
    batch_size: Positive = 8
    fewshot: Whole = 0


class HubSmall(Strict):
    """The whole study of one language. In texts, ``{fineweb2}`` is the language's configuration.

    ct, sft, ct_then_sft: settings of training (see `settings.Run`), without model, out and data.
    tokens_per_item: of one item with its prompt, which the plan's time of evaluation rests on.
    """

    model: str
    budgets: list[Positive] = Field(min_length=1)
    target: Text
    english: Text | None = None
    instructions: list[Instructions] = Field(min_length=1)
    ct: dict[str, Any] = Field(default_factory=dict)
    sft: dict[str, Any] = Field(default_factory=dict)
    ct_then_sft: dict[str, Any] = Field(default_factory=dict)
    merges: list[Merge] = Field(min_length=1)
    questions: Questions = Questions()
    seed: Whole = 0
    items_a_task: Positive = 900
    tokens_per_item: Positive = 1500
    keep_merges: bool = False


def read(source: str | Path) -> HubSmall:
    """The study's settings from a YAML file, or the shipped ones; LangmergeError names the key."""
    path = Path(source).expanduser()
    if not path.is_file():
        found = paths.find("training", str(source)) if path.name == str(source) else None
        if found is None:
            raise LangmergeError(
                f"hub-small settings {str(source)!r}: there is no such file; "
                f"{nearest(str(source), paths.names('training'))}"
            )
        path = found
    try:
        return HubSmall.model_validate(read_yaml(path))
    except ValidationError as error:
        raise LangmergeError(f"{path}: {readable(error).removeprefix(': ')}") from None


@dataclass(frozen=True)
class Model:
    """A model of the study: what it is, and where it lies."""

    role: str
    ct_tokens: int
    sft_tokens: int
    folder: Path


class Study:
    """The study of one language in a folder. Raises LangmergeError for what cannot be run."""

    def __init__(self, wanted: HubSmall, language: str, out: Path) -> None:
        self.wanted, self.language, self.out = wanted, language, out
        known = languages.load(language).hub
        self.asked = _asked(wanted.questions, language, known)
        self.tasks: dict[str, object] = {}
        self.ct = self._run("ct", wanted.ct, out / "ct", self._texts(known), wanted.model)
        self.sft = self._run("sft", wanted.sft, out / "sft", wanted.instructions, wanted.model)
        for merge in wanted.merges:
            merge.recipe(wanted.model, "ct", "sft")  # complains before the hours of training

    @property
    def rows(self) -> Path:
        """The file of rows."""
        return self.out / "rows.jsonl"

    def _texts(self, known: Mapping[str, object]) -> list[Text]:
        target = self.wanted.target
        if target.config and "{fineweb2}" in target.config:
            if "fineweb2" not in known:
                raise LangmergeError(
                    f"{self.language}: its file has no `fineweb2:` under `hub:`. Name the text in "
                    "settings of your own: `target:` with a dataset or files."
                )
            config = target.config.replace("{fineweb2}", str(known["fineweb2"]))
            target = target.model_copy(update={"config": config})
        return [target, *([self.wanted.english] if self.wanted.english else [])]

    def _run(
        self, kind: str, given: dict[str, Any], out: Path, data: list, model: str
    ) -> settings.Run:
        raw = {"seed": self.wanted.seed, **given, "model": model, "out": str(out)}
        raw["data"] = [one.model_dump(exclude_none=True) for one in data]
        if kind == "ct":
            raw |= {"tokens": max(self.wanted.budgets), "budgets": self.wanted.budgets}
        return settings.parse(kind, raw, "hub-small settings")

    def ct_models(self) -> list[Model]:
        """The CT checkpoints, by budget."""
        per_step = self.ct.tokens_per_step
        return [
            Model("ct", step * per_step, 0, path) for step, path in self.ct.checkpoints().items()
        ]

    def after(self, ct: Model) -> settings.Run:
        """The fine-tuning that starts from a CT checkpoint."""
        given = {**self.wanted.sft, **self.wanted.ct_then_sft}
        out = self.out / "ct_then_sft" / f"tokens-{ct.ct_tokens}"
        return self._run("sft", given, out, self.wanted.instructions, str(ct.folder))

    def sft_tokens(self, run: settings.Run) -> int:
        """Tokens of a fine-tuning."""
        return run.steps * run.tokens_per_step

    def models(self) -> int:
        """How many models are evaluated."""
        return 2 + len(self.ct.checkpoints()) * (2 + len(self.wanted.merges))


def run(study: Study, say: Callable[[str], None] = print) -> Path:
    """Compute what the study's folder lacks; the file of rows. say: called with what is done."""
    study.out.mkdir(parents=True, exist_ok=True)
    _check_same(study)
    study.tasks = evaluation.load_tasks(study.asked)  # complains before the hours of training
    base = hub.folder_of(study.wanted.model)
    _trained("CT", study.ct, say)
    sft = Model("sft", 0, study.sft_tokens(study.sft), _trained("SFT", study.sft, say))
    _evaluated(study, Model("base", 0, 0, base), say)
    _evaluated(study, sft, say)
    for ct in study.ct_models():
        _evaluated(study, ct, say)
        after = study.after(ct)
        folder = _trained(f"SFT after {ct.ct_tokens:,} CT tokens", after, say)
        tokens = study.sft_tokens(after)
        _evaluated(study, Model("ct_then_sft", ct.ct_tokens, tokens, folder), say)
        for merge in study.wanted.merges:
            _merged(study, merge, base, ct, sft, say)
        _diagnosed(study, base, ct, sft, say)
    return study.rows


def _trained(what: str, run: settings.Run, say: Callable[[str], None]) -> Path:
    """The model at the end of a run, trained where it is not there yet."""
    if not training.is_done(run):
        say(f"{what} on {run.data[0].name}: {run.steps:,} steps; its log is {run.out}/log.jsonl")
    is_ct = isinstance(run, settings.ContinualPretraining)
    (training.continual_pretrain if is_ct else training.finetune)(run)
    _free_memory()
    return run.final()


def _merged(
    study: Study, merge: Merge, base: Path, ct: Model, sft: Model, say: Callable[[str], None]
) -> None:
    name = hashlib.sha256(merge.setting().encode()).hexdigest()[:8]
    folder = study.out / "merges" / f"{merge.method}-{name}-{ct.ct_tokens}"
    model = Model("merge", ct.ct_tokens, sft.sft_tokens, folder)
    if not _missing(study, model, merge):
        return
    if not (folder / "README.md").is_file():  # what the engine writes last
        job = merge.recipe(str(base), str(ct.folder), str(sft.folder)).job()
        shutil.rmtree(folder, ignore_errors=True)
        stream.run(job, folder)
    _evaluated(study, model, say, merge)
    if not study.wanted.keep_merges:
        shutil.rmtree(folder)


def _evaluated(
    study: Study, model: Model, say: Callable[[str], None], merge: Merge | None = None
) -> None:
    """Ask a model the tasks that the rows lack, append them, and keep the answers to items."""
    missing = _missing(study, model, merge)
    if not missing:
        return
    weights = hash_of(model.folder)
    for score in evaluation.evaluate(model.folder, _only(study.asked, missing), study.tasks):
        found = {"value": score.value, "stderr": score.stderr, "n": score.n}
        row = _row(study, model, merge, score.task, score.metric, found) | {
            "chance": score.chance,
            "weights": weights,
            "dtype": "bfloat16" if torch.cuda.is_available() else "float32",
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
            "limit": study.asked.items,
        }
        items = study.out / "items" / f"{weights[:16]}-{score.task}.json"
        items.parent.mkdir(exist_ok=True)
        write_text(items, json.dumps(score.items))
        hub_rows.append(study.rows, [Row.model_validate(row)])
        say(f"{_told(model, merge)}: {score.task} {score.value:.3f} ± {score.stderr:.3f}")
    _free_memory()


def _diagnosed(study: Study, base: Path, ct: Model, sft: Model, say: Callable[[str], None]) -> None:
    """Append what each merge's election discards at this budget."""
    model = Model("merge", ct.ct_tokens, sft.sft_tokens, base)
    for merge in study.wanted.merges:
        there = {row.identity() for row in _rows(study)}
        row = _row(study, model, merge, "diagnosis", "sft_outvoted", {"value": 0.0, "n": 1})
        if merge.method not in _ELECTING or Row.model_validate(row).identity() in there:
            continue
        slack = float(merge.parameters.get("slack", 1.0 if merge.method == "ties_sv" else 0.0))
        params = {f"density_{one}": merge.each.get("density", 1.0) for one in ("ct", "sft")}
        params |= {f"w_{one}": merge.each.get("weight", 1.0) for one in ("ct", "sft")}
        found = streaming.diagnose(base, ct.folder, sft.folder, params, [slack])
        total = diagnosis.by(found).iloc[0]
        rows = []
        for metric, column in _DIAGNOSED.items():
            value = {"value": float(total[column]), "n": int(total["n"])}
            row = _row(study, model, merge, "diagnosis", metric, value)
            rows.append(Row.model_validate(row))
        hub_rows.append(study.rows, rows)
        say(f"{_told(model, merge)}: {rows[0].value:.1%} of SFT's entries out-voted")


def _row(
    study: Study,
    model: Model,
    merge: Merge | None,
    task: str,
    metric: str,
    found: Mapping[str, object],
) -> dict[str, object]:
    parts = {"ct": model.ct_tokens, "sft": model.sft_tokens}
    return {
        "schema": hub_rows.VERSION,
        "language": study.language,
        "model": study.wanted.model,
        "role": model.role,
        "method": merge.method if merge else "",
        "setting": merge.setting() if merge else "",
        "params": {**merge.each, **merge.parameters} if merge else {},
        "ct_tokens": parts["ct"],
        "sft_tokens": parts["sft"],
        "ct_data": "; ".join(one.name for one in study.ct.data) if parts["ct"] else "",
        "sft_data": "; ".join(one.name for one in study.sft.data) if parts["sft"] else "",
        "seed": study.wanted.seed,
        "task": task,
        "metric": metric,
        "provenance": provenance(),
        **found,
    }


def _missing(study: Study, model: Model, merge: Merge | None) -> list[str]:
    """The tasks that the rows do not have of a model."""
    what = (model.role, merge.method if merge else "", merge.setting() if merge else "")
    there = {
        (row.role, row.method, row.setting, row.ct_tokens, row.task)
        for row in _rows(study)
        if row.metric == "acc"
    }
    return [task for task in study.asked.tasks if (*what, model.ct_tokens, task) not in there]


def _rows(study: Study) -> list[Row]:
    if not study.rows.exists():
        return []
    hub_rows.append(study.rows, [])  # half a line that a kill left goes
    return hub_rows.read(study.rows)


def hash_of(folder: Path) -> str:
    """The SHA-256 of a model: of its weight files' hashes, by name."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
    parts = [f"{path.name} {sha256(path)}\n" for path in files]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _asked(questions: Questions, language: str, known: Mapping[str, object]) -> evaluation.Asked:
    tasks = questions.tasks or [*known.get("lm_eval", ()), *known.get("own_tasks", ())]
    own = paths.data() / "tasks"
    if not tasks:
        raise LangmergeError(
            f"{language}: lm-eval has no task for it that its file names. Name some in settings of "
            "your own, with a folder of task files: `questions: {tasks: [...], folder: ...}`."
        )
    for task in questions.data:
        if task not in tasks:
            raise LangmergeError(f"questions.data: {task!r} is not asked; {nearest(task, tasks)}")
    return evaluation.Asked(
        tuple(tasks),
        questions.data,
        questions.folder or (own if own.is_dir() else None),
        questions.items,
        questions.batch_size,
        questions.fewshot,
    )


def _only(asked: evaluation.Asked, tasks: list[str]) -> evaluation.Asked:
    return evaluation.Asked(**{**vars(asked), "tasks": tuple(tasks)})


def _told(model: Model, merge: Merge | None) -> str:
    what = f"{merge.method} ({merge.setting()})" if merge else model.role
    return f"{what} at {model.ct_tokens:,} CT tokens" if model.ct_tokens else what


def _check_same(study: Study) -> None:
    """Raise LangmergeError where the folder was begun with other settings or another language."""
    path = study.out / "study.json"
    now = {"language": study.language, **study.wanted.model_dump(mode="json")}
    for kind in ("ct", "sft", "ct_then_sft"):  # what changes no result may be changed
        now[kind] = {key: value for key, value in now[kind].items() if key not in training.FREE}
    if path.is_file():
        there = json.loads(path.read_text(encoding="utf-8"))
        free = ("questions", "merges", "keep_merges", "items_a_task", "tokens_per_item")
        other = sorted(key for key in now if key not in free and there.get(key) != now[key])
        if other:
            raise LangmergeError(
                f"{study.out}: a study with other settings was begun here ({', '.join(other)} "
                "differ). Choose another --out, or remove that folder."
            )
    write_text(path, json.dumps(now, indent=1, ensure_ascii=False) + "\n")


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def plan_lines(study: Study, means: plan.Means) -> Iterator[tuple[str, str]]:
    """What the study would take: models, tokens, memory, disk, hours and price."""
    shape = plan.shape(study.wanted.model)
    speed = means.speed(shape)
    budgets = [model.ct_tokens for model in study.ct_models()]
    after = study.after(study.ct_models()[0])
    ct, sft = study.ct.steps * study.ct.tokens_per_step, study.sft_tokens(study.sft)
    again = len(budgets) * study.sft_tokens(after)
    asked = (
        study.models() * len(study.asked.tasks) * (study.asked.items or study.wanted.items_a_task)
    )
    # Scoring is a forward pass alone: 2 of training's 6 N FLOPs a token.
    scoring = asked * study.wanted.tokens_per_item / 3
    size = 4.0 * shape.parameters
    merged = len(study.wanted.merges) * study.wanted.keep_merges
    # The base, SFT, all of each budget, a merge at a time, and the training states of a run.
    models = (3 + len(budgets) * (2 + merged)) * size + 3 * 12.0 * shape.parameters
    runs = (study.ct, study.sft, after)
    need = max(
        (
            cost.memory(shape, r.per_device_batch, r.sequence, 1, r.gradient_checkpointing)
            for r in runs
        ),
        key=lambda parts: parts["sum"],
    )
    yield "base", f"{study.wanted.model}, {shape.parameters:,} parameters"
    yield "CT", f"{ct:,} tokens, saved after {', '.join(f'{one:,}' for one in budgets)}"
    yield "SFT", f"{sft:,} tokens; from each of {len(budgets)} CT models {again:,} in all"
    yield "merges", f"{len(study.wanted.merges)} for each of {len(budgets)} budgets"
    items = f"{asked:,} items of about {study.wanted.tokens_per_item:,} tokens (assumed)"
    yield "evaluation", f"{study.models()} models, {', '.join(study.asked.tasks)}: {items}"
    yield "memory of the GPU", plan.fit(need, means)
    yield "disk", plan.gb(models + 4.0 * (ct + sft + again))
    yield "speed", f"{speed} on {means.gpu}"
    yield "time of training", means.paid(speed.seconds(ct + sft + again))
    yield "time of evaluation", means.paid(speed.seconds(scoring))
    yield "together", means.paid(speed.seconds(ct + sft + again + scoring))
