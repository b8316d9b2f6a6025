"""The last part of the chapter on other traces: CT at twice the rate there too.

Made when the book is built, from committed rows alone: those of ``reference-faster-traces``, beside
the bases of the usual trace at that rate (`faster_bases`). With both, the findings' effects are
known by trace, CT tokens and rate together.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from langmerge import (
    arms,
    faster_bases,
    full_run,
    markdown,
    other_bases,
    other_traces,
    plotting,
    plotting_families,
    reference,
)
from langmerge.study import Results

PROFILE = "reference-faster-traces"
#: What CT at the study's rate is called in the map.
USUAL_RATE = "rate x 1"


def page(folder: Path) -> str:
    """The generated part; its figure is saved into a folder."""
    traced, alike = other_bases.whole(PROFILE), other_bases.whole(faster_bases.PROFILE)
    if traced is None or alike is None:
        return reference.not_computed(PROFILE if traced is None else faster_bases.PROFILE)
    folder.mkdir(parents=True, exist_ok=True)
    return "\n".join(_page(alike, traced, folder)) + "\n"


def _page(alike: Results, traced: Results, folder: Path) -> Iterator[str]:
    names = list(traced.plan.bases)
    yield from full_run.about(traced)
    found = other_traces.effects(alike, traced, faster_bases.DRAWN)
    yield other_traces.outside(found, names)
    yield ""
    yield from other_traces.against(found, names, len(alike.plan.bases))
    yield from markdown.picture(
        folder,
        "faster-traces",
        plotting_families.regimes(*regimes(alike, traced)),
        "The findings' effects by trace, rate of CT and CT tokens: means over languages and bases, "
        "in points of accuracy, or of SFT parameters.",
    )
    yield from _ends(alike, traced)


def regimes(alike: Results, traced: Results) -> tuple[pd.DataFrame, list[str]]:
    """The findings' effects by CT tokens with each trace and rate, and these in order, as words."""
    twice = list(arms.ARMS["faster"])
    rates = [USUAL_RATE, *twice]
    found = []
    for trace, run in other_traces.by_trace(alike, traced):
        effects = plotting_families.regime_effects(run, twice, USUAL_RATE)
        found.append(effects.assign(trace=trace, arm=trace + ", " + effects["arm"]))
    together = pd.concat(found)
    order = [f"{trace}, {rate}" for trace in together["trace"].unique() for rate in rates]
    return together.drop(columns="trace"), order


def _ends(alike: Results, traced: Results) -> Iterator[str]:
    """How high each merge is at the middle and the largest budget at twice the rate."""
    (twice,), (_, middle, largest) = arms.ARMS["faster"], traced.budgets
    runs = dict(other_traces.by_trace(alike, traced))
    yield from markdown.table(
        ["method", *runs],
        (
            [
                plotting.label(method),
                *(
                    full_run.from_to(its, f"{twice}/{method}", setting, [middle], [largest])
                    for its in runs.values()
                ),
            ]
            for method, setting in (*faster_bases.MERGES, ("ct_then_sft", "tuned"))
        ),
    )
    yield (
        "Accuracy (%) at twice the rate, at the middle and at the largest budget, means over "
        f"languages and bases. Chance is {100 * full_run.chance(traced):.1f}."
    )
    yield ""
