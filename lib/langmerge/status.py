"""Where the pages of a build come from: every notebook run, and the reference runs, as Markdown.

Nothing here is of the moment of rendering: all of it was kept when a notebook was executed or a
slice was computed, so that a build with nothing changed gives the same page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from langmerge import execution, hub_languages, languages, profiles, reference, verify
from langmerge.errors import LangmergeError
from langmerge.execution import Job
from langmerge.files import sha256
from langmerge.provenance import PACKAGES, version_of
from langmerge.statistics import Results

#: The reference runs that a build may show.
PROFILES = (
    "reference",
    "reference-full",
    "reference-baselines",
    "reference-trained",
    "reference-repeated",
    "reference-faster",
    "reference-seeds",
    "reference-three-bases",
    "reference-five-bases",
    "reference-replay",
    "reference-faster-bases",
    "reference-traces",
    "reference-faster-traces",
    "reference-large",
    "reference-larger",
)
#: Digits of a hash that a table has.
DIGITS = 12
NOT_KEPT = "not kept"


def page(
    jobs: Sequence[Job], results: Mapping[str, Results], folder: Path, packages: Sequence[str]
) -> str:
    """The page's generated part.

    jobs: the executed notebooks, installed in `folder`. results: the book's own runs by language.
    packages: those that render the pages.
    """
    parts = [_notebooks(jobs, results, folder), _surroundings(jobs), _rendered(packages)]
    parts += [_reference()]
    return "\n".join(line for part in parts for line in part) + "\n"


def title(source: Path) -> str:
    """A notebook's title: its first heading, or its file's name where it has none."""
    cells = json.loads(source.read_text(encoding="utf-8"))["cells"]
    texts = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    headings = (found[1] for text in texts if (found := re.search(r"^# (.+)$", text, re.M)))
    return next(headings, source.stem)


def _notebooks(jobs: Sequence[Job], results: Mapping[str, Results], folder: Path) -> Iterator[str]:
    yield "## The notebooks of this build"
    yield ""
    yield from _head("Notebook", "Language", "Profile", "Seeds", "Executed (UTC)", "Seconds")
    for job in jobs:
        found, told = results.get(job.language), job.told
        yield _row(
            title(job.source),
            _whose(job),
            f"`{found.profile if found else job.parameters['profile']}`",
            ", ".join(map(str, found.seeds)) if found else "none",
            _minute(told.get("time")),
            f"{told['seconds']:g}" if "seconds" in told else NOT_KEPT,
        )
    yield ""
    yield from _head("Notebook", "Its file", "Its inputs", "Its base")
    for job in jobs:
        made = folder / job.language / job.source.name
        found = results.get(job.language)
        bases = ", ".join(sorted(set(found.rows["base"]))) if found else "released weights"
        hashes = (sha256(made)[:DIGITS], job.key[:DIGITS], bases)
        yield _row(f"{title(job.source)} (`{job.language}`)", *hashes)
    yield ""


def _whose(job: Job) -> str:
    """The language of a notebook; of released checkpoints, which the lab may not have, as well."""
    code = job.parameters.get("language", job.language)
    known = hub_languages if code in hub_languages.hub_only() else languages
    return f"{known.load(code).name} (`{job.language}`)"


def _surroundings(jobs: Sequence[Job]) -> Iterator[str]:
    """A row for every state of code, versions and machine that notebooks were executed in."""
    yield "## What they were executed with"
    yield ""
    states: dict[tuple[str, ...], list[str]] = {}
    for job in jobs:
        name = f"{job.source.stem} ({job.language})"
        states.setdefault(_state(job.told), []).append(name)
    yield from _head("Notebooks", "Code", "Versions", "Machine")
    for state, names in states.items():
        whose = "all" if len(states) == 1 else ", ".join(names)
        yield _row(whose, *state)
    yield ""


def _state(told: Mapping[str, Any]) -> tuple[str, ...]:
    if not told:
        return NOT_KEPT, NOT_KEPT, NOT_KEPT
    commit = f", commit {told['commit'][:DIGITS]}" if told["commit"] else ""
    changed = " with uncommitted changes" if told["dirty"] else ""
    return f"langmerge {told['langmerge']}{commit}{changed}", _versions(told), _machine(told)


def _machine(told: Mapping[str, Any]) -> str:
    cpu = told.get("cpu") or f"type of processor {NOT_KEPT}"
    gpu = told.get("lab_device", "cpu")
    on = "" if gpu == "cpu" else f", trained on {gpu}"
    return f"{told['platform']} {told['machine']}, {told['cores']} cores, {cpu}{on}"


def _rendered(packages: Sequence[str]) -> Iterator[str]:
    versions = ", ".join(f"{package} {version_of(package)}" for package in packages)
    yield f"The pages were rendered with {versions}."
    yield ""


def _reference() -> Iterator[str]:
    yield "## The reference runs"
    yield ""
    found = {name: _slices(name) for name in PROFILES}
    runs = {f"`{name}`": _run(name, *its) for name, its in found.items()}
    for whats in _TABLES:
        yield from _head("Run", *whats)
        for name, told in runs.items():
            yield _row(name, *(told[what] for what in whats))
        yield ""
    states: dict[tuple[str, ...], list[str]] = {}
    for name, (done, *_) in found.items():
        for state in dict.fromkeys((_versions(it), _machine(it)) for it in _told(done)):
            states.setdefault(state, []).append(f"`{name}`")
    yield from _head("Runs, or slices of them", "Versions", "Machine")
    for state, names in states.items():
        yield _row(", ".join(names), *state)
    yield ""
    yield from _computed_twice(found)
    for name, (done, _, _) in found.items():
        if done:
            yield from _slice_table(name, done)


def _computed_twice(found: Mapping[str, tuple[list[reference.Slice], int, int]]) -> Iterator[str]:
    """Rows of the reference run beside those that another run computed anew elsewhere."""
    machines = {name: {_machine(it) for it in _told(done)} for name, (done, *_) in found.items()}
    first, *others = found
    its = reference.load(first)
    rows = []
    for name in others:
        other = reference.load(name) if machines[name] - machines[first] else None
        pairs = verify.in_common(its.rows, other.rows) if its and other else pd.DataFrame()
        if len(pairs):
            rows.append([f"`{name}`", *_differences(pairs)])
    if not rows:
        return
    yield from _head(
        "Run",
        f"Numbers that `{first}` has too",
        "Accuracies the same",
        "Largest difference (points)",
        "Bits per byte: largest difference (%)",
        "Within the tolerance of `langmerge verify-reference`",
    )
    for row in rows:
        yield _row(*row)
    yield ""
    yield (
        f"These runs trained and evaluated anew, on another processor, models that `{first}` has: "
        "what came out again, number by number. Where sums are taken in another order, the last "
        "digits of bits per byte differ, and answers near a tie turn."
    )
    yield ""


def _differences(pairs: pd.DataFrame) -> tuple[str, ...]:
    largest = pairs.groupby("metric")["difference"].max()
    accuracy = pairs[pairs["metric"] == "accuracy"]
    return (
        f"{len(pairs):,}",
        f"{(accuracy['difference'] == 0).sum():,} of {len(accuracy):,}",
        f"{100 * largest['accuracy']:.1f}",
        f"{100 * largest['bits_per_byte']:.3f}",
        f"{pairs['holds'].sum():,} of {len(pairs):,}",
    )


def _slices(name: str) -> tuple[list[reference.Slice], int, int]:
    """The slices of a run that are there, how many it has, and how many of another state are."""
    how = profiles.load(name)
    every = reference.slices(how)
    try:
        done = [one for one in every if one.is_done(how)]
    except LangmergeError:  # a base of the plan is not here: nothing of it can be, either
        done = []
    return done, len(every), sum(bool(one.told()) for one in every) - len(done)


def _run(name: str, done: Sequence[reference.Slice], expected: int, other: int) -> dict[str, str]:
    """What a table says of a reference run, by the name of the row."""
    told, how = _told(done), profiles.load(name)
    days = sorted(str(it["time"])[:10] for it in told)
    keys = execution.digest(*(one.key(how) for one in done))[:DIGITS]
    several = {
        "bases": {f"`{one.base}` ({one.parts(how)['base']})" for one in done},
        "commits": {str(it["commit"])[:DIGITS] for it in told},
    }
    return {
        "Slices (a language, a base, a seed)": f"{len(done)} of {expected}",
        "There, but of other settings, texts or base": str(other),
        "Computed": " to ".join(dict.fromkeys((days[0], days[-1]))) if days else "",
        "Bases, with their hashes": _listed(several["bases"]),
        "Code": _listed(several["commits"]),
        "Hash of the slices' keys": keys if done else "",
    }


#: The tables of the reference runs: what each tells of them.
_TABLES = (
    (
        "Slices (a language, a base, a seed)",
        "There, but of other settings, texts or base",
        "Computed",
    ),
    ("Bases, with their hashes", "Code", "Hash of the slices' keys"),
)


def _told(done: Sequence[reference.Slice]) -> list[dict[str, Any]]:
    """The provenance of slices."""
    return [one.told() for one in done]


def _versions(told: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {told[name]}" for name in ("python", *PACKAGES))


def _slice_table(name: str, done: Sequence[reference.Slice]) -> Iterator[str]:
    how = profiles.load(name)
    yield f"````{{dropdown}} Slice by slice, {name} ({len(done)})"
    heads = ("Language", "Base", "Seed", "Computed (UTC)", "Seconds", "Models", "Key")
    yield from _head(*heads, "Rows' file")
    for one in done:
        told = one.told()
        hashes = told.get("sha256", {})
        yield _row(
            f"`{one.language}`",
            one.base,
            str(one.seed),
            _minute(told.get("time")),
            f"{told['seconds']:g}",
            str(told["models"]),
            one.key(how)[:DIGITS],
            str(hashes.get("rows.parquet", NOT_KEPT))[:DIGITS],
        )
    yield "````"
    yield ""


def _listed(values: set[str]) -> str:
    return ", ".join(sorted(values))


def _minute(time: object) -> str:
    """A time in ISO 8601 to the minute."""
    return str(time)[:16].replace("T", " ") if time else NOT_KEPT


def _head(*names: str) -> tuple[str, str]:
    return _row(*names), "|---" * len(names) + "|"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
