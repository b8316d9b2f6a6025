"""The second part of the chapter on a larger model: several bases of that size together.

Made when the book is built, from committed rows alone: those of ``reference-larger`` with the
first base of that size (`larger`), beside the bases of the size that ships (`other_bases`) in the
same languages, run seeds and budgets. Nothing was tuned for the larger size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from langmerge import (
    base,
    claims,
    larger,
    markdown,
    other_bases,
    plotting_families,
    profiles,
    reference,
    statistics,
)
from langmerge.study import Results

PROFILE = "reference-larger"
#: The bases whose rows had been looked at when the rest of them was trained (`design-log.md`).
LOOKED_AT = ("large-second", "large-third")


def page(folder: Path) -> str:
    """The generated part; its figure is saved into a folder."""
    found = runs()
    if found is None:
        return reference.not_computed(PROFILE)
    folder.mkdir(parents=True, exist_ok=True)
    return "\n".join(_page(*found, folder)) + "\n"


def headline() -> str | None:
    """What the larger bases say of the paper's findings, as a sentence; or the first one alone."""
    found = runs()
    if found is None:
        return larger.headline()
    _, _, _, together = found
    every, kept = profiles.load(PROFILE).tasks, together.tasks
    tasks = "" if len(kept) == len(every) else f" and on {len(kept)} of {len(every)} tasks"
    return (
        f"On {len(together.plan.bases)} bases of {larger.times()} times the size together, with "
        f"the same settings, in {len(together.languages)} of the languages{tasks}: "
        f"{other_bases.findings_said(together)}."
    )


def runs(
    known: Sequence[str] | None = None,
) -> tuple[Results, Results, Results, Results] | None:
    """The smaller bases, the first larger one, those after it, and all larger ones together.

    All of the languages, run seeds and budgets that the larger ones have, and of the tasks that
    every larger English expert has learnt; None where rows lack.
    known: of the bases after the first these alone.
    """
    if (small := other_bases.all_bases()) is None:
        return None
    first, more = reference.load(larger.PROFILE), other_bases.whole(PROFILE)
    if first is None or more is None:
        return None
    more = more if known is None else other_bases.on_known(more, known)
    first = reference.like(first, more)
    together = reference.joined(first, more)
    tasks = together.tasks
    small, first, more, together = (
        reference.on_tasks(run, tasks)
        for run in (reference.like(small, together), first, more, together)
    )
    return small, first, more, together


def not_learnt(run: Results) -> dict[str, list[str]]:
    """The tasks on which an English expert misses the floor, by the base's name."""
    checked = run.english_check()
    missed = checked[~checked["counts"]]
    found = run.english.loc[missed.index, "base"]
    (code, *_) = run.languages
    names = {base.hash_of(name, code): name for name in run.plan.bases}
    return missed.groupby(found.map(names))["task"].apply(list).to_dict()


def _page(
    small: Results, first: Results, more: Results, together: Results, folder: Path
) -> Iterator[str]:
    names = other_bases.names_of(together)
    judged = other_bases.judge(together)
    few = len(small.plan.bases)
    yield (
        f"Bases of this size: {', '.join(f'`{name}`' for name in names.values())}. Languages: "
        f"{len(together.languages)}. Run seeds: {', '.join(map(str, together.seeds))}. Beside "
        f"them the {few} bases of the size that ships ({{doc}}`other_bases`), with the same run "
        "seeds alone."
    )
    yield ""
    yield from _left_out(together)
    earlier = {f"the {few} smaller bases": other_bases.judge(small)}
    earlier["the first larger base"] = other_bases.judge(first)
    yield from other_bases.verdicts_beside(together, judged, earlier)
    yield from _by_size(small, together)
    compared = other_bases.tested(judged)
    yield from markdown.picture(
        folder,
        "larger-bases",
        plotting_families.effects_by_base(
            _drawn(small, together, compared),
            {what: _effect(together, claim) for claim, what in compared.items()},
            "larger bases together",
            "bases",
        ),
        "Effects by size: a large mark is the mean over the bases of a size, a small one a base. "
        "The black line is the 95 % interval of the larger bases that decides, the wider of those "
        "over languages and over bases.",
    )
    yield from other_bases.each_base(together, names)
    yield "### Size and slack"
    yield ""
    yield from _predicted(small, more)
    yield from _alone(experts_by_base(small, together))


def _left_out(together: Results) -> Iterator[str]:
    """Which tasks the page leaves out on all bases, and what it says with them."""
    missed = not_learnt(together)
    if not (tasks := {task for its in missed.values() for task in its}):
        return
    told = "; ".join(f"`{name}` on {', '.join(its)}" for name, its in missed.items())
    floor = f"{100 * together.plan.english_floor:.0f} %"
    yield (
        f"An English SFT expert misses the floor of {floor} on English items: {told}. By the rule "
        f"of every run {', '.join(sorted(tasks))} is left out, here on all bases of both sizes, "
        "so that they are compared on the same tasks."
    )
    yield ""
    kept = [name for name in together.plan.bases[1:] if name not in missed]
    if together.plan.bases[0] in missed or not kept:
        return
    small, _, more, rest = runs(kept)
    before = {it.claim: it for it in other_bases.judge(together)}
    now = other_bases.judge(rest)
    changed = [it for it in now if it.verdict != before[it.claim].verdict]
    told = "; ".join(f"{it.statement}: {it.said()}" for it in changed)
    yield (
        f"Without {', '.join(f'`{name}`' for name in missed)}, on all {len(rest.tasks)} tasks, "
        f"{len(changed)} of {len(now)} claims have another verdict"
        f"{': ' + told if changed else ''}. What follows below then comes to this. The prediction: "
        f"{_size_said(small, more)}. The guess: "
        f"{other_bases.tested_on(more, other_bases.names_of(more))}"
    )
    yield ""


def _predicted(small: Results, more: Results) -> Iterator[str]:
    """What came of the prediction and of the guess, on all new bases and on the newest alone."""
    names = other_bases.names_of(more)
    few = len(small.plan.bases)
    yield (
        "The prediction was that slack's gain at the largest budget is lower on larger bases. The "
        f"{len(more.plan.bases)} that had no part in the idea against the {few} smaller ones: "
        f"{_size_said(small, more)}."
    )
    yield ""
    yield (
        "The guess that slack helps where SFT alone knows more of a language's tasks than CT "
        f"alone, by the rank correlation over the {len(more.languages)} languages: "
        f"{other_bases.tested_on(more, names)}"
    )
    yield ""
    newest = [name for name in more.plan.bases if name not in LOOKED_AT]
    if not 1 < len(newest) < len(more.plan.bases):
        return
    last = other_bases.on_known(more, newest)
    yield (
        "On the newest alone, which were trained when the rows of the others had been looked at, "
        f"the prediction: {_size_said(small, last)}; the guess: "
        f"{other_bases.tested_on(last, names)}"
    )
    yield ""


def _size_said(small: Results, more: Results) -> str:
    difference, p, word = size_and_slack(small, more)
    return (
        f"{claims.as_text('accuracy', difference)} points, one-sided p {claims.p_text(p)} among "
        f"all ways to deal which of these bases are the larger ones, so that it is **{word}**"
    )


def size_and_slack(small: Results, more: Results) -> tuple[float, float, str]:
    """The prediction that slack's gain at the largest budget is lower on larger bases.

    Returns the difference of the bases' means (a share), its one-sided p, and what is said of it by
    the rule of the design log: supported, contradicted or open.
    """
    claim = other_bases.stated_claims()[larger.SLACK]
    theirs, ours = (claims.by_base(run, claim) for run in (more, small))
    difference, p = statistics.groups_dealt_anew(theirs, ours)
    if difference > 0:
        return difference, p, "contradicted"
    return difference, p, "supported" if p <= other_bases.ALPHA else "open"


def _by_size(small: Results, together: Results) -> Iterator[str]:
    """Every effect on the bases of both sizes, and what the sizes differ by."""
    stated = other_bases.stated_claims()
    rows = []
    for name, what in other_bases.EFFECTS.items():
        claim = stated[name]
        try:
            ours, theirs = (claims.by_base(run, claim) for run in (small, together))
        except claims.MissingResults:
            continue
        difference, low, high = statistics.welch(theirs, ours)
        shown = [claims.as_text(claim.metric, it) for it in (ours.mean(), theirs.mean())]
        told = [claims.as_text(claim.metric, it) for it in (difference, low, high)]
        unit = claims.shown(claim.metric, 0.0)[1]
        rows.append((what, *shown, f"{told[0]} ({told[1]} to {told[2]})", unit, f"`{name}`"))
    yield from markdown.table(
        ["effect", "smaller bases", "larger bases", "larger minus smaller", "unit", "claim"], rows
    )
    yield (
        f"Means over the {len(small.plan.bases)} smaller and the {len(together.plan.bases)} larger "
        "bases, and their difference with a 95 % interval over bases (Welch's t). The first larger "
        "base is among them, which had been looked at before the others were planned."
    )
    yield ""


def _effect(run: Results, claim: str) -> statistics.Effect:
    return claims.measure(run, other_bases.stated_claims()[claim])


def _drawn(small: Results, together: Results, compared: dict[str, str]) -> pd.DataFrame:
    """The effects that are drawn, by size (column `base`) and base (column `seed`)."""
    stated = other_bases.stated_claims()
    parts = [
        pd.DataFrame({"what": what, "base": size, "seed": means.index, "effect": means.to_numpy()})
        for claim, what in compared.items()
        for size, run in (("smaller", small), ("larger", together))
        for means in [claims.by_base(run, stated[claim])]
    ]
    return pd.concat(parts, ignore_index=True)


def experts_by_base(small: Results, together: Results) -> pd.DataFrame:
    """What the experts of each base know alone at the largest CT budget, means over the languages.

    A row a base (hash). Columns: name, size (smaller or larger), sft, ct, ties (accuracies) and
    slack, its effect on accuracy (all in shares).
    """
    parts = []
    for size, run in (("smaller", small), ("larger", together)):
        names = other_bases.names_of(run)
        mean = larger.experts_alone(run).groupby("base")[["sft", "ct", "ties", "slack"]].mean()
        parts.append(mean.loc[list(names)].assign(name=list(names.values()), size=size))
    return pd.concat(parts)


def _alone(found: pd.DataFrame) -> Iterator[str]:
    """What the experts of each base know alone, and how slack's gain goes with it."""
    yield from markdown.table(
        ["base", "size", "SFT only", "CT only", "TIES (mean)", "what slack changes"],
        (
            [
                row["name"],
                row["size"],
                *(f"{100 * row[which]:.1f}" for which in ("sft", "ct", "ties")),
                claims.as_text("accuracy", row["slack"]),
            ]
            for _, row in found.iterrows()
        ),
        numbers=True,
    )
    between = f"{larger.rank_correlation(found):+.2f}".replace("-", "−")
    yield (
        "At the largest CT budget, means over the languages: accuracy in %, and points of "
        f"accuracy. Over these {len(found)} bases the rank correlation of what slack changes with "
        f"how much more SFT alone knows than CT alone is {between}: description, looked at when "
        "the rows were there; {doc}`other_traces` holds it against two other bases."
    )
    yield ""
