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
DISCARDED = "SFT that TIES discards"
#: Differences in points of accuracy: name, minuend, subtrahend, each a method with its setting.
DIFFERENCES = {
    "TIES (mean) less CT-then-SFT": (("ties_mean", "tuned"), ("ct_then_sft", "tuned")),
    "TIES with slack less itself without slack": (
        ("ties_sv", "tuned"),
        ("ties_sv", "without slack"),
    ),
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
    parts = [_accuracy(many, "sft", "fixed").assign(what=label("sft"))]
    for tokens in ends:
        for method in ASKED:
            setting = "fixed" if method == "ct" else "tuned"
            its = _accuracy(many, method, setting, tokens)
            parts.append(its.assign(what=label(method), ct_tokens=tokens))
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
    yield (
        f"Languages: {len(many.languages)}. Run seeds: {len(many.seeds)} "
        f"({', '.join(map(str, many.seeds))}). Bases: {many.rows['base'].nunique()}. "
        f"CT tokens: {min(many.budgets):,} and {max(many.budgets):,}, the smallest and the largest "
        f"of the reference run. Tasks: {', '.join(many.tasks)}."
    )
    if len(many.seeds) == 1:
        yield (
            "With one run seed, what another seed changes is in the spread of the languages "
            "and cannot be told from it."
        )
    yield ""


def _over_languages(many: Results) -> Iterator[str]:
    found = measures(many)
    are_differences = found["what"].isin(DIFFERENCES)
    yield "Accuracy, and the share of SFT parameters that the election discards, in percent:"
    yield ""
    yield from _spread(found[~are_differences])
    yield "Differences in points of accuracy:"
    yield ""
    yield from _spread(found[are_differences], are_differences=True)
    yield (
        "*Another language* is a prediction interval: where one more language would fall in 95 of "
        "100 cases, if languages spread normally as these do, cut at 0 and 100 where it is a "
        "share. A student's language outside it is worth a second look, and no proof of a mistake."
    )
    yield ""


def _spread(found: pd.DataFrame, are_differences: bool = False) -> Iterator[str]:
    """A row a model and budget: the languages' median and range, and what to expect of another."""
    form = _signed if are_differences else _plain
    heads = ["What", "CT tokens", "median", "lowest to highest", "another language"]
    heads += ["above zero"] * are_differences
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for (what, tokens), its in found.groupby(["what", "ct_tokens"], sort=False):
        values = its["value"]
        told = [what, f"{tokens:,}" if tokens else "none", form(values.median())]
        told.append(f"{form(values.min())} to {form(values.max())}")
        told.append(_bounds(next_one(values), form, are_differences))
        told += [f"{(values > 0).sum()} of {len(values)} languages"] * are_differences
        yield f"| {' | '.join(told)} |"
    yield ""


def _by_language(many: Results) -> Iterator[str]:
    table = measures(many).pivot_table(index="language", columns=["what", "ct_tokens"])["value"]
    for tokens in (min(many.budgets), max(many.budgets)):
        asked = [(label("sft"), 0), *((label(method), tokens) for method in ASKED)]
        asked.append((DISCARDED, tokens))
        heads = [what for what, _ in asked]
        yield f"By language, at {tokens:,} CT tokens (accuracy and discarded share in percent):"
        yield ""
        yield f"| Language | {' | '.join(heads)} |"
        yield "|---" * (len(heads) + 1) + "|"
        for code in many.languages:
            row = (_plain(table.loc[code, one]) for one in asked)
            yield f"| {languages.load(code).name} (`{code}`) | {' | '.join(row)} |"
        yield ""


def _bounds(bounds: Sequence[float], form: Callable[[float], str], are_differences: bool) -> str:
    if not all(map(math.isfinite, bounds)):
        return "one language tells nothing"
    low, high = bounds if are_differences else (max(bounds[0], 0.0), min(bounds[1], 100.0))
    return f"{form(low)} to {form(high)}"


def _plain(value: float) -> str:
    return f"{value:.1f}"


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")
