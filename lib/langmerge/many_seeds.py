"""The chapter on many run seeds: what the first finding is with other English SFT experts.

Made when the book is built, from committed rows alone: those of ``reference-seeds``, whose seeds no
other run has, and of the reference run the same languages and budgets with its own seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
from scipy import stats

from langmerge import claims, languages, markdown, plotting, plotting_families, profiles, reference
from langmerge.claims import Claim, Verdict
from langmerge.statistics import LEVEL, components, half_length, select
from langmerge.study import Results

PROFILE = "reference-seeds"
FINDING = 1
#: The finding's claims on accuracy against CT-then-SFT, and the merge that each is about.
AGAINST = {
    "f1-accuracy": "ties_mean",
    "f1-accuracy-average": "average",
    "f1-accuracy-task-arithmetic": "task_arithmetic",
}
#: The half length of an interval that tells the smallest effect of interest from none.
WANTED = 0.03


def page(folder: Path) -> str:
    """The chapter's generated part; its figures are saved into a folder."""
    many, few = reference.load(PROFILE), reference.load()
    if many is None or few is None:
        return reference.not_computed(PROFILE if many is None else reference.PROFILE)
    folder.mkdir(parents=True, exist_ok=True)
    return "\n".join(_page(_beside(few, many), many, folder)) + "\n"


def headline() -> str | None:
    """What many seeds say of the first finding, as a sentence; None without their rows."""
    many = reference.load(PROFILE)
    if many is None:
        return None
    judged = {it.claim: it for it in judge(many)}
    told = "; ".join(
        f"{plotting.label(method)} {_briefly(judged[claim])}" for claim, method in AGAINST.items()
    )
    return (
        f"With {len(many.seeds)} other run seeds, and so SFT experts, in {len(many.languages)} of "
        f"the languages, merging against CT-then-SFT: {told}."
    )


def _briefly(it: Verdict) -> str:
    if it.verdict == claims.NOT_TESTED:
        return f"**{it.verdict}**"
    over = it.over or "languages"
    return f"**{it.verdict}** ({claims.effect(it)}, {it.interval()} over {over})"


def judge(many: Results) -> list[Verdict]:
    """The finding's verdicts, the interval being the wider of those over languages and seeds."""
    return claims.judge(many, FINDING, missing_ok=True, over_seeds=True)


def _beside(few: Results, many: Results) -> Results:
    """Of the reference run the languages and budgets of the other, with its own seeds."""
    own = many.plan.model_copy(update={"seeds": few.seeds})
    return reference.like(few, replace(many, plan=own))


def _page(few: Results, many: Results, folder: Path) -> Iterator[str]:
    yield from _about(many)
    yield from _verdicts(few, many)
    yield "## What goes with a seed"
    yield ""
    points = by_expert(many)
    yield from markdown.picture(
        folder,
        "many-seeds",
        plotting_families.effect_by_expert(points),
        "Each run seed's effect at the two scarcest budgets against what its SFT expert knows of "
        f"the languages alone. {_correlations(points)}",
    )
    yield from _by_seed(many)
    yield "## How much is the seed's, and how much the language's"
    yield ""
    yield from _spread(many)


def _about(many: Results) -> Iterator[str]:
    names = ", ".join(languages.load(code).name for code in many.languages)
    planned = profiles.load(PROFILE).seeds
    yield (
        f"Languages: {names} ({len(many.languages)}). Run seeds: {_range(many.seeds)} "
        f"({len(many.seeds)} of {len(planned)} that were planned). CT tokens: "
        f"{' and '.join(f'{budget:,}' for budget in many.budgets)}. "
        f"Bases: {len(many.plan.bases)}."
    )
    yield ""


def _range(seeds: list[int]) -> str:
    if len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def _verdicts(few: Results, many: Results) -> Iterator[str]:
    pairs = list(zip(claims.judge(few, FINDING), judge(many), strict=True))
    yield from markdown.table(
        [
            "Claim",
            f"reference run, run seeds {_range(few.seeds)}",
            f"run seeds {_range(many.seeds)}",
        ],
        ([it.statement, it.said(), other.said()] for it, other in pairs),
    )
    yield (
        "Effect, 95 % interval with what it is over, and verdict by the rules of the verdicts "
        "page, in the same languages, corrected within each run. On the left the interval is over "
        "the languages alone, on the right the wider of those over languages and over seeds."
    )
    yield ""


def _claims() -> dict[str, Claim]:
    stated = {claim.id: claim for claim in claims.load()}
    return {claim: stated[claim] for claim in AGAINST}


def effects(many: Results, claim: Claim) -> pd.DataFrame:
    """A claim's effect by language (rows) and run seed (columns), on the run's one base."""
    found = claims.by_seed(many, claim).rename("effect").reset_index()
    return found.pivot_table(values="effect", index="language", columns="seed")


def between_seeds(many: Results) -> dict[str, float]:
    """How far each merge's lead on CT-then-SFT differs between run seeds, by method.

    The standard deviation that seeds have beside what languages and the rest differ by, as a share.
    """
    return {
        method: components(effects(many, claim))[1]
        for claim, method in zip(_claims().values(), AGAINST.values(), strict=True)
    }


def by_expert(many: Results) -> pd.DataFrame:
    """A row a run seed and merge, means over the languages: seed, sft (accuracy), method, effect.

    effect: of the merge against CT-then-SFT at the two scarcest budgets, as its claim has it.
    """
    alone = _accuracy(many)["sft"]
    parts = [
        pd.DataFrame({"sft": alone, "method": method, "effect": effects(many, claim).mean()})
        for claim, method in zip(_claims().values(), AGAINST.values(), strict=True)
    ]
    return pd.concat(parts).rename_axis("seed").reset_index()


def _accuracy(many: Results) -> pd.DataFrame:
    """Mean accuracy of the tasks by run seed (rows) and method, over languages and budgets."""
    rows = select(many.rows, metric="accuracy", task=list(many.tasks), setting=["tuned", "fixed"])
    return rows.pivot_table(values="value", index="seed", columns="method")


def _correlations(points: pd.DataFrame) -> str:
    told = []
    for method, its in points.groupby("method", sort=False):
        found = stats.pearsonr(its["sft"], its["effect"])
        values = (found.statistic, *found.confidence_interval(LEVEL))
        r, low, high = (f"{value:+.2f}".replace("-", "−") for value in values)
        told.append(f"{plotting.label(method)} {r} ({low} to {high})")
    return f"Correlation over the seeds, with its 95 % interval: {', '.join(told)}."


def _by_seed(many: Results) -> Iterator[str]:
    """What each seed's models do: where the effects come from."""
    shown = ("sft", "ct_then_sft", *AGAINST.values())
    mean = _accuracy(many)[list(shown)]
    rows = [(str(seed), *(f"{100 * value:.1f}" for value in it)) for seed, it in mean.iterrows()]
    spread = ("standard deviation", *(f"{100 * value:.1f}" for value in mean.std()))
    yield from markdown.table(
        ["run seed", *map(plotting.label, shown)], [*rows, spread], numbers=True
    )
    yield "Accuracy in %, mean of tasks, languages and both budgets; SFT has seen no CT text."
    yield ""


def _spread(many: Results) -> Iterator[str]:
    """Where the effects' spread lies, and how many seeds an interval of use needs."""
    rows = []
    for (name, claim), method in zip(_claims().items(), AGAINST.values(), strict=True):
        table = effects(many, claim)
        language, seed, rest = (f"{100 * value:.1f}" for value in components(table))
        needed = seeds_needed(float(table.mean().std()))
        rows.append((plotting.label(method), seed, language, rest, str(needed), f"`{name}`"))
    yield from markdown.table(
        ["against CT-then-SFT", "between seeds", "between languages", "the rest",
         f"seeds for ±{100 * WANTED:.0f} points", "claim"],
        rows,
    )  # fmt: skip
    yield (
        "Standard deviations in points of accuracy, by the analysis of variance of languages and "
        "seeds; the rest is a language's own with a seed, and the test items'. The number of seeds "
        "is what a study of these languages needs for an interval over seeds of "
        f"±{100 * WANTED:.0f} points, if seeds differ as these do."
    )
    yield ""


def seeds_needed(spread: float, half: float = WANTED) -> int:
    """The fewest seeds whose 95 % t interval is at most `half` to either side.

    spread: the standard deviation of the seeds' means.
    """
    number = 2
    while half_length(spread, number) > half:
        number += 1
    return number
