"""The stages of `langmerge paper`: fetch, diagnose, merge, evaluate, row by row and resumable.

Only one merged model is on the disk at a time: it is evaluated, its rows are appended, and it is
removed. What is finished is found again by its key; a merge or download that was killed goes on.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pandas as pd
import tokenizers
import torch

from langmerge import diagnosis, files, hub_fetch, hub_rows, plotting
from langmerge.checkpoints import Checkpoint
from langmerge.errors import LangmergeError, nearest
from langmerge.hub_fetch import Repository
from langmerge.hub_languages import task_set
from langmerge.merging import shards, stream, stream_diagnostics
from langmerge.merging.job import Job
from langmerge.merging.recipe import DTYPES
from langmerge.paper import ROLES, Chosen, Model, Pinned, as_recipe, key_of, pin, write_pins
from langmerge.paper_eval import (
    Evaluation,
    Judge,
    data_bytes,
    default_device,
    default_dtype,
)
from langmerge.paper_results import diagnosis_file, items_file
from langmerge.provenance import provenance

Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Setting:
    """How models are evaluated. limit: items a task; None for all of them."""

    dtype: str
    device: str
    batch_size: int = 8
    limit: int | None = None

    @property
    def key(self) -> dict[str, object]:
        """What a result depends on: not the device, nor how many items go together."""
        return {"dtype": self.dtype, "limit": self.limit}


def setting(
    device: str | None = None,
    dtype: str | None = None,
    batch_size: int = 8,
    limit: int | None = None,
) -> Setting:
    """A setting with what is not given chosen for this machine.

    Raises LangmergeError for a device or type that is not there.
    """
    device = device or default_device()
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise LangmergeError(f"device {device!r}: {str(error).splitlines()[0]}") from None
    dtype = dtype or default_dtype(device)
    if dtype not in DTYPES:
        raise LangmergeError(f"dtype {dtype!r}: {nearest(dtype, DTYPES)}")
    return Setting(dtype, device, batch_size, limit)


@dataclasses.dataclass(frozen=True)
class Options:
    """How a run goes about it. keep: leave the merged models on the disk."""

    threads: int = 1
    keep: bool = False
    repin: bool = False


def run(
    chosen: Chosen, setting: Setting, options: Options | None = None, tell: Tell = print
) -> tuple[pd.DataFrame, Pinned]:
    """Do what is not done of a triple in a language; the rows of all of it, and its commits.

    Raises LangmergeError, naming what to mend, for everything that the hub refuses, a disk that is
    too small, experts whose tokenizers differ, and data that lacks what a task needs; what was
    finished before stays, and the same command goes on from there.
    """
    options = options or Options()
    pinned = pin(chosen, options.repin)
    hub_fetch.check_access(pinned.all)
    check_space(chosen, pinned)
    write_pins(chosen, pinned)
    judge = Judge(chosen.tasks, pinned.datasets)
    check_tokenizers(pinned)
    folders = {}
    for role, repository in pinned.models.items():
        missing = sum(file.size for file in repository.missing().values())
        state = f"{hub_fetch.gigabytes(missing)} to fetch" if missing else "here"
        tell(f"{role}: {repository.name} at {repository.commit[:12]}, {state}")
        folders[role] = hub_fetch.fetch(repository)
    diagnose(chosen, pinned, folders, options.threads, tell)
    stages = _Stages(chosen, pinned, folders, setting, options, judge, tell)
    for model in chosen.models:
        stages.evaluate(model)
    return stages.rows(), pinned


def check_space(chosen: Chosen, pinned: Pinned) -> None:
    """Raise LangmergeError where the disk will not hold what is fetched and one merged model."""
    fetched = sum(f.size for one in pinned.models.values() for f in one.missing().values())
    fetched += sum(data_bytes(pinned.datasets[its.dataset], its, code)
                   for its, code in map(task_set, chosen.tasks))  # fmt: skip
    merged = merged_bytes(chosen)
    cache, home = hub_fetch.cache_folder(), chosen.folder
    if _same_disk(cache, home):
        hub_fetch.check_disk(
            fetched + merged, cache, "what is to be fetched, with one merged model,"
        )
        return
    hub_fetch.check_disk(fetched, cache, "what is to be fetched")
    hub_fetch.check_disk(merged, home, "one merged model")


def merged_bytes(chosen: Chosen) -> int:
    """What one merged model weighs."""
    return chosen.triple.parameters * DTYPES[chosen.study.out_dtype].itemsize


def check_tokenizers(pinned: Pinned) -> None:
    """Raise LangmergeError where the experts' tokenizers are not that of the base.

    The same row of the embeddings would mean different tokens. A model without a tokenizer.json
    says nothing and is taken to have the base's. No weights are fetched for this.
    """
    base = vocabulary(pinned.models["base"])
    for role in ("ct", "sft"):
        its = vocabulary(pinned.models[role])
        if base is None or its is None or its == base:
            continue
        odd = sorted(set(base.items()) ^ set(its.items()), key=lambda pair: (pair[1], pair[0]))
        names = (pinned.models[role].name, pinned.models["base"].name)
        raise LangmergeError(
            f"{names[0]} has another tokenizer than {names[1]}: {len(its)} and {len(base)} "
            f"tokens, and {odd[0][0]!r} is the first that differs. Only models with one vocabulary "
            "can be merged: bring them to the base's first."
        )


def vocabulary(repository: Repository) -> dict[str, int] | None:
    """Token to number of a model's tokenizer.json; None where it has none."""
    path = hub_fetch.one_file(repository, "tokenizer.json")
    if path is None:
        return None
    try:
        return tokenizers.Tokenizer.from_file(str(path)).get_vocab()
    except Exception as error:  # tokenizers raises nothing narrower
        raise LangmergeError(
            f"{repository.name}: tokenizer.json is no tokenizer ({error}). Remove {path} to fetch "
            "it again."
        ) from None


def diagnose(
    chosen: Chosen, pinned: Pinned, folders: Mapping[str, Path], threads: int, tell: Tell
) -> None:
    """What TIES would throw away, by slack: numbers beside the rows, and a figure, once."""
    slacks = sorted({0.0, *(m.slack for m in chosen.models if m.slack is not None)})
    about = {"commits": pinned.commits(), "slacks": [f"{slack:g}" for slack in slacks]}
    path = diagnosis_file(chosen.results)
    if path.is_file() and json.loads(path.read_text(encoding="utf-8"))["about"] == about:
        return
    tell("Diagnosing: what TIES throws away")
    params = _densities(chosen)
    triple = (folders[role] for role in ROLES)
    found = stream_diagnostics.diagnose(*triple, params, slacks, threads=threads)
    plotting.save(diagnosis.figure(found), chosen.folder / "diagnosis")
    content = diagnosis.as_json(found, {"about": about, **params, "variant": "weighted"})
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _densities(chosen: Chosen) -> dict[str, float]:
    """How much trim keeps in this study's TIES."""
    ties = next((model.params for model in chosen.models if model.slack is not None), {})
    density = float(ties.get("density", 1.0))
    return {"density_ct": density, "density_sft": density}


class _Stages:
    """One run: its folders, its setting and its rows."""

    def __init__(
        self,
        chosen: Chosen,
        pinned: Pinned,
        folders: Mapping[str, Path],
        setting: Setting,
        options: Options,
        judge: Judge,
        tell: Tell,
    ) -> None:
        self.chosen, self.pinned, self.folders = chosen, pinned, folders
        self.setting, self.options, self.judge, self.tell = setting, options, judge, tell
        self.made = provenance()
        self.keys = {model.title: self._key(model) for model in chosen.models}

    def rows(self) -> pd.DataFrame:
        """The rows of this very run: its commits and its setting."""
        found = hub_rows.frame(self.chosen.results)
        return found[found["key"].isin(set(self.keys.values()))].reset_index(drop=True)

    def evaluate(self, model: Model) -> None:
        """Evaluate one model on the tasks that it lacks."""
        key = self.keys[model.title]
        done = hub_rows.frame(self.chosen.results).query("key == @key")["task"]
        tasks = [task for task in self.chosen.tasks if task not in set(done)]
        if not tasks:
            return
        if model.role != "merge":
            folder, weights = self.folders[model.role], self._hashes(model.role)
        else:
            folder, weights = self._merge(model, key)
        self.tell(f"Evaluating {model.title}: {', '.join(tasks)}")
        for found in self.judge.each(folder, tasks, **dataclasses.asdict(self.setting)):
            self._keep_items(key, found)
            row = hub_rows.made(self._row(model, key, weights, found))
            hub_rows.append(self.chosen.results, [row])
        if model.role == "merge" and not self.options.keep:
            shutil.rmtree(folder)

    def _key(self, model: Model) -> str:
        return key_of(self.chosen, model, self.pinned, **self.setting.key)

    def _hashes(self, role: str) -> str:
        """SHA-256 of a part's weight files, as the hub states them and `fetch` compared them."""
        stated = {
            name: file.sha256
            for name, file in sorted(self.pinned.models[role].wanted().items())
            if name.endswith((".safetensors", ".bin"))
        }
        return json.dumps(stated)

    def _merge(self, model: Model, key: str) -> tuple[Path, str]:
        """The merged model's folder and the hash of its tensors; finished ones are not repeated."""
        out = self.chosen.folder / "merged" / key
        note = out / "langmerge.json"
        if note.is_file():
            return out, json.loads(note.read_text(encoding="utf-8"))["xxh3"]
        begun = (out / shards.JOURNAL).exists()
        if out.exists() and not begun:
            shutil.rmtree(out)  # killed before its first tensor, or after the last
        self.tell(f"{'Going on with' if begun else 'Merging'} {model.title}")
        report = stream.run(self._job(model), out, resume=begun, threads=self.options.threads)
        files.write_text(note, json.dumps({"xxh3": report.digest}) + "\n")
        return out, report.digest

    def _job(self, model: Model) -> Job:
        names = {role: f"{one.name}@{one.commit}" for role, one in self.pinned.models.items()}
        written = as_recipe(model, names, self.chosen.study.out_dtype)
        base = self.folders["base"] if written.row.base else None
        return Job(
            method=model.method,
            base=base,
            models=(self.folders["ct"], self.folders["sft"]),
            settings=written.settings(_layers(self.folders["base"])),
            out_dtype=DTYPES[self.chosen.study.out_dtype],
            recipe_text=written._text,
            names=tuple(written.references_and_base()),
            tokenizer=self.folders["base"],
        )

    def _keep_items(self, key: str, found: Evaluation) -> None:
        """Every item's outcome, beside the rows: differences between models are paired on them."""
        path = items_file(self.chosen.results, key, found.task)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, found.items.to_json(orient="records", lines=True))

    def _row(self, model: Model, key: str, weights: str, found: Evaluation) -> dict[str, object]:
        is_merge = model.role == "merge"
        base = self.pinned.models["base"]
        params = {name: _jsonable(value) for name, value in model.params.items()}
        return {
            "schema": hub_rows.VERSION,
            "key": key,
            "triple": self.chosen.triple_name,
            "language": self.chosen.language.code,
            "model": f"{base.name}@{base.commit}",
            "role": model.role,
            "method": model.method,
            "setting": model.setting,
            "params": params,
            "variant": "weighted" if model.slack is not None else "",
            **self._trained(model),
            "seed": None,
            "task": found.task,
            "metric": found.metric,
            "value": found.value,
            "stderr": found.stderr,
            "others": dict(found.others),
            "n": len(found.items),
            "chance": found.chance,
            "limit": self.setting.limit,
            "repositories": self._commits(model, found.task),
            "weights": weights,
            "merge_dtype": self.chosen.study.out_dtype if is_merge else None,
            "dtype": self.setting.dtype,
            "device": self.setting.device,
            "seconds": round(found.seconds, 3),
            "tokens": found.tokens,
            "provenance": self.made,
        }

    def _trained(self, model: Model) -> dict[str, object]:
        """Tokens are those that the checkpoints' authors state, and they state none."""
        has_ct, has_sft = (model.role in (part, "merge") for part in ("ct", "sft"))
        return {
            "ct_tokens": None if has_ct else 0,
            "sft_tokens": None if has_sft else 0,
            "ct_data": (self.chosen.language.hub.ct_text or "") if has_ct else "",
        }

    def _commits(self, model: Model, task: str) -> dict[str, str]:
        roles: Iterable[str] = ROLES if model.role == "merge" else (model.role,)
        models = {role: self.pinned.models[role] for role in roles}
        dataset = self.pinned.datasets[task_set(task)[0].dataset]
        return {
            role: f"{one.name}@{one.commit}" for role, one in {**models, "data": dataset}.items()
        }


def _layers(folder: Path) -> int:
    layers = Checkpoint(folder).config.get("num_hidden_layers")
    if not isinstance(layers, int):
        raise LangmergeError(f"{folder}/config.json: it has to say num_hidden_layers.")
    return layers


def _jsonable(value: object) -> object:
    return "inf" if isinstance(value, float) and math.isinf(value) else value


def _same_disk(one: Path, other: Path) -> bool:
    places = [
        next(p for p in (path, *path.absolute().parents) if p.exists()) for path in (one, other)
    ]
    return places[0].stat().st_dev == places[1].stat().st_dev
