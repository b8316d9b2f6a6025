"""The chapter on a larger model: the same languages and CT budgets on a base of another size.

Made when the book is built, from committed rows alone: those of ``reference-large`` and, of the
reference run, the ones of the same languages, run seeds and budgets. Nothing was tuned for the
larger size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from langmerge import base, claims, languages, markdown, plotting_families, profiles, reference
from langmerge import statistics as stats
from langmerge.claims import Claim, Verdict
from langmerge.statistics import select
from langmerge.study import Results

PROFILE = "reference-large"
FINDINGS = (1, 2, 3)
#: The effect that is held against what the experts know alone.
SLACK = "f3-accuracy"
DRAWN = ("sft", "ct", "ct_then_sft", "task_arithmetic", "ties_mean", "ties_sv")


def page(folder: Path) -> str:
    """The chapter's generated part; its figures are saved into a folder."""
    large, small = reference.load(PROFILE), reference.load()
    if large is None or small is None:
        return reference.not_computed(PROFILE if large is None else reference.PROFILE)
    folder.mkdir(parents=True, exist_ok=True)
    return "\n".join(_page(reference.like(small, large), large, folder)) + "\n"


def headline() -> str | None:
    """What the larger base says of the paper's findings, as a sentence; None without its rows."""
    large = reference.load(PROFILE)
    if large is None:
        return None
    told = []
    for finding in claims.PAPERS:
        title, claim = claims.FINDINGS[finding]
        (it,) = (it for it in _judged(large, finding) if it.claim == claim)
        what = f"{title[0].lower()}{title[1:]}"
        told.append(f"{what} **{it.verdict}** ({claims.effect(it)}, {it.interval()})")
    return (
        f"On a base of {times()} times the size, with the same settings, in "
        f"{len(large.languages)} of the languages: {'; '.join(told)}."
    )


def _page(small: Results, large: Results, folder: Path) -> Iterator[str]:
    yield from _about(small, large)
    yield from _verdicts(small, large)
    for name, results in (("small", small), ("large", large)):
        yield from markdown.picture(
            folder,
            f"larger-{name}",
            plotting_families.over_languages(results, DRAWN),
            f"Accuracy on the {'base that ships' if name == 'small' else 'larger base'}: means "
            "over the languages with their 95 % intervals; dots are languages.",
        )
    yield "## Where slack helps"
    yield ""
    points = alone(small, large)
    yield from markdown.picture(
        folder,
        "larger-slack",
        plotting_families.slack_against_alone(points),
        "What slack changes against how much more SFT alone knows of the language's tasks than "
        f"CT alone, at the largest CT budget. {_correlations(points)}",
    )
    yield from _starts(points)


def _about(small: Results, large: Results) -> Iterator[str]:
    sizes = _sizes()
    names = ", ".join(languages.load(code).name for code in large.languages)
    asked = reference.plan(PROFILE)
    yield (
        f"Base that ships: {sizes[0]:,} parameters. Larger base: {sizes[1]:,} "
        f"({sizes[1] / sizes[0]:.1f} times). Languages: {names}: {len(large.languages)} of the "
        f"{asked['language'].nunique()} that the profile names. "
        f"CT tokens: {', '.join(f'{budget:,}' for budget in large.budgets)}. "
        f"Run seeds: {len(large.seeds)}. Computed on: {large.provenance['lab_device']}."
    )
    yield ""


def times() -> str:
    """How many times the parameters of the base that ships the larger one has, rounded."""
    sizes = _sizes()
    return f"{sizes[1] / sizes[0]:.0f}"


def _sizes() -> tuple[int, int]:
    """Parameters of the base that ships, and of the larger one."""
    (large,) = profiles.load(PROFILE).bases
    return _parameters("base"), _parameters(large)


def _parameters(name: str) -> int:
    how = base.known(name).recipe
    size = how.architecture
    layer = 4 * size["hidden"] ** 2 + 3 * size["hidden"] * size["intermediate"] + 2 * size["hidden"]
    return how.vocab_size * size["hidden"] + size["layers"] * layer + size["hidden"]


def _verdicts(small: Results, large: Results) -> Iterator[str]:
    stated = {claim.id: claim for claim in claims.load()}
    pairs = [
        pair
        for finding in FINDINGS
        for pair in zip(_judged(small, finding), _judged(large, finding), strict=True)
    ]
    yield from _changes(pairs)
    yield from markdown.table(
        ["Claim", "base that ships", "larger base", "larger minus smaller"],
        (
            [
                it.statement,
                it.said(over=False),
                other.said(over=False),
                _difference(small, large, stated[it.claim]),
            ]
            for it, other in pairs
        ),
    )
    yield (
        "Effect, 95 % interval over the languages and verdict by the rules of the verdicts page, "
        "corrected within each run; the last column is the mean of the languages' differences."
    )
    yield ""
    yield from _on_ready(large, {other.claim: other for _, other in pairs})


def _changes(pairs: list[tuple[Verdict, Verdict]]) -> Iterator[str]:
    """Which claims have another verdict on the larger base, before all of them in the table."""
    other = [(it, large) for it, large in pairs if it.verdict != large.verdict]
    yield f"Of {len(pairs)} claims {len(other)} have another verdict on the larger base:"
    yield ""
    for it, large in other:
        yield f"- {it.statement}: {it.verdict} on the base that ships, **{large.verdict}** here."
    yield ""


def _judged(results: Results, finding: int) -> list[Verdict]:
    return claims.judge(results, finding, missing_ok=True)


def _difference(small: Results, large: Results, claim: Claim) -> str:
    """How much larger the effect is on the larger base, paired by language."""
    try:
        one, other = (claims.estimates(it, claim).iloc[:, 0] for it in (small, large))
    except claims.MissingResults:
        return ""
    found = stats.t_interval(other - one.loc[other.index])
    told = [claims.as_text(claim.metric, it) for it in (found.estimate, found.low, found.high)]
    return f"{told[0]} ({told[1]} to {told[2]})" if math.isfinite(found.low) else told[0]


def _on_ready(large: Results, all_of_them: dict[str, Verdict]) -> Iterator[str]:
    """What changes where the languages are left out that the larger base is not ready for."""
    standing = between(large.plan.bases[0])
    ready = [code for code in large.languages if standing.get(code, 0) >= base.NEEDED]
    if not 1 < len(ready) < len(large.languages):
        return
    few = reference.in_languages(large, ready)
    other = [it for finding in FINDINGS for it in _judged(few, finding)]
    changed = [it for it in other if it.verdict != all_of_them[it.claim].verdict]
    names = ", ".join(languages.load(code).name for code in ready)
    told = "; ".join(f"{it.statement}: {it.said(over=False)}" for it in changed)
    yield (
        f"With the larger base English SFT alone is between chance and ceiling on {base.NEEDED} "
        f"tasks or more, the condition of the reference run, in {names} only. Over these "
        + (f"other verdicts are: {told}." if told else "every verdict is the same.")
    )
    yield ""


def between(name: str) -> dict[str, int]:
    """On how many tasks English SFT alone is between chance and ceiling there, by language."""
    found = pd.read_csv(base.known(name).folder / base.READINESS)
    return found[found["standing"] == "between"].groupby("language").size().to_dict()


def alone(small: Results, large: Results) -> pd.DataFrame:
    """`experts_alone` of both sizes, each on one base, with the column `which`.

    which: ``smaller base`` or ``larger base``.
    """
    sizes = {"smaller base": small, "larger base": large}
    return pd.concat(experts_alone(run).assign(which=which) for which, run in sizes.items())


def experts_alone(results: Results) -> pd.DataFrame:
    """What the experts know alone at the largest CT budget, and what slack changes there.

    A row a language and base, means over the seeds. Columns: language, base, slack (its effect on
    accuracy, in shares), sft, ct, ties (accuracies).
    """
    claim = next(claim for claim in claims.load() if claim.id == SLACK)
    rows = select(results.rows, metric="accuracy", ct_tokens=[0, max(results.budgets)])
    rows = rows[rows["task"].isin(results.tasks) & rows["setting"].isin(["tuned", "fixed"])]
    rows = rows[rows["method"].isin(["sft", "ct", "ties_mean"])]
    mean = rows.pivot_table(values="value", index=["language", "base"], columns="method")
    known = mean.rename(columns={"ties_mean": "ties"}).loc[results.languages].reset_index()
    effects = claims.estimates(results, claim).reset_index().melt("language", value_name="slack")
    return known.merge(effects, on=["language", "base"]).rename_axis(columns=None)


def _correlations(points: pd.DataFrame) -> str:
    """The rank correlation of both sizes together, and of each: most may lie between them."""
    each = ", ".join(
        f"{rank_correlation(its):+.2f} over the {len(its)} of the {which}"
        for which, its in points.groupby("which", sort=False)
    )
    return (
        f"Rank correlation {rank_correlation(points):+.2f} over all {len(points)} models, {each}."
    )


def rank_correlation(points: pd.DataFrame) -> float:
    """Spearman's, of slack's effect and what SFT knows more than CT."""
    return float((points["sft"] - points["ct"]).corr(points["slack"], method="spearman"))


def _starts(points: pd.DataFrame) -> Iterator[str]:
    """What each language starts from: the experts alone."""
    yield from markdown.table(
        ["language", "base", "SFT only", "CT only", "TIES (mean)", "what slack changes"],
        (
            [
                languages.load(row.language).name,
                row.which.removesuffix(" base"),
                *(f"{100 * value:.1f}" for value in (row.sft, row.ct, row.ties)),
                claims.as_text("accuracy", row.slack),
            ]
            for row in points.sort_values(
                ["language", "which"], ascending=[True, False]
            ).itertuples(index=False)
        ),
        numbers=True,
    )
    yield "Accuracy in % at the largest CT budget, and points of accuracy."
    yield ""
