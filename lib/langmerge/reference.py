"""The reference run: many languages, computed in slices, saved as it goes, and committed.

A *slice* is one language on one base with one run seed: its scores, its items' answers and what
its merges discard, in a folder of ``data/results/<profile>`` (of ``results`` in ``LANGMERGE_HOME``
where that is set). `run` computes the slices that are
not there; killed, it goes on with the next one. Readers load what is there (`load`) without
computing anything, and lay a run of their own beside it.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics as averages
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from langmerge import base as base_module
from langmerge import cluster, experts, families, paths, profiles, store, study
from langmerge.errors import LangmergeError
from langmerge.files import sha256, write_text
from langmerge.profiles import Profile
from langmerge.statistics import select
from langmerge.study import Results
from langmerge.tasks import name_of

PROFILE = "reference"
#: Languages that are computed together here: their long jobs share the cores.
TOGETHER = 4
#: With families a language takes long, and is saved sooner; while the CT of one trains, which is
#: one job, the other has work for the other cores.
TOGETHER_WITH_FAMILIES = 2
#: A margin is kept as a whole number of these, in nats, between -127 and 127 of them.
MARGIN_STEP = 1 / 16
_FRAMES = ("rows", "items", "diagnostics", "english")
#: The files of a slice; the few English rows stand among the others.
_FILES = ("rows", "items", "diagnostics")
#: What tells a model from the others of a run, its CT tokens aside.
_MODEL = ["method", "setting", "slack"]
_CELL = [*_MODEL, "ct_tokens"]
#: What every row of a slice has in common, and its folder says.
_COMMON = ("base", "language", "seed")
#: What readers of the items need, an item by its number; the rest follows from that and its task,
#: or from the rows.
_ITEMS = ("task", "item", "concept", "answer", "prediction", "margin", *_CELL)
#: They come round from model to model, which a dictionary's bits hide from the compression.
_PLAIN = ("item", "concept", "answer", "prediction")
#: What no verdict or figure reads of a tensor's diagnostics is left out, and `kept_sft`, which is n
#: without the other two. Lengths are kept as fp32, in seven digits.
_DIAGNOSTICS = (
    "parameter", "layer", "n", "trimmed_sft", "outvoted_sft", "norm_ct", "norm_sft", *_CELL,
)  # fmt: skip
_NORMS = ("norm_ct", "norm_sft")


@dataclass(frozen=True)
class Slice:
    """One language on one base with one run seed."""

    profile: str
    base: str
    language: str
    seed: int

    @property
    def folder(self) -> Path:
        """Where it is kept: the reader's own before the one that ships."""
        places = [place / self.within for place in paths.search("results")]
        there = (place for place in places if (place / "provenance.json").is_file())
        return next(there, paths.results() / self.within)

    @property
    def within(self) -> Path:
        """Its folder among the results."""
        return Path(self.profile, self.base, f"{self.language}-{self.seed}")

    def parts(self, plan: Profile) -> dict[str, object]:
        """Everything that it depends on, by name, in the order of its key."""
        return {
            "settings": families.identity(plan),
            "base": base_module.hash_of(self.base, self.language),
            "text": experts.fingerprint(self.language),
            "english text": experts.fingerprint("eng_Latn"),
            "stages": store.VERSIONS,
            "seed": self.seed,
        }

    def key(self, plan: Profile) -> str:
        """Everything that it depends on, as a hash: another key means that it is out of date."""
        return _hash(list(self.parts(plan).values()))

    def told(self) -> dict[str, object]:
        """What its provenance says; empty where it was not computed, or is not readable."""
        try:
            told = json.loads((self.folder / "provenance.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return told if isinstance(told, dict) else {}

    def is_done(self, plan: Profile) -> bool:
        """Whether it is there, with the settings, texts and base that there are now.

        Where the base that there is now has not met the language, it is not.
        """
        try:
            return self.told().get("key") == self.key(plan)
        except base_module.NotMet:
            return False

    def differs(self, plan: Profile) -> list[str]:
        """What it was computed from and is another now, with both hashes; empty where none is."""
        told = self.told()
        try:
            then, now = told.get("parts", {}), _short(self.parts(plan))
        except base_module.NotMet as error:
            return [str(error)]
        found = [f"{name} {then[name]}, now {now[name]}" for name in now if _other(then, now, name)]
        if "base" not in then and told.get("base") not in (None, [now["base"]]):
            found.append(f"base {', '.join(told['base'])}, now {now['base']}")
        if not found and told.get("key") != self.key(plan):
            found.append(f"key {told.get('key')}, now {self.key(plan)}")
        return found

    def require_whole(self) -> None:
        """Raise LangmergeError where a file is not the one that its provenance has the hash of."""
        hashes, where = self.told().get("sha256"), self.folder / "provenance.json"
        again = f"remove its folder and run `langmerge reference --profile {self.profile}`"
        if not isinstance(hashes, dict):
            raise LangmergeError(
                f"{where} has no hashes of its files, so nobody can tell whether they were edited. "
                "Where it was computed before hashes were kept: "
                f"`langmerge reference --profile {self.profile} --seal`."
            )
        files = [f"{name}.parquet" for name in _FILES]
        if set(hashes) != set(files):
            raise LangmergeError(
                f"{where} has the hashes of {', '.join(sorted(hashes)) or 'no file'}, and a slice "
                f"is {', '.join(files)}: another version of langmerge saved it, or it was edited. "
                f"Restore it with git, or {again}: what the store has is not computed again."
            )
        for name, expected in hashes.items():
            path = self.folder / name
            found = sha256(path) if path.is_file() else "missing"
            if found != expected:
                raise LangmergeError(
                    f"{path}: its SHA-256 is {found[:12]}, its provenance says "
                    f"{str(expected)[:12]}: it was edited, or is not whole. Restore it with git, "
                    f"or {again}."
                )


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:20]


def _short(parts: dict[str, object]) -> dict[str, object]:
    """The parts of a key as a provenance tells them: the settings as their hash."""
    return parts | {"settings": _hash(parts["settings"])}


def _other(then: dict[str, object], now: dict[str, object], name: str) -> bool:
    return name in then and then[name] != now[name]


def slices(plan: Profile) -> list[Slice]:
    """The slices of a profile: all languages with one base and seed before the next."""
    return [
        Slice(plan.name, base, language, seed)
        for seed in plan.seeds
        for base in plan.bases
        for language in plan.languages
    ]


def plan(profile: str = PROFILE) -> pd.DataFrame:
    """What `run` would do: a row a slice, with whether it is there and what it took or will take.

    Columns: base, seed, language, done, seconds (measured where it was computed and not found in
    the store, else the median of those; NaN before the first), measured, differs (why one that is
    there is not done).
    """
    how = profiles.load(profile)
    found = [(one, one.is_done(how)) for one in slices(how)]
    whole = [one for one, done in found if done and _is_whole(one.told())]
    took = [float(one.told()["seconds"]) for one in whole]
    guess = averages.median(took) if took else math.nan
    return pd.DataFrame(
        {
            "base": one.base,
            "seed": one.seed,
            "language": one.language,
            "done": done,
            "seconds": float(one.told()["seconds"]) if one in whole else guess,
            "measured": one in whole,
            "differs": "" if done or not one.told() else "; ".join(one.differs(how)),
        }
        for one, done in found
    )


def cost(profile: str = PROFILE) -> pd.DataFrame:
    """What a slice of a profile costs by block: the findings' own models, and each family.

    Columns: block, models, seconds (the median over the slices that were computed whole; NaN where
    none was), to_do (slices). What a slice found in the store cost it nothing and is not counted.
    """
    how = profiles.load(profile)
    found = [(one, one.is_done(how)) for one in slices(how)]
    told = [one.told() for one, done in found if done]
    rows = []
    for block in ("core", *families.of(how)):
        its = [it for it in told if block in _blocks(it)]
        whole = [_blocks(it)[block]["seconds"] for it in its if _is_whole(it, block)]
        models = [_blocks(it)[block]["models"] for it in its]
        rows.append(
            {
                "block": block,
                "models": averages.median(models) if its else math.nan,
                "seconds": averages.median(whole) if whole else math.nan,
                "to_do": sum(not done for _, done in found),
            }
        )
    return pd.DataFrame(rows)


def _is_whole(told: dict[str, object], *some: str) -> bool:
    """Whether the seconds of a slice, or of some of its blocks, are those of computing it alone.

    What it found in the store cost none, and what was computed on the same cores at the time is
    in its provenance ("beside").
    """
    blocks = _blocks(told)
    its = [blocks[name] for name in some or blocks]
    # Two models with the same weights are one evaluation: nearly all is whole.
    computed = sum(it["computed"] for it in its) >= 0.75 * sum(it["models"] for it in its)
    return computed and "beside" not in told


def _blocks(told: dict[str, object]) -> dict[str, dict[str, float]]:
    """The blocks of a slice; one that was saved before there were any is of the core alone."""
    models = told["models"]
    core = {"models": models, "computed": models, "seconds": told["seconds"]}
    return told.get("blocks", {"core": core})


def bases_to_train(profile: str = PROFILE) -> list[str]:
    """The bases of slices that are missing, of which there are no weights here."""
    how = profiles.load(profile)
    wanted = dict.fromkeys(one.base for one in slices(how) if not one.is_done(how))
    return [name for name in wanted if base_module.is_known_alone(name)]


def run(
    profile: str = PROFILE,
    processes: int | None = None,
    quiet: bool = False,
    limit: int | None = None,
) -> list[Slice]:
    """Compute and save the slices that are missing; those that were computed now.

    limit: at most so many slices, to spread a run over several evenings. Raises LangmergeError as
    `study.run`.
    """
    how = profiles.load(profile)
    missing = [one for one in slices(how) if not one.is_done(how)][:limit]
    blocks: dict[tuple[str, int], list[Slice]] = {}
    for one in missing:
        blocks.setdefault((one.base, one.seed), []).append(one)
    for (base, seed), block in blocks.items():
        if how.families:
            together = TOGETHER_WITH_FAMILIES
        else:
            together = TOGETHER if processes or not cluster.address() else len(block)
        for start in range(0, len(block), together):
            some = block[start : start + together]
            started = time.monotonic()
            results = study.run(
                language=[one.language for one in some],
                profile=profile,
                seeds=[seed],
                bases=[base],
                processes=processes,
                quiet=quiet,
            )
            seconds = (time.monotonic() - started) / len(some)
            for one in some:
                save(one, results, how, seconds)
    return missing


def save(one: Slice, results: Results, how: Profile, seconds: float) -> None:
    """Write a slice; its provenance comes last, so that one cut off is not taken for whole."""
    folder = paths.results() / one.within
    folder.mkdir(parents=True, exist_ok=True)
    before = one.told()
    (folder / "provenance.json").unlink(missing_ok=True)
    its = {name: getattr(results, name) for name in _FRAMES}
    its |= {name: its[name][its[name]["language"] == one.language] for name in _FILES}
    for name, frame in _packed(**its).items():
        _write(frame, folder / f"{name}.parquet")
    told = {
        **results.provenance,
        "base": sorted(set(results.rows["base"])),
        "key": one.key(how),
        "seconds": round(seconds, 1),
        "models": int(results.rows["cell"].nunique() / len(results.languages)),
        "blocks": {
            block: {what: round(value / len(results.languages), 1) for what, value in its.items()}
            for block, its in results.blocks.items()
        },
    }
    _tell(folder, _timed(told, before) | _sealed(one, how, folder))


def _timed(told: dict[str, object], before: dict[str, object]) -> dict[str, object]:
    """A slice's provenance with what its blocks took when they were last computed whole.

    What is added to a profile finds the rest in the store, where it costs nothing. before: the
    provenance of the same slice until now; a block of another number of models is another block,
    and another processor takes another time.
    """
    machine = ("cpu", "cores")
    if not before or "beside" in before or any(told.get(it) != before.get(it) for it in machine):
        return told
    then, now = _blocks(before), _blocks(told)
    kept = {
        name: then[name]
        for name, its in now.items()
        if name in then
        and then[name]["models"] == its["models"]
        and _is_whole(before, name)
        and not _is_whole(told, name)
    }
    if not kept:
        return told
    blocks = now | kept
    seconds = round(sum(its["seconds"] for its in blocks.values()), 1)
    return told | {"blocks": blocks, "seconds": seconds}


def _sealed(one: Slice, how: Profile, folder: Path) -> dict[str, object]:
    """What tells an edited file, and what the key was made of."""
    hashes = {f"{name}.parquet": sha256(folder / f"{name}.parquet") for name in _FILES}
    return {"parts": _short(one.parts(how)), "sha256": hashes}


def _tell(folder: Path, told: dict[str, object]) -> None:
    write_text(folder / "provenance.json", json.dumps(told, indent=1) + "\n")


def seal(profile: str = PROFILE) -> list[Slice]:
    """Write the hashes of their files into the slices that were computed before these were kept.

    Those whose key is the present one; what has hashes is left alone. Returns the slices that
    were sealed.
    """
    how = profiles.load(profile)
    bare = [one for one in slices(how) if one.is_done(how) and "sha256" not in one.told()]
    for one in bare:
        _tell(one.folder, one.told() | _sealed(one, how, one.folder))
    return bare


def _packed(
    rows: pd.DataFrame, items: pd.DataFrame, diagnostics: pd.DataFrame, english: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """A slice's files, without what its folder or another column says, as small as they go."""
    steps = (items["margin"] / MARGIN_STEP).round().clip(-127, 127)
    numbers = items[["answer", "prediction"]].astype("int8")
    scores = {False: rows, True: english}
    scores = {
        which: its.assign(stderr=its["stderr"].where(its["stderr"] != _stderr(its)))
        for which, its in scores.items()
    }
    frames = {
        "rows": pd.concat([its.assign(english=which) for which, its in scores.items()]),
        "items": items.assign(margin=steps.astype("int8"), item=_number_of(items), **numbers)[
            list(_ITEMS)
        ],
        "diagnostics": diagnostics[list(_DIAGNOSTICS)].astype(dict.fromkeys(_NORMS, "float32")),
    }
    return {name: it.drop(columns=[*_COMMON], errors="ignore") for name, it in frames.items()}


def load(profile: str = PROFILE) -> Results | None:
    """The slices that are there as one run's results; None where there are none.

    As long as a seed or a base is not complete it is left out, so that every language has the
    same ones; as long as none is, the languages of the first that are there. Slices of other
    settings, texts or stage versions, or of another base, than there are now count as missing
    (`Slice.differs` says why). Raises LangmergeError where a file is not the one that its
    provenance has the hash of.
    """
    how = profiles.load(profile)
    done = [one for one in slices(how) if one.is_done(how)]
    if not done:
        return None
    by_run: dict[tuple[str, int], list[Slice]] = {}
    for one in done:
        by_run.setdefault((one.base, one.seed), []).append(one)
    whole = {run: its for run, its in by_run.items() if len(its) == len(how.languages)}
    kept = whole or dict([next(iter(by_run.items()))])
    chosen = [one for its in kept.values() for one in its]
    languages = [code for code in how.languages if any(one.language == code for one in chosen)]
    frames = _frames(tuple(chosen), tuple(map(_stamp, chosen)))
    seeds = list(dict.fromkeys(seed for _, seed in kept))
    bases = list(dict.fromkeys(base for base, _ in kept))
    return Results(
        **frames,
        cells=[],
        plan=profiles.load(profile, languages=languages, seeds=seeds, bases=bases),
        provenance=chosen[0].told(),
    )


def _stamp(one: Slice) -> tuple[tuple[str, int, int], ...]:
    """What changes where a file of a slice does."""
    found = [(path, path.stat()) for path in sorted(one.folder.iterdir())]
    return tuple((str(path), told.st_mtime_ns, told.st_size) for path, told in found)


@lru_cache(maxsize=16)
def _frames(chosen: tuple[Slice, ...], stamps: tuple[object, ...]) -> dict[str, pd.DataFrame]:
    """The frames of several slices as one each; a book asks for the same ones many times.

    stamps: of the slices' files, whose change makes it read them anew. The items are a million
    rows and more, so their words are kept as categories: choosing rows then compares numbers.
    """
    for one in chosen:
        one.require_whole()
    frames = {name: pd.concat([read(one, name) for one in chosen]) for name in _FRAMES}
    items = frames["items"]
    words = items.columns[[not pd.api.types.is_numeric_dtype(kind) for kind in items.dtypes]]
    frames["items"] = items.astype(dict.fromkeys(words, "category"))
    frames["english"] = frames["english"].drop_duplicates(["base", "seed", "task"])
    return {name: frame.reset_index(drop=True) for name, frame in frames.items()}


def _write(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame as parquet, bare: the schemas that pandas and Arrow add are a third of it."""
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=19,  # written once, and kept
        use_dictionary=[column for column in frame if column not in _PLAIN],
        data_page_size=2**26,  # one page a column
        store_schema=False,
        write_statistics=False,
    )


def read(one: Slice, name: str) -> pd.DataFrame:
    """One of a slice's frames, with the columns that its folder or another column says.

    name: rows, items, diagnostics or english. Raises LangmergeError where it is not readable.
    """
    found = _whole(name, one)
    base = base_module.hash_of(one.base, one.language)
    return found.assign(base=base, language=one.language, seed=one.seed)


def _whole(name: str, one: Slice) -> pd.DataFrame:
    """A frame as `_packed` had it, without what the folder says."""
    if name in ("rows", "english"):
        found = _read(one.folder / "rows.parquet")
        found["stderr"] = found["stderr"].fillna(_stderr(found))
        return found[found.pop("english") == (name == "english")].reset_index(drop=True)
    found = _read(one.folder / f"{name}.parquet")
    if name == "items":
        cells = _whole("rows", one)[[*_CELL, "cell"]].drop_duplicates()
        found = found.merge(cells, how="left", on=_CELL)
        margin = found["margin"].astype(np.float32) * MARGIN_STEP
        correct = found["prediction"] == found["answer"]
        return found.assign(item=_named(found), margin=margin, correct=correct)
    found = found.astype(dict.fromkeys(_NORMS, "float64"))
    return found.assign(kept_sft=found["n"] - found["trimmed_sft"] - found["outvoted_sft"])


def _number_of(items: pd.DataFrame) -> pd.Series:
    """An item's number, which its name is with its task (``thing-0012``)."""
    return items["item"].str.rsplit("-", n=1).str[1].astype("int16")


def _named(items: pd.DataFrame) -> pd.Series:
    """The items' names, from their tasks and numbers."""
    numbers = items["item"].to_numpy()
    codes, tasks = pd.factorize(items["task"])
    width = int(numbers.max(initial=0)) + 1
    names = [name_of(task, number) for task in tasks for number in range(width)]
    named = np.array(names, dtype=object)[codes * width + numbers]
    return pd.Series(named, index=items.index, dtype=object)


def _stderr(rows: pd.DataFrame) -> pd.Series:
    """The standard error of an accuracy, as evaluations keep it; NaN for text."""
    n = rows["n"].where(rows["metric"] == "accuracy")
    share = (rows["value"] * n).round() / n
    return np.sqrt(share * (1 - share) / n).round(15)


def _read(path: Path) -> pd.DataFrame:
    """A parquet file, its words as objects."""
    try:
        found = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise LangmergeError(
            f"{path}: it is not readable ({error}). Restore it with git, or remove its folder and "
            "run `langmerge reference`."
        ) from None
    texts = [column for column in found if not pd.api.types.is_numeric_dtype(found[column])]
    return found.astype(dict.fromkeys(texts, object))


def not_computed(profile: str) -> str:
    """What a page says in place of a run that is not there."""
    return (
        f"The run `{profile}` has not been computed with the present bases and settings, so "
        f"nothing is shown: `langmerge reference --profile {profile}` computes it.\n"
    )


def like(many: Results, few: Results) -> Results:
    """Of a run, the languages, run seeds and CT budgets of another."""

    def kept(frame: pd.DataFrame) -> pd.DataFrame:
        return select(
            frame, language=few.languages, seed=few.seeds, ct_tokens=[0, *few.budgets]
        ).reset_index(drop=True)

    plan = few.plan.model_copy(update={"name": many.plan.name, "bases": many.plan.bases})
    frames = {name: kept(getattr(many, name)) for name in ("rows", "items", "diagnostics")}
    english = select(many.english, seed=few.seeds)
    return replace(many, **frames, english=english, plan=plan)


def in_languages(run: Results, codes: Sequence[str]) -> Results:
    """A run in some of its languages alone."""
    few = run.plan.model_copy(update={"languages": list(codes)})
    return like(run, replace(run, plan=few))


def on_tasks(run: Results, tasks: Sequence[str]) -> Results:
    """A run that reports some of its tasks alone."""
    return replace(run, plan=run.plan.model_copy(update={"tasks": list(tasks)}))


def joined(first: Results, more: Results) -> Results:
    """Two runs of the same languages, seeds and budgets on other bases as one run of all bases.

    Of the first the models that the second has too. Raises LangmergeError where the runs differ
    in languages, seeds or budgets (`like` makes them alike), or share a base.
    """
    for what in ("languages", "seeds", "budgets"):
        ours, theirs = getattr(first, what), getattr(more, what)
        if list(ours) != list(theirs):
            raise LangmergeError(f"runs of other {what} are no run together: {ours} and {theirs}.")
    if shared := set(first.rows["base"]) & set(more.rows["base"]):
        raise LangmergeError(f"both runs have the base {', '.join(sorted(shared))}.")
    models = more.rows[_MODEL].drop_duplicates()

    def both(name: str) -> pd.DataFrame:
        ours = getattr(first, name)
        return _below(ours if name == "english" else _of(ours, models), getattr(more, name))

    plan = more.plan.model_copy(update={"bases": [*first.plan.bases, *more.plan.bases]})
    return replace(more, **{name: both(name) for name in _FRAMES}, plan=plan)


def _of(frame: pd.DataFrame, models: pd.DataFrame) -> pd.DataFrame:
    """The rows of some models. To merge a million rows of items would make words of categories."""
    kinds = frame[_MODEL].drop_duplicates()
    wanted = kinds.astype({"method": object, "setting": object}).merge(
        models.assign(wanted=True), on=_MODEL, how="left"
    )["wanted"]
    which = frame.groupby(_MODEL, dropna=False, observed=True, sort=False).ngroup()
    return frame[wanted.notna().to_numpy()[which]]


def _below(ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """Two frames, one below the other; words that are categories in both stay categories."""
    parts = [ours, theirs]
    for column in ours.columns[ours.dtypes == "category"]:
        if isinstance(theirs[column].dtype, pd.CategoricalDtype):
            known = pd.unique(np.concatenate([it[column].cat.categories for it in parts]))
            parts = [it.assign(**{column: it[column].cat.set_categories(known)}) for it in parts]
    return pd.concat(parts, ignore_index=True)
