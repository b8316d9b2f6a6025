"""What an instructor may expect of a student's run: computed from the reference run's rows.

One language is one draw. The tables of the page ``book/teach.md`` say where the languages of the
reference run came out at its smallest and its largest amount of text, and between which bounds
another language may be expected.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from langmerge import languages
from langmerge.plotting import label
from langmerge.statistics import LEVEL, Results, select, whole_model

#: Models with CT whose accuracy is expected, as they were tuned.
ASKED = ("ct", "ct_then_sft", "ties_mean", "ties_sv")
DISCARDED = "SFT that TIES discards, %"
#: Differences in points of accuracy: name, minuend, subtrahend, each a method with its setting.
DIFFERENCES = {
    "TIES (mean) less CT-then-SFT": (("ties_mean", "tuned"), ("ct_then_sft", "tuned")),
    "TIES-SV less itself without slack": (("ties_sv", "tuned"), ("ties_sv", "without slack")),
}


def expected(many: Results | None) -> str:
    """The page's tables as Markdown; a sentence where there is no reference run."""
    if many is None:
        return (
            "The reference run has not been computed with the present base and settings, so there "
            "is nothing to expect from it yet: `langmerge reference` computes it.\n"
        )
    return "\n".join([*_about(many), *_over_languages(many), *_by_language(many)]) + "\n"


def measures(many: Results) -> pd.DataFrame:
    """What is expected, in percent or points, of each language.

    Columns: what, ct_tokens (0 without CT), language, value (the mean over bases, seeds and tasks,
    each weighing the same).
    """
    ends = [min(many.budgets), max(many.budgets)]
    parts = [_accuracy(many, "sft", "fixed").assign(what=_named("sft"))]
    for tokens in ends:
        for method in ASKED:
            setting = "fixed" if method == "ct" else "tuned"
            its = _accuracy(many, method, setting, tokens)
            parts.append(its.assign(what=_named(method), ct_tokens=tokens))
        parts.append(_discarded(many, tokens))
        for name, (minuend, subtrahend) in DIFFERENCES.items():
            ours = _accuracy(many, *minuend, tokens).set_index("language")["value"]
            theirs = _accuracy(many, *subtrahend, tokens).set_index("language")["value"]
            less = (ours - theirs).rename("value").reset_index()
            parts.append(less.assign(what=name, ct_tokens=tokens))
    found = pd.concat(parts, ignore_index=True).fillna({"ct_tokens": 0})
    return found.astype({"ct_tokens": int})[["what", "ct_tokens", "language", "value"]]


def next_one(values: ArrayLike, level: float = LEVEL) -> tuple[float, float]:
    """The prediction interval for one more draw from where `values` come from.

    values: one number per unit, shape (units,), taken as normal. A single unit has no interval:
    the bounds are infinite. The mean ± t · s · √(1 + 1/n), Hahn & Meeker (1991), Statistical
    Intervals, section 4.7.
    """
    values = np.asarray(values, dtype=float)
    if values.size < 2:
        return -math.inf, math.inf
    reach = stats.t.ppf((1 + level) / 2, values.size - 1) * values.std(ddof=1)
    reach *= math.sqrt(1 + 1 / values.size)
    return float(values.mean() - reach), float(values.mean() + reach)


def _named(method: str) -> str:
    return f"{label(method)}, accuracy %"


def _accuracy(many: Results, method: str, setting: str, tokens: int = 0) -> pd.DataFrame:
    """Mean accuracy in percent over a language's seeds and tasks: language, value."""
    its = select(many.rows, method=method, setting=setting, metric="accuracy", ct_tokens=tokens)
    its = its[its["task"].isin(many.tasks)]
    return (100 * its.groupby("language")["value"].mean()).reset_index()


def _discarded(many: Results, tokens: int) -> pd.DataFrame:
    its = select(many.diagnostics, method="ties_mean", setting="tuned", ct_tokens=tokens)
    share = whole_model(its).groupby("language")["discarded_sft_share"].mean()
    named = (100 * share).rename("value").reset_index()
    return named.assign(what=DISCARDED, ct_tokens=tokens)


def _about(many: Results) -> Iterator[str]:
    few = len(many.seeds) == 1
    yield (
        f"Languages: {len(many.languages)}. Run seeds: {len(many.seeds)} "
        f"({', '.join(map(str, many.seeds))}). Bases: {many.rows['base'].nunique()}. "
        f"CT tokens: {min(many.budgets):,} and {max(many.budgets):,}, the smallest and the largest "
        f"of the reference run. Tasks: {', '.join(many.tasks)}."
    )
    if few:
        yield (
            "With one run seed, what another seed changes is in the spread of the languages "
            "and cannot be told from it."
        )
    yield ""


def _over_languages(many: Results) -> Iterator[str]:
    yield (
        "| What | CT tokens | lowest language | median | highest language "
        "| another language, 95 % | above zero |"
    )
    yield "|---|---|---|---|---|---|---|"
    for (what, tokens), its in measures(many).groupby(["what", "ct_tokens"], sort=False):
        values = its["value"]
        is_difference = what in DIFFERENCES
        form = _signed if is_difference else _plain
        ends = (form(found) for found in (values.min(), values.median(), values.max()))
        positive = f"{(values > 0).sum()} of {len(values)}" if is_difference else ""
        bounds = _bounds(next_one(values), form, is_difference)
        told = [what, f"{tokens:,}" if tokens else "none", *ends, bounds, positive]
        yield f"| {' | '.join(told)} |"
    yield ""
    yield (
        "*Another language* is a prediction interval: where one more language would fall, if "
        "languages spread normally as these do, cut at 0 and 100 where it is a share. A student's "
        "language outside it is worth a second look, and no proof of a mistake. *Above zero* "
        "counts the languages."
    )
    yield ""


def _by_language(many: Results) -> Iterator[str]:
    table = measures(many).pivot_table(index="language", columns=["what", "ct_tokens"])["value"]
    for tokens in (min(many.budgets), max(many.budgets)):
        asked = [(_named("sft"), 0), *((_named(method), tokens) for method in ASKED)]
        asked.append((DISCARDED, tokens))
        heads = [what.replace(", accuracy %", "") for what, _ in asked]
        yield f"By language, at {tokens:,} CT tokens (accuracy and discarded share in percent):"
        yield ""
        yield f"| Language | {' | '.join(heads)} |"
        yield "|---" * (len(heads) + 1) + "|"
        for code in many.languages:
            row = (_plain(table.loc[code, one]) for one in asked)
            yield f"| {languages.load(code).name} (`{code}`) | {' | '.join(row)} |"
        yield ""


def _bounds(bounds: Sequence[float], form: Callable[[float], str], is_difference: bool) -> str:
    if not all(map(math.isfinite, bounds)):
        return "one language tells nothing"
    low, high = bounds if is_difference else (max(bounds[0], 0.0), min(bounds[1], 100.0))
    return f"{form(low)} to {form(high)}"


def _plain(value: float) -> str:
    return f"{value:.1f}"


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")
