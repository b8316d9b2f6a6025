"""The verdicts page: every claim, what the paper's abstract says of it, and what came out.

Computed for the book's chapter of that name, from the reference run and from the runs that the
book was built from; the column "at 7B" from rows of `langmerge paper`. A claim whose data are
missing is "not tested" there, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from langmerge import (
    claims,
    coverage,
    languages,
    markdown,
    paper_results,
    paper_verdicts,
    paths,
    power,
    statistics,
)
from langmerge.claims import NOT_TESTED, Claim, MissingResults, Verdict
from langmerge.statistics import Results

#: From this many units on a t interval needs no other beside it.
MANY = 30
REFERENCE = "reference run"
#: Which of the committed runs has the models of a finding, if not the run of many languages.
PROFILES = {
    4: "reference-full",
    5: "reference-full",
    6: "reference-baselines",
    7: "reference-repeated",
    8: "reference-faster",
    9: "reference-replay",
    10: "reference-faster-bases",
    11: "reference-replay",
    12: "reference-replay",
    13: "reference-replay",
    14: "reference-replay",
}
NOTHING = "nothing"


def page(results: Mapping[str, Results]) -> dict[str, str]:
    """The Markdown files that ``book/verdicts.md`` includes, by name.

    results: the book's own runs by language, the first of which has the chapters that are linked.
    """
    stated = claims.load()
    findings = _findings(stated)
    runs = {REFERENCE: _committed(findings), **_several_bases()}
    for code, found in results.items():
        runs[languages.load(code).name] = dict.fromkeys(findings, found)
    judged = {name: _judged(its, stated) for name, its in runs.items()}
    chapters = {number: _chapter(next(iter(results)), number) for number in findings}
    return {
        "verdicts_summary.md": summary(stated, judged, chapters),
        "verdicts_details.md": details(stated, judged, runs) + real(),
        "verdicts_power.md": power.page(),
        "verdicts_coverage.md": _coverage(coverage.load()),
    }


def _several_bases() -> dict[str, dict[int, Results | None]]:
    """The run on several bases, of the paper's findings, by what it is called; empty without it."""
    from langmerge import other_bases

    if (run := other_bases.all_bases()) is None:
        return {}
    return {f"{len(run.plan.bases)} bases": dict.fromkeys(claims.PAPERS, run)}


def of_reference(findings: Sequence[int]) -> dict[str, Verdict]:
    """The verdicts on all claims of some findings, from the committed runs that have the models."""
    return _judged(_committed(findings), claims.load())


def _committed(findings: Sequence[int]) -> dict[int, Results | None]:
    """The committed run that each finding is asked of; None where there is none yet."""
    from langmerge import reference

    profile = {number: PROFILES.get(number, reference.PROFILE) for number in findings}
    loaded = {name: reference.load(name) for name in dict.fromkeys(profile.values())}
    return {number: loaded[name] for number, name in profile.items()}


def _judged(
    by_finding: Mapping[int, Results | None], stated: Sequence[Claim]
) -> dict[str, Verdict]:
    """The verdicts on all claims, each from the run that its finding is asked of."""
    found: dict[str, Verdict] = {}
    for results in {id(one): one for one in by_finding.values()}.values():
        its = {number for number, one in by_finding.items() if one is results}
        chosen = [claim for claim in stated if claim.finding in its]
        found |= claims.judge_all(results, chosen)
    return found


def summary(
    stated: Sequence[Claim],
    judged: Mapping[str, Mapping[str, Verdict]],
    chapters: Mapping[int, str] | None = None,
) -> str:
    """A Markdown table a finding: claim, abstract, a column a run, at 7B, and where to look.

    judged: the verdicts by claim, by the run's name; a run has no column where it has no verdict.
    chapters: by finding a link to its chapter.
    """
    parts = []
    for finding in _findings(stated):
        its_claims = [claim for claim in stated if claim.finding == finding]
        asked = {name: its for name, its in judged.items() if its_claims[0].id in its}
        heads = ("Claim", "The paper's abstract", *(f"{name}, in the lab" for name in asked))
        rows = []
        for claim in its_claims:
            its = [verdicts[claim.id] for verdicts in asked.values()]
            said = [f"**{verdict.verdict}**" for verdict in its]
            where = f"{{ref}}`below <verdict-{claim.id}>`"
            what = f"{_one_line(claim.statement)} ({where})"
            rows.append((what, claim.abstract or NOTHING, *said, its[0].at_7b))
        parts.append(f"### {_title(finding)}\n\n{_table((*heads, 'At 7B'), rows)}")
        if chapters and chapters.get(finding):
            parts.append(f"Where to look: {chapters[finding]}.\n")
    return "\n".join(parts)


def details(
    stated: Sequence[Claim],
    judged: Mapping[str, Mapping[str, Verdict]],
    runs: Mapping[str, Mapping[int, Results | None]],
) -> str:
    """A part a claim: the rule in short, and a table with a column a run.

    The tables of the claims that are not the paper's are folded: they are most of the page.
    """
    parts = []
    for claim in stated:
        asked = {name: its for name, its in judged.items() if claim.id in its}
        columns = [
            _numbers(claim, its[claim.id], runs[name][claim.finding]) for name, its in asked.items()
        ]
        rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
        notes = "".join(
            f"- {name}: {_one_line(its[claim.id].note).removesuffix('.')}.\n"
            for name, its in asked.items()
            if its[claim.id].note
        )
        numbers = f"{_table(('', *asked), rows)}\n{notes}"
        if claim.finding not in claims.PAPERS:
            numbers = f"````{{dropdown}} The numbers of {claim.id}\n{numbers}````\n"
        parts.append(
            f"(verdict-{claim.id})=\n### {claim.id}\n\n{_one_line(claim.statement)}.\n"
            f"{rule(claim)}\n\n{numbers}"
        )
    return "\n".join(parts)


def real() -> str:
    """What rows of the paper's weights say, language by language; empty without rows."""
    table = paper_verdicts.by_language()
    return f"\n### At 7B, language by language\n\n{table}\n" if table else ""


def rule(claim: Claim) -> str:
    """A claim's decision rule in a sentence or two."""
    number, unit = claims.shown(claim.metric, claim.margin or claim.smallest_effect)
    bound = f"{number:.3g} {unit}"
    if claim.test == "non_inferiority":
        return f"It holds where the whole interval is better than a loss of {bound}."
    per = " per tenfold CT tokens" if claim.test == "slope" else ""
    steady = ", and every seed moves that way from each budget to the next" * claim.monotone
    return (
        f"It holds where the whole interval lies beyond zero on the claimed side ({claim.side})"
        f"{steady}, and fails where it stays below {bound}{per}."
    )


def _numbers(claim: Claim, verdict: Verdict, results: Results | None) -> dict[str, str]:
    """What one run says of a claim, by the row of the table that it stands in."""
    tested = verdict.verdict != NOT_TESTED
    return {
        "in the lab": f"**{verdict.verdict}**",
        "effect": claims.effect(verdict) if tested else "",
        "95 % interval": _interval(verdict) if tested else "",
        "BCa interval": _bca(claim, verdict, results) if tested else "",
        "by run seed": _by_seed(claim, verdict) if tested else "",
        "p after Holm": claims.p_text(verdict.p_holm) if tested else "",
        "n": _n(verdict) if tested else "",
        "languages": str(len(verdict.languages)) if tested else "",
        "bases": str(verdict.bases) if tested else "",
        "at 7B": verdict.at_7b,
    }


def _interval(verdict: Verdict) -> str:
    if not math.isfinite(verdict.low):
        return "none"
    over = verdict.over or ("languages" if len(verdict.languages) > 1 else "")
    over = over or ("concepts" if verdict.unit == "item" else "seeds")
    return f"{verdict.interval().removeprefix('95 % interval ')} (over {over})"


def _by_seed(claim: Claim, verdict: Verdict) -> str:
    """What each run seed alone says, with the seed in brackets."""
    if len(verdict.by_seed) < 2:
        return "–"
    said = ((claims.as_text(claim.metric, mean), seed) for seed, mean in verdict.by_seed)
    return ", ".join(f"{mean} ({seed})" for mean, seed in said)


def _n(verdict: Verdict) -> str:
    seeds = f"{verdict.seeds} seed{'s' * (verdict.seeds != 1)} each"
    return f"{verdict.n:,} items, {seeds}" if verdict.unit == "item" else seeds


def _bca(claim: Claim, verdict: Verdict, results: Results | None) -> str:
    """The BCa interval over the languages, where there are several and few."""
    if results is None or not 1 < len(verdict.languages) < MANY:
        return "–"
    try:
        units = claims.estimates(results, claim).mean(axis="columns")
    except MissingResults:  # then the claim is not tested either
        return "–"
    low, high = (claims.as_text(claim.metric, bound) for bound in statistics.bca(units))
    return f"{low} to {high} (over languages)"


def _coverage(table: pd.DataFrame) -> str:
    """The simulated coverage as Markdown: a row a design, a column an interval."""
    parts = []
    for units, part in table.groupby("units", sort=False):
        wide = part.pivot_table(
            index=["spread", "number"], columns="interval", values="coverage", sort=False
        )
        rows = [
            (*index, *("" if math.isnan(x) else f"{100 * x:.1f}" for x in line))
            for index, line in zip(wide.index, wide.to_numpy(), strict=True)
        ]
        parts.append(_table(("Spread", units.capitalize(), *wide.columns), rows))
    return "\n".join(parts)


def _chapter(language: str, finding: int) -> str:
    """A link to a finding's chapter in a language; empty where there is none."""
    found = sorted(paths.notebooks().glob(f"{finding:02d}_*.py"))
    stems = [path.stem for path in found if path.stem != paper_results.NOTEBOOK]
    return f"{{doc}}`/book/_executed/{language}/{stems[0]}`" if stems else ""


def _findings(stated: Sequence[Claim]) -> list[int]:
    return sorted({claim.finding for claim in stated})


def _title(finding: int) -> str:
    known = claims.FINDINGS.get(finding)
    return f"{finding}. {known[0]}" if known else f"Finding {finding}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(markdown.table(heads, rows))
