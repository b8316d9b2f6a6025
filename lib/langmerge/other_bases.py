"""The chapter on other bases: the findings on several bases of the same recipe together.

Made when the book is built, from committed rows alone: those of ``reference-five-bases`` and, of
``reference-three-bases`` and the reference run, the ones of the same languages, run seeds and
budgets. Nothing was tuned for the other bases.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from langmerge import (
    base,
    claims,
    languages,
    larger,
    markdown,
    plotting_families,
    profiles,
    reference,
    statistics,
)
from langmerge.claims import Claim, Verdict
from langmerge.statistics import select
from langmerge.study import Results

PROFILE = "reference-five-bases"
#: The run that has all languages and budgets of the reference run on two more bases.
THREE = "reference-three-bases"
#: The claims that are drawn, all of them on accuracy, and what they compare.
DRAWN = {
    "f1-accuracy": "TIES − CT-then-SFT",
    "f1-accuracy-average": "average − CT-then-SFT",
    "f1-accuracy-task-arithmetic": "task arithmetic − CT-then-SFT",
    "f1-over-sft": "TIES − SFT only",
    "f2-merge-stops": "TIES, largest − middle budget",
    "f3-accuracy": "TIES with slack − without",
    "f3-accuracy-tuned": "TIES with slack − TIES",
}
#: Beside these: text, and what is discarded.
EFFECTS = {
    **DRAWN,
    "f1-language": "TIES − CT-then-SFT, bits per byte",
    "f2-discarded": "SFT discarded, per tenfold CT tokens",
}
#: The bases whose rows had been looked at when more of them were planned (`design-log.md`).
LOOKED_AT = ("base", "second", "third")
#: The numbers of bases whose interval is told.
MORE = (3, 5, 8, 12)
#: The guess about slack is supported at this p, and open above it (`design-log.md`).
ALPHA = 0.05


def page(folder: Path) -> str:
    """The chapter's generated part; its figures are saved into a folder."""
    more, few = others(), reference.load()
    if more is None or few is None:
        return reference.not_computed(missing())
    folder.mkdir(parents=True, exist_ok=True)
    return "\n".join(_page(reference.like(few, more), more, folder)) + "\n"


def headline() -> str | None:
    """What the bases together say of the paper's findings, as a sentence; None without rows."""
    if (run := all_bases()) is None:
        return None
    return (
        f"On {len(run.plan.bases)} bases of the same recipe together, in "
        f"{len(run.languages)} of the languages: {findings_said(run)}."
    )


def findings_said(run: Results) -> str:
    """What several bases together say of the paper's findings, a clause each."""
    judged = {it.claim: it for it in judge(run)}
    stated = stated_claims()
    told = []
    for finding in claims.PAPERS:
        title, claim = claims.FINDINGS[finding]
        it = judged[claim]
        what = f"{title[0].lower()}{title[1:]}"
        if it.verdict == claims.NOT_TESTED:
            told.append(f"{what} **{it.verdict}**")
            continue
        by_base = claims.estimates(run, stated[claim])[list(names_of(run))].mean()
        *others, last = (claims.as_text(it.metric, value) for value in by_base)
        told.append(
            f"{what} **{it.verdict}** ({claims.effect(it)}, {it.interval()} {_over(it)}; by base "
            f"{', '.join(others)} and {last})"
        )
    return "; ".join(told)


def all_bases() -> Results | None:
    """The rows of all bases as one run, the first one's among them; None without rows.

    In the languages and at the budgets that every base has.
    """
    more, few = others(), reference.load()
    if more is None or few is None:
        return None
    return reference.joined(reference.like(few, more), more)


def three_bases() -> Results | None:
    """The reference run with its rows on two more bases, as one run; None without rows."""
    more, few = whole(THREE), reference.load()
    if more is None or few is None:
        return None
    return reference.joined(reference.like(few, more), more)


def others() -> Results | None:
    """The rows of all bases but the first one, as one run; None without rows."""
    if (five := whole()) is None or (three := whole(THREE)) is None:
        return None
    return reference.joined(reference.like(three, five), five)


def missing() -> str:
    """The first of the profiles that the chapter needs whose rows are not there."""
    needed = (reference.PROFILE, THREE, PROFILE)
    return next((it for it in needed if reference.load(it) is None), PROFILE)


def whole(profile: str = PROFILE) -> Results | None:
    """The rows of a run on other bases, of those run seeds that every one of them has."""
    more = reference.load(profile)
    if more is None:
        return None
    has = more.rows.groupby("seed")["base"].nunique()
    seeds = [seed for seed in more.seeds if has[seed] == len(more.plan.bases)]
    same = more.plan.model_copy(update={"seeds": seeds})
    return reference.like(more, replace(more, plan=same)) if seeds else None


def judge(results: Results, findings: Sequence[int] = claims.PAPERS) -> list[Verdict]:
    """The verdicts of the claims of some findings, in their order."""
    stated = [claim for claim in claims.load() if claim.finding in findings]
    return list(claims.judge_all(results, stated).values())


def _over(it: Verdict) -> str:
    return f"over {it.over or 'languages'}"


def _page(first: Results, more: Results, folder: Path) -> Iterator[str]:
    together = reference.joined(first, more)
    names = names_of(together)
    judged = judge(together)
    compared = tested(judged)
    before = on_known(together, LOOKED_AT)
    earlier = {"the first base": judge(first)}
    if set(before.plan.bases) < set(together.plan.bases) and len(before.plan.bases) > 1:
        earlier[f"the {len(before.plan.bases)} bases before"] = judge(before)
    yield from _about(together, more, names)
    yield from verdicts_beside(together, judged, earlier)
    yield from markdown.picture(
        folder,
        "other-bases",
        plotting_families.effects_by_base(*drawn(together, compared, names)),
        "Effects on each base: a large mark is the mean over languages and run seeds, a small one "
        "a run seed. The black line is the 95 % interval that decides, the wider of those over "
        "languages and over bases.",
    )
    yield from each_base(together, names)
    yield "## How much is the base's"
    yield ""
    yield from _spread(together, compared)
    yield from _more_bases(together, compared)
    yield "## Where slack helps, asked again"
    yield ""
    yield from _alone(together, names)
    yield from _guess(together, more, names, folder)


def names_of(together: Results) -> dict[str, str]:
    """What each base is called here, by its hash, in the order of the profile."""
    (code, *_) = together.languages
    called = {"base": "first"}
    return {base.hash_of(name, code): called.get(name, name) for name in together.plan.bases}


def _about(together: Results, more: Results, names: dict[str, str]) -> Iterator[str]:
    three, five = (profiles.load(profile) for profile in (THREE, PROFILE))
    told = _called(together.languages)
    seeds = ", ".join(map(str, together.seeds))
    yield (
        f"Languages: {told} ({len(together.languages)}). Bases: {', '.join(names.values())} "
        f"({len(more.plan.bases)} of {len(three.bases) + len(five.bases)} that were planned beside "
        f"the first). Run seeds of each: {seeds} (planned: "
        f"{', '.join(map(str, five.seeds))}). CT tokens: "
        f"{', '.join(f'{budget:,}' for budget in together.budgets)}."
    )
    yield ""
    yield from _readiness(together, more)


def _readiness(together: Results, more: Results) -> Iterator[str]:
    """In which languages English SFT alone is between chance and ceiling, as a study needs."""
    said = []
    for name in more.plan.bases:
        ready = _ready(together, [name])
        told = _called(code for code in together.languages if code not in ready)
        said.append(f"on the {name} base in all " + (f"but {told}" if told else "of them"))
    yield (
        f"English SFT alone is between chance and ceiling on {base.NEEDED} tasks or more, the "
        f"condition of the reference run, {'; '.join(said)}."
    )
    yield ""


def _ready(together: Results, bases: Sequence[str]) -> list[str]:
    """The languages in which some bases, by name, all are what a study needs."""
    standing = [larger.between(name) for name in bases]
    return [
        code
        for code in together.languages
        if all(tasks.get(code, 0) >= base.NEEDED for tasks in standing)
    ]


def _called(codes: Iterable[str]) -> str:
    return ", ".join(languages.load(code).name for code in codes)


def verdicts_beside(
    together: Results, judged: list[Verdict], earlier: dict[str, list[Verdict]]
) -> Iterator[str]:
    """The verdicts of all bases, beside those of the bases that were there earlier.

    earlier: verdicts of the same claims in the same order, by which bases they are of.
    """
    number = len(together.plan.bases)
    for which, before in earlier.items():
        pairs = [
            (was, it) for was, it in zip(before, judged, strict=True) if was.verdict != it.verdict
        ]
        yield (
            f"Of {len(judged)} claims {len(pairs)} have another verdict with {number} bases than "
            f"on {which}" + (":" if pairs else ".")
        )
        yield ""
        yield from (f"- {it.statement}: {was.verdict}, now **{it.verdict}**." for was, it in pairs)
        yield ""
    yield from markdown.table(
        ["Claim", *(which.removeprefix("the ") for which in earlier), f"all {number} bases"],
        (
            [it.statement, *(was.said() for was in before), it.said()]
            for it, *before in zip(judged, *earlier.values(), strict=True)
        ),
    )
    yield (
        "Effect, 95 % interval with what it is over, and verdict by the rules of the verdicts "
        "page, in the same languages, with the same run seeds and budgets, corrected within each "
        "column."
    )
    yield ""
    yield from _where_ready(together, judged)


def _where_ready(together: Results, judged: list[Verdict]) -> Iterator[str]:
    """What changes where the languages are left out that a base is not ready for."""
    ready = _ready(together, together.plan.bases)
    if not 1 < len(ready) < len(together.languages):
        return
    there = {it.claim: it for it in judge(reference.in_languages(together, ready))}
    changed = [there[it.claim] for it in judged if there[it.claim].verdict != it.verdict]
    told = "; ".join(f"{it.statement}: {it.said()}" for it in changed)
    yield (
        f"Over the {len(ready)} languages that all bases are ready for ({_called(ready)}) "
        + (f"other verdicts are: {told}." if told else "every verdict is the same.")
    )
    yield ""


def drawn(
    together: Results, tested: dict[str, str], names: dict[str, str]
) -> tuple[pd.DataFrame, dict[str, statistics.Effect]]:
    """The effects of the claims that are drawn by base and seed, and over all bases."""
    stated = stated_claims()
    parts, pooled = [], {}
    for claim, what in tested.items():
        each = claims.by_seed(together, stated[claim]).groupby(["base", "seed"]).mean()
        frame = each.rename("effect").reset_index()
        parts.append(frame.assign(what=what, base=frame["base"].map(names)))
        pooled[what] = claims.measure(together, stated[claim])
    effects = pd.concat(parts, ignore_index=True)
    order = pd.Categorical(effects["base"], list(names.values()), ordered=True)
    return effects.assign(base=order).sort_values(["what", "base", "seed"]), pooled


def stated_claims() -> dict[str, Claim]:
    """All claims by their names."""
    return {claim.id: claim for claim in claims.load()}


def tested(judged: list[Verdict]) -> dict[str, str]:
    """Of `DRAWN` the claims whose models all are there."""
    lacks = {it.claim for it in judged if it.verdict == claims.NOT_TESTED}
    return {claim: what for claim, what in DRAWN.items() if claim not in lacks}


def each_base(
    together: Results, names: dict[str, str], findings: Sequence[int] = claims.PAPERS
) -> Iterator[str]:
    """Each base's own effects and verdicts in some findings, as description."""
    by_base = {
        called: {it.claim: it for it in judge(on_bases(together, [found]), findings)}
        for found, called in names.items()
    }
    every = next(iter(by_base.values()))
    yield from markdown.table(
        ["Claim", *(f"{called} base" for called in by_base)],
        (
            [it.statement, *(_briefly(judged[claim]) for judged in by_base.values())]
            for claim, it in every.items()
        ),
    )
    yield (
        "Each base by itself, with the interval over the languages: description, by which nothing "
        "is decided."
    )
    yield ""


def _briefly(it: Verdict) -> str:
    if it.verdict == claims.NOT_TESTED:
        return it.verdict
    return f"{claims.effect(it)} ({it.bounds()}): {it.verdict}"


def on_bases(together: Results, found: Iterable[str]) -> Results:
    """The rows of some bases, by their hashes."""
    kept = list(found)
    frames = {name: getattr(together, name) for name in ("rows", "items", "diagnostics", "english")}
    return replace(together, **{name: select(it, base=kept) for name, it in frames.items()})


def on_known(run: Results, names: Iterable[str]) -> Results:
    """The rows of the bases of a run that have these names, in the run's order."""
    (code, *_) = run.languages
    kept = [name for name in run.plan.bases if name in names]
    found = on_bases(run, (base.hash_of(name, code) for name in kept))
    return replace(found, plan=run.plan.model_copy(update={"bases": kept}))


def _spread(together: Results, tested: dict[str, str]) -> Iterator[str]:
    """Where the spread of the drawn effects lies."""
    stated = stated_claims()
    if len(together.seeds) < 2:
        yield "With one run seed a base's part cannot be told from its seed's.\n"
        return
    rows = []
    for claim, what in tested.items():
        each = claims.by_seed(together, stated[claim]).rename("effect").reset_index()
        found = statistics.nested_components(
            each.pivot_table(values="effect", index="language", columns=["base", "seed"])
        )
        rows.append((what, *(f"{100 * found[name]:.1f}" for name in _PARTS), f"`{claim}`"))
    yield from markdown.table(["effect", *_PARTS.values(), "claim"], rows)
    yield (
        "Standard deviations in points of accuracy, by the analysis of variance of languages, "
        f"bases and the {len(together.seeds)} run seeds within each base; what a language has of "
        "its own with a base or a seed, and the test items', is in the rest. With "
        f"{together.rows['base'].nunique()} bases the first column is hardly more than its order "
        "of magnitude."
    )
    yield ""


def _more_bases(together: Results, tested: dict[str, str]) -> Iterator[str]:
    """How far an interval over bases would reach with more of them."""
    stated = stated_claims()
    rows = []
    for claim, what in tested.items():
        means = claims.by_base(together, stated[claim])
        spread = 100 * means.std(ddof=1)
        lengths = (statistics.half_length(spread, number) for number in MORE)
        rows.append((what, f"{spread:.1f}", *(f"{length:.1f}" for length in lengths)))
    yield from markdown.table(
        ["effect", "standard deviation", *(f"{number} bases" for number in MORE)],
        rows,
        numbers=True,
    )
    yield (
        "What more bases would tell, if they differ as these do: the standard deviation of the "
        "bases' means, in points, and how far a 95 % t interval over so many bases reaches to "
        "either side. The standard deviation is one of "
        f"{together.rows['base'].nunique()} bases, and as uncertain."
    )
    yield ""


_PARTS = {
    "base": "between bases",
    "seed": "between a base's seeds",
    "language": "between languages",
    "rest": "the rest",
}


def guess(more: Results) -> tuple[dict[str, float], float, str]:
    """The guess that slack helps where SFT alone knows more than CT alone, on the other bases.

    Returns the rank correlation over the languages by base (hash), the p of their mean, and what
    is said of the guess by the rule of the design log: supported, contradicted or open.
    """
    points = larger.experts_alone(more)
    known = points.assign(more=points["sft"] - points["ct"])
    tables = [
        known.pivot_table(values=it, index="base", columns="language") for it in ("more", "slack")
    ]
    each = dict(
        zip(tables[0].index, map(_spearman, *(it.to_numpy() for it in tables)), strict=True)
    )
    _, p = statistics.dealt_anew(*(it.to_numpy() for it in tables))
    if all(value > 0 for value in each.values()) and p <= ALPHA:
        return each, p, "supported"
    return each, p, "contradicted" if all(value < 0 for value in each.values()) else "open"


def _spearman(x: list[float], y: list[float]) -> float:
    return float(pd.Series(x).corr(pd.Series(y), method="spearman"))


def _alone(together: Results, names: dict[str, str]) -> Iterator[str]:
    """What the experts of each base know alone, and what an election without slack discards."""
    mean = larger.experts_alone(together).groupby("base")[["sft", "ct", "ties", "slack"]].mean()
    plain = select(
        together.diagnostics,
        method="ties_sv",
        setting="without slack",
        ct_tokens=max(together.budgets),
    )
    lost = statistics.whole_model(plain).groupby("base")["discarded_sft_share"].mean()
    yield from markdown.table(
        ["base", "SFT only", "CT only", "TIES (mean)", "what slack changes", "SFT discarded"],
        (
            [
                called,
                *(f"{100 * mean.loc[found, which]:.1f}" for which in ("sft", "ct", "ties")),
                claims.as_text("accuracy", mean.loc[found, "slack"]),
                f"{100 * lost[found]:.1f}",
            ]
            for found, called in names.items()
        ),
        numbers=True,
    )
    yield (
        "At the largest CT budget, means over languages and run seeds: accuracy in %, points of "
        "accuracy, and the share of SFT parameters in % that the election discards without slack."
    )
    yield ""


def _guess(together: Results, more: Results, names: dict[str, str], folder: Path) -> Iterator[str]:
    points = larger.experts_alone(together)
    which = pd.Categorical(
        points["base"].map(names) + " base", [f"{it} base" for it in names.values()]
    )
    yield from markdown.picture(
        folder,
        "other-bases-slack",
        plotting_families.slack_against_alone(points.assign(which=which).sort_values("which")),
        "What slack changes against how much more SFT alone knows of the language's tasks than CT "
        "alone, at the largest CT budget: a mark a language and base, the mean of its run seeds.",
    )
    yield (
        "The guess is from the first base and the larger one, so it is tested on the others, by "
        f"the rank correlation over the {len(more.languages)} languages: {tested_on(more, names)} "
        "This is the rule that was written down before the second base was trained, for the guess "
        "that {doc}`larger_model` made."
    )
    yield ""
    newest = [name for name in more.plan.bases if name not in LOOKED_AT]
    if 0 < len(newest) < len(more.plan.bases):
        yield (
            "On the newest alone, which had no part in anything that was said of it before: "
            f"{tested_on(on_known(more, newest), names)}"
        )
        yield ""


def tested_on(run: Results, names: dict[str, str]) -> str:
    """What the guess comes to on some bases, as a sentence's end."""
    each, p, word = guess(run)
    *others, last = (
        f"{each[found]:+.2f}".replace("-", "−") + f" on the {called} base"
        for found, called in names.items()
        if found in each
    )
    told = f"{', '.join(others)} and {last}" if others else last
    return f"{told}, one-sided p {claims.p_text(p)} of their mean, so that it is **{word}**."
