"""The chapter on other traces: the findings on bases that read less and more of every language.

Made when the book is built, from committed rows alone: those of ``reference-traces``, beside the
bases of one trace (`other_bases`), whose spread says how far two bases of the same trace lie apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from langmerge import (
    base,
    claims,
    larger,
    larger_bases,
    markdown,
    other_bases,
    plotting_families,
    reference,
    statistics,
)
from langmerge.claims import Claim
from langmerge.study import Results

PROFILE = "reference-traces"
#: The order of slack's gains counts where the line puts them this far apart (`design-log.md`).
APART = 0.02


def page(folder: Path) -> str:
    """The chapter's generated part; its figure is saved into a folder."""
    traced, alike = other_bases.whole(PROFILE), other_bases.all_bases()
    if traced is None or alike is None:
        return reference.not_computed(PROFILE if traced is None else other_bases.missing())
    folder.mkdir(parents=True, exist_ok=True)
    return "\n".join(_page(alike, traced, folder)) + "\n"


def share_of(name: str) -> float:
    """What part of a base's tokens each language has."""
    return base.known(name).recipe.trace.share


def _page(alike: Results, traced: Results, folder: Path) -> Iterator[str]:
    yield from _about(alike, traced)
    found = effects(alike, traced)
    names = list(traced.plan.bases)
    yield outside(found, names)
    yield ""
    yield from against(found, names, len(alike.plan.bases))
    yield from markdown.picture(
        folder,
        "other-traces",
        plotting_families.regimes(*regimes(alike, traced)),
        "The findings' effects by CT tokens and trace, what each language has of the base's text: "
        "means over languages, run seeds and bases, in points of accuracy, or of SFT parameters.",
    )
    yield "## What the experts know alone"
    yield ""
    yield from _alone(alike, traced)
    yield from _where_slack_helps(traced)
    yield from _foretold(traced, folder)


def _about(alike: Results, traced: Results) -> Iterator[str]:
    (usual,) = {share_of(name) for name in alike.plan.bases}
    yield (
        f"Languages: {len(traced.languages)}. Run seeds: {', '.join(map(str, traced.seeds))}. CT "
        f"tokens: {', '.join(f'{budget:,}' for budget in traced.budgets)}. Bases of the usual "
        f"trace, {100 * usual:g} % a language: {len(alike.plan.bases)}."
    )
    yield ""
    rows = []
    for name in traced.plan.bases:
        quotas = base.known(name).recipe.quotas()
        english, whole = quotas["eng_Latn"], sum(quotas.values())
        (each,) = {tokens for code, tokens in quotas.items() if code != "eng_Latn"}
        ready = sum(number >= base.NEEDED for number in _between(name, traced).values())
        rows.append(
            (name, f"{100 * share_of(name):g}", f"{each:,}", f"{100 * english / whole:.0f}",
             f"{ready} of {len(traced.languages)}")
        )  # fmt: skip
    yield from markdown.table(
        ["base", "trace (%)", "tokens a language", "English (%)", "languages ready"],
        rows,
        numbers=True,
    )
    yield (
        "A language is ready where English SFT alone is between chance and ceiling on "
        f"{base.NEEDED} tasks or more, the condition of the reference run."
    )
    yield ""


def _between(name: str, run: Results) -> dict[str, int]:
    tasks = larger.between(name)
    return {code: tasks.get(code, 0) for code in run.languages}


def effects(
    alike: Results, traced: Results, which: Mapping[str, str] = other_bases.EFFECTS
) -> pd.DataFrame:
    """Each effect on the bases of another trace, and where one more of the usual would lie.

    which: the claims, and what each is called. A row a claim, in its own unit. Columns: what,
    metric, mean, low and high (the 95 % prediction interval of the bases of one trace), and the
    mean on each base of another trace, by its name. A claim that one of the runs lacks the models
    of is left out.
    """
    stated = other_bases.stated_claims()
    rows = {}
    for name, what in which.items():
        claim = stated[name]
        try:
            usual, others = (_by_base(run, claim) for run in (alike, traced))
        except claims.MissingResults:
            continue
        low, high = statistics.prediction(usual)
        rows[name] = {
            "what": what, "metric": claim.metric, "mean": usual.mean(), "low": low, "high": high,
            **others,
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index")


def _by_base(run: Results, claim: Claim) -> pd.Series:
    """A claim's mean effect over languages and run seeds on each base, by the base's name."""
    (code, *_) = run.languages
    names = {base.hash_of(name, code): name for name in run.plan.bases}
    return claims.by_base(run, claim).rename(names)[list(names.values())]


def _lies_outside(row: Mapping[str, float], name: str) -> bool:
    return not row["low"] <= row[name] <= row["high"]


def outlying(found: pd.DataFrame, names: list[str]) -> dict[str, list[str]]:
    """On each base of another trace the effects outside what one more of the usual would give."""
    return {
        name: [row["what"] for _, row in found.iterrows() if _lies_outside(row, name)]
        for name in names
    }


def outside(found: pd.DataFrame, names: list[str]) -> str:
    """What is said by the rule that was written down before the bases were trained."""
    said, far = [], outlying(found, names)
    if not any(far.values()):
        return (
            f"None of the {len(found)} effects lies outside what one more base of the usual trace "
            f"would give, on {' or '.join(f'`{name}`' for name in names)}. By the rule that was "
            "written down before, none can be told from another base's."
        )
    for name, out in far.items():
        what = f"{len(out)} ({'; '.join(out)})" if out else "none"
        said.append(f"{what} of {len(found)} on the base `{name}`")
    return (
        "Effects that lie outside what one more base of the usual trace would give: "
        f"{', and '.join(said)}. By the rule that was written down before, those go with the "
        "trace, or with the English that it costs, and the others cannot be told from another "
        "base's."
    )


def against(found: pd.DataFrame, names: list[str], number: int) -> Iterator[str]:
    """The effects beside where one more base of the usual trace would lie.

    number: of the bases of the usual trace.
    """

    def said(row: pd.Series, name: str) -> str:
        text = claims.as_text(row["metric"], row[name])
        return f"**{text}**" if _lies_outside(row, name) else text

    yield from markdown.table(
        ["effect", "usual trace", "one more base of it", *names, "unit", "claim"],
        (
            [
                row["what"],
                claims.as_text(row["metric"], row["mean"]),
                " to ".join(claims.as_text(row["metric"], row[end]) for end in ("low", "high")),
                *(said(row, name) for name in names),
                claims.shown(row["metric"], 0.0)[1],
                f"`{claim}`",
            ]
            for claim, row in found.iterrows()
        ),
    )
    yield (
        f"Means over languages and run seeds, and over the {number} bases of the usual trace; the "
        "95 % prediction interval is theirs. In bold what lies outside. No correction is made for "
        f"looking at {len(found) * len(names)} numbers, of which one in twenty would lie outside "
        "by chance."
    )
    yield ""


def regimes(alike: Results, traced: Results) -> tuple[pd.DataFrame, list[str]]:
    """The findings' effects by CT tokens with each trace, and the traces in order, as words."""
    traces = by_trace(alike, traced)
    found = [plotting_families.regime_effects(run, [], trace) for trace, run in traces]
    return pd.concat(found), [trace for trace, _ in traces]


def by_trace(alike: Results, traced: Results) -> list[tuple[str, Results]]:
    """The rows of the bases of each trace, from the smallest trace on, with the trace in words.

    The two runs have no trace in common.
    """
    bases: dict[float, tuple[Results, list[str]]] = {}
    for run in (alike, traced):
        for name in run.plan.bases:
            bases.setdefault(share_of(name), (run, []))[1].append(name)
    return [
        (_words(share), other_bases.on_known(run, names))
        for share, (run, names) in sorted(bases.items(), key=lambda one: one[0])
    ]


def _words(share: float) -> str:
    return f"trace {100 * share:g} %"


def _alone(alike: Results, traced: Results) -> Iterator[str]:
    rows = []
    for run in (alike, traced):
        mean = larger.experts_alone(run).groupby("base")[["sft", "ct", "ties", "slack"]].mean()
        (code, *_) = run.languages
        for name in run.plan.bases:
            its = mean.loc[base.hash_of(name, code)]
            rows.append((share_of(name), name, its))
    yield from markdown.table(
        ["base", "trace (%)", "SFT only", "CT only", "TIES (mean)", "what slack changes"],
        (
            [
                "first" if name == "base" else name,
                f"{100 * share:g}",
                *(f"{100 * its[which]:.1f}" for which in ("sft", "ct", "ties")),
                claims.as_text("accuracy", its["slack"]),
            ]
            for share, name, its in sorted(rows, key=lambda row: row[0])
        ),
        numbers=True,
    )
    yield (
        "At the largest CT budget, means over languages and run seeds: accuracy in %, and points "
        "of accuracy."
    )
    yield ""


def _where_slack_helps(traced: Results) -> Iterator[str]:
    each, _, _ = other_bases.guess(traced)
    (code, *_) = traced.languages
    told = " and ".join(
        f"{each[base.hash_of(name, code)]:+.2f} on `{name}`".replace("-", "−")
        for name in traced.plan.bases
    )
    yield (
        "Rank correlation over the languages of what slack changes with how much more SFT alone "
        f"knows than CT alone ({{doc}}`other_bases`): {told}. Description."
    )
    yield ""


def foretold(before: pd.DataFrame, traced: Results) -> tuple[pd.DataFrame, str]:
    """What slack changes on the bases of another trace, foretold from what the experts know alone.

    before: the bases that the line is laid through, as `larger_bases.experts_by_base` gives them.
    Returns a row a base of another trace (its name), of the run seeds that `before` has, with the
    columns sft, ct (accuracies), slack, mean, low and high (what was foretold, with its prediction
    interval), all shares; and what is said of the guess by the rule of the design log: supported,
    contradicted or open.
    """
    known = larger.experts_alone(traced).groupby("base")[["sft", "ct", "slack"]].mean()
    (code, *_) = traced.languages
    names = {base.hash_of(name, code): name for name in traced.plan.bases}
    known = known.rename(names).loc[list(names.values())]
    found = known.join(_line(before, known["sft"] - known["ct"]).set_axis(known.index))
    return found, _said_of(found)


def _line(before: pd.DataFrame, known: ArrayLike) -> pd.DataFrame:
    """What the line through some bases foretells where SFT alone knows so much more than CT."""
    return statistics.foretold(before["sft"] - before["ct"], before["slack"], known)


def _said_of(found: pd.DataFrame) -> str:
    inside = found["slack"].between(found["low"], found["high"])
    told_apart = np.ptp(found["mean"]) > APART
    in_order = not told_apart or (list(found["mean"].rank()) == list(found["slack"].rank()))
    if not inside.any() or not in_order:
        return "contradicted"
    return "supported" if inside.all() else "open"


def _foretold(traced: Results, folder: Path) -> Iterator[str]:
    """The guess on slack between bases, which was written down before these rows were seen."""
    if (runs := larger_bases.runs(larger_bases.LOOKED_AT)) is None:
        return
    small, _, _, larger_ones = runs
    before = larger_bases.experts_by_base(small, larger_ones)
    found, word = foretold(before, reference.like(traced, larger_ones))
    yield "## What slack changes, foretold"
    yield ""
    yield (
        f"Over {len(before)} bases of two sizes what slack changes goes with how much more SFT "
        "alone knows than CT alone ({doc}`larger_model`). That was seen in rows, and written down "
        "as a guess before those of the two bases here were looked at. By its rule, and the line "
        f"of least squares through the {len(before)} bases, it is **{word}**:"
    )
    yield ""
    yield from markdown.table(
        ["base", "SFT − CT alone", "foretold", "95 % interval", "what slack changes"],
        (
            [
                name,
                claims.as_text("accuracy", row["sft"] - row["ct"]),
                claims.as_text("accuracy", row["mean"]),
                " to ".join(claims.as_text("accuracy", row[end]) for end in ("low", "high")),
                claims.as_text("accuracy", row["slack"]),
            ]
            for name, row in found.iterrows()
        ),
        numbers=True,
    )
    yield (
        "Points of accuracy, means over the languages at the largest CT budget, run seeds "
        f"{', '.join(map(str, larger_ones.seeds))}; the interval is the prediction interval of one "
        "base."
    )
    yield ""
    points = pd.concat(
        [before.assign(which=before["size"] + " bases"), found.assign(which=found.index)]
    )
    gaps = points["sft"] - points["ct"]
    known = np.linspace(gaps.min() - 0.02, gaps.max() + 0.02, 50)
    yield from markdown.picture(
        folder,
        "other-traces-slack",
        plotting_families.slack_against_alone(points, _line(before, known).assign(known=known)),
        "What slack changes at the largest CT budget against how much more SFT alone knows than CT "
        f"alone: a mark a base. The line is that through the {len(before)} bases of the usual "
        "trace, the band its 95 % prediction interval.",
    )
