"""Claims stated before the run, and the verdicts that a run earns.

``data/claims.yaml`` says for each claim what is compared, by which unit and test, and when
it holds or fails; its header gives the decision rules in words. This module reads that
file, computes the effects with `langmerge.statistics`, corrects them over the claims of
one finding (Holm), and puts the verdict into words. A verdict is one of "holds", "fails",
"inconclusive": in the lab. A claim whose data are missing is "not tested", and so is every
claim at 7B until rows of `langmerge paper` are there, which `paper_verdicts` weighs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from langmerge import paths, statistics
from langmerge.errors import LangmergeError, nearest
from langmerge.files import read_yaml
from langmerge.languages import load as load_language
from langmerge.statistics import Effect, Results, select

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

Budgets = Literal["smallest", "scarcest_two", "middle", "largest", "all", "none"]
Metric = Literal["accuracy", "margin", "log_bits_per_byte", "discarded_sft_share"]
Word = Literal["holds", "fails", "inconclusive", "not tested"]
Test = Literal["difference", "non_inferiority", "equivalence", "slope"]
#: Tests against a margin instead of against 0.
WITH_MARGIN = ("non_inferiority", "equivalence")
ALPHA = 0.05
#: What each finding is called, and the claim that stands for it.
FINDINGS = {
    1: ("Merging against CT-then-SFT", "f1-accuracy"),
    2: ("Saturation", "f2-merge-stops"),
    3: ("A slack variable", "f3-accuracy"),
    4: ("Beyond slack", "f4-widen"),
    5: ("The mechanism", "f5-restored"),
    6: ("Stronger baselines", "f6-replay"),
    7: ("Repeated text", "f7-replay"),
    8: ("CT at twice the rate", "f8-saturates"),
    9: ("Replay on other bases", "f9-replay"),
    10: ("Twice the rate on other bases", "f10-saturates"),
    11: ("Swapping layers", "f11-accuracy"),
    12: ("Swapping layers, text repeated", "f12-replay"),
    13: ("What is swapped", "f13-embeddings"),
    14: ("SFT with frozen embeddings", "f14-swapping"),
}
#: The findings that are the paper's; the others ask further.
PAPERS = (1, 2, 3)
NOT_TESTED: Word = "not tested"
AT_7B = NOT_TESTED


class MissingResults(LangmergeError):
    """The results lack a model that a claim compares: that claim is not tested."""


class Term(BaseModel):
    """One model of a contrast: a method at the CT budgets named, with its weight."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    budgets: Budgets
    weight: float
    setting: Literal["tuned", "default", "without slack", "draws", "early norm", "late norm"] = (
        "tuned"
    )


class Claim(BaseModel):
    """A claim with its decision rule; the fields are explained in ``data/claims.yaml``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=r"^f[0-9]+-[a-z0-9-]+$")]
    finding: Annotated[int, Field(ge=0)]  # 0: of none, a check of the controls
    statement: Annotated[str, Field(min_length=10)]
    metric: Metric
    unit: Literal["item", "seed"]
    test: Test
    side: Literal["greater", "less", "either"]
    correction: Literal["holm"]
    contrast: Annotated[tuple[Term, ...], Field(min_length=1)]
    abstract: str = ""
    smallest_effect: Annotated[float, Field(gt=0)] | None = None
    margin: Annotated[float, Field(gt=0)] | None = None
    monotone: bool = False

    @model_validator(mode="after")
    def _rule_is_complete(self) -> Claim:
        bound = "margin" if self.test in WITH_MARGIN else "smallest_effect"
        other = "smallest_effect" if bound == "margin" else "margin"
        if getattr(self, bound) is None or getattr(self, other) is not None:
            raise ValueError(f"a claim tested by {self.test} states {bound}, and no {other}")
        if (self.unit == "item") != (self.metric in ("accuracy", "margin")):
            raise ValueError(f"{self.metric} has no unit {self.unit!r}")
        if (self.test == "equivalence") != (self.side == "either"):
            raise ValueError("an equivalence, and nothing else, has side: either")
        if (self.test == "slope") != any(term.budgets == "all" for term in self.contrast):
            raise ValueError("a slope, and nothing else, is taken over budgets: all")
        if self.test == "slope" and (len(self.contrast) > 1 or self.unit != "seed"):
            raise ValueError("a slope is taken of one model, by seed")
        if self.monotone and self.test != "slope":
            raise ValueError("monotone is a condition on a slope")
        if self.test != "slope" and not math.isclose(sum(t.weight for t in self.contrast), 0):
            raise ValueError("the weights of a contrast sum to 0")
        return self


class _Claims(BaseModel):
    model_config = ConfigDict(extra="forbid")

    claims: Annotated[list[Claim], Field(min_length=1)]

    @model_validator(mode="after")
    def _ids_are_unique(self) -> _Claims:
        ids = [claim.id for claim in self.claims]
        twice = sorted({one for one in ids if ids.count(one) > 1})
        if twice:
            raise ValueError(f"claim ids occur twice: {', '.join(twice)}")
        return self


@dataclass(frozen=True)
class Verdict:
    """What a run says about a claim.

    `effect`, `low`, `high`: in the metric's units, the contrast as written (not turned to
    the claimed side); `n` items or seeds, `n_clusters` independent units; `p_holm` is
    corrected over the claims of the finding; `bound` is the margin or the smallest effect
    of interest, with the sign of the contrast as written. `note` says what the numbers alone
    do not. `bases`, `over` and `by_seed` are those of `statistics.Effect`. A claim that is not
    tested has no numbers (NaN), and `note` says what is missing.
    """

    claim: str
    statement: str
    metric: Metric
    unit: Literal["item", "seed"]
    test: Test
    effect: float
    low: float
    high: float
    p: float
    p_holm: float
    n: int
    n_clusters: int
    seeds: int
    verdict: Word
    languages: tuple[str, ...]
    bound: float
    note: str = ""
    at_7b: str = AT_7B
    bases: int = 1
    over: str = ""
    by_seed: tuple[tuple[int, float], ...] = ()

    def sentence(self) -> str:
        """The verdict as one sentence of prose, all of its numbers from the run."""
        return (
            f"{self.statement}: {self.verdict} in the lab ({self.measured()}); at 7B: {self.at_7b}."
        )

    def measured(self) -> str:
        """Effect, interval, p and what they rest on, for a sentence's brackets."""
        if self.verdict == NOT_TESTED:
            return self.note
        number, unit = _SHOWN[self.metric]
        what = "change per tenfold CT tokens" if self.test == "slope" else "difference"
        parts = [f"{what} {number(self.effect)} {unit}", self.interval()]
        if self.test in WITH_MARGIN:
            both = "±" if self.test == "equivalence" else ""
            parts.append(f"margin {both}{number(self.bound).removeprefix('+' if both else '')}")
        parts = [", ".join([*parts, f"{_p(self.p_holm)} after Holm"]), self.basis(), self.note]
        return "; ".join(filter(None, parts))

    def interval(self) -> str:
        """The 95 % interval in words, in the units of the metric."""
        return f"95 % interval {self.bounds()}" if math.isfinite(self.low) else self.bounds()

    def bounds(self) -> str:
        """The ends of the interval, where a heading says what they are of."""
        if not math.isfinite(self.low):
            return "no interval"
        number, _ = _SHOWN[self.metric]
        return f"{number(self.low)} to {number(self.high)}"

    def said(self, over: bool = True) -> str:
        """Effect, interval and verdict for a cell of a table.

        over: tell over what the interval is, where runs on several bases or seeds are compared.
        """
        if self.verdict == NOT_TESTED:
            return self.verdict
        bounds = f"{self.bounds()}, over {self.over or 'languages'}" if over else self.bounds()
        return f"{effect(self)} ({bounds}): **{self.verdict}**"

    def basis(self) -> str:
        """What the numbers rest on: items, concepts, seeds, languages."""
        if self.verdict == NOT_TESTED:
            return "nothing"
        seeds = _count(self.seeds, "seed")
        if self.bases > 1:
            seeds = f"{_count(self.bases, 'base')}, {seeds} each"
        if len(self.languages) > 1:
            joint = "on" if self.bases > 1 else "of"
            over = f", the interval over {self.over}" if self.over else ""
            return f"{_count(len(self.languages), 'language')} {joint} {seeds}{over}"
        if self.unit == "item":
            items, concepts = _count(self.n, "item"), _count(self.n_clusters, "concept")
            return f"{items} on {concepts}, {seeds}"
        return seeds


def load(path: Path | None = None) -> list[Claim]:
    """Reads and checks the claims (default: ``data/claims.yaml``).

    Raises LangmergeError naming the file, the claim and the field that is wrong.
    """
    path = path or paths.data() / "claims.yaml"
    try:
        content = read_yaml(path)
    except OSError as error:
        raise LangmergeError(f"{path}: cannot be read ({error.strerror}).") from error
    try:
        return _Claims.model_validate(content).claims
    except ValidationError as error:
        raise LangmergeError(_explain(path, content, error)) from error


def judge(
    results: Results,
    finding: int,
    claims: Sequence[Claim] | None = None,
    missing_ok: bool = False,
    over_seeds: bool = False,
) -> list[Verdict]:
    """The verdicts on the claims of one finding, from one run, by the rules of the claims.

    With several languages in the results, the languages are the units; with `over_seeds`, for a run
    of several languages and many seeds on one base, the wider of the intervals over languages and
    over seeds decides. Where the results lack a model that a claim compares: raises
    MissingResults, or with `missing_ok` that claim is "not tested" (Holm counts it with a p of 1).
    Raises LangmergeError where no claim belongs to the finding.
    """
    claims = load() if claims is None else claims
    chosen = [claim for claim in claims if claim.finding == finding]
    if not chosen:
        known = sorted({claim.finding for claim in claims})
        raise LangmergeError(f"no claim belongs to finding {finding}: known findings {known}.")
    how = _measured if missing_ok else measure
    effects = [how(results, claim, over_seeds) for claim in chosen]
    return _with_7b(_decided(results, chosen, effects))


def judge_all(results: Results | None, claims: Sequence[Claim] | None = None) -> dict[str, Verdict]:
    """The verdicts on all claims, by id; "not tested" where the data of one are missing.

    What is missing (all, where `results` is None) counts as p = 1 in the correction over the
    claims of its finding, so that a run with fewer models has no easier test.
    """
    claims = load() if claims is None else claims
    found: dict[str, Verdict] = {}
    for finding in sorted({claim.finding for claim in claims}):
        chosen = [claim for claim in claims if claim.finding == finding]
        found |= {verdict.claim: verdict for verdict in _with_7b(weigh(results, chosen))}
    return found


def weigh(results: Results | None, claims: Sequence[Claim]) -> list[Verdict]:
    """The verdicts on the claims of one finding from these results and no others.

    As `judge_all`, for one finding, and without a word on what is known at 7B.
    """
    return _decided(results, claims, [_measured(results, claim) for claim in claims])


def _with_7b(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts of the lab, each with what rows of released weights say of its claim."""
    from langmerge import paper_verdicts  # it weighs by this module's rules

    known = paper_verdicts.at_7b()
    return [replace(verdict, at_7b=known.get(verdict.claim, AT_7B)) for verdict in verdicts]


def _measured(results: Results | None, claim: Claim, over_seeds: bool = False) -> Effect | str:
    """The effect, or what is missing for it."""
    if results is None:
        return "there are no results"
    try:
        return measure(results, claim, over_seeds)
    except MissingResults as missing:
        return str(missing)


def _decided(
    results: Results | None, claims: Sequence[Claim], effects: Sequence[Effect | str]
) -> list[Verdict]:
    """The verdicts on the claims of one finding, from their effects."""
    pairs = list(zip(claims, effects, strict=True))
    raw = [1.0 if isinstance(it, str) else p_value(claim, it) for claim, it in pairs]
    corrected = statistics.holm(raw)
    return [
        untested(claim, it)
        if isinstance(it, str)
        else _verdict(results, claim, it, p, float(p_holm))
        for (claim, it), p, p_holm in zip(pairs, raw, corrected, strict=True)
    ]


def untested(claim: Claim, why: str) -> Verdict:
    """The verdict on a claim whose data are missing."""
    return Verdict(
        claim=claim.id,
        statement=" ".join(claim.statement.split()),
        metric=claim.metric,
        unit=claim.unit,
        test=claim.test,
        **dict.fromkeys(("effect", "low", "high", "p", "p_holm"), math.nan),
        **dict.fromkeys(("n", "n_clusters", "seeds", "bases"), 0),
        verdict=NOT_TESTED,
        languages=(),
        bound=_bound(claim),
        note=why,
    )


def measure(results: Results, claim: Claim, over_seeds: bool = False) -> Effect:
    """The effect that a claim is about, in its metric's units, the contrast as written.

    over_seeds: as in `judge`. Raises MissingResults where the results lack a model that the claim
    compares.
    """
    scores = _scores(results, claim)
    means, p = statistics.between_seeds(scores)
    if over_seeds:  # that seeds differ is in the interval then, and needs no note
        each = statistics.by_run(scores, _mean(claim), crossed_with="seed")
        return replace(statistics.pool_seeds(each), by_seed=means)
    return replace(_effect(claim, scores), by_seed=means, seeds_p=p)


def has_models(results: Results, claim: Claim) -> bool:
    """Whether the results have every model that a claim compares, at each of its CT budgets."""
    try:
        for term in claim.contrast:
            _chosen(results, claim, term, results.rows)
    except MissingResults:
        return False
    return True


def _scores(results: Results, claim: Claim) -> pd.DataFrame:
    """What a claim averages, in the column `score`: a row an item, or a row a seed."""
    if claim.unit == "item":
        return statistics.contrast_scores(*_contrast(results, claim))
    return _seed_rows(results, claim)


def _effect(claim: Claim, scores: pd.DataFrame, permute: bool = True) -> Effect:
    """The effect from the scores of one language or more."""
    if claim.unit == "item":
        return statistics.mean_of_scores(scores, permute)
    within = _over_seeds(scores) if len(scores["language"].unique()) == 1 else None
    return statistics.pool(statistics.by_run(scores, _over_seeds), within)


def estimates(results: Results, claim: Claim) -> pd.DataFrame:
    """What a claim is about, by language (rows) and base (columns): the units that are pooled.

    Raises MissingResults where the results lack a model that the claim compares.
    """
    return statistics.crossed(statistics.by_run(_scores(results, claim), _mean(claim)))


def _mean(claim: Claim) -> Callable[[pd.DataFrame], Effect]:
    """How the scores of a part of a run are averaged."""
    return _over_items if claim.unit == "item" else _over_seeds


def _contrast(results: Results, claim: Claim) -> tuple[list[tuple[float, pd.DataFrame]], str]:
    """The items that a claim weighs against each other, and the column that it reads."""
    _need_budgets(results, claim)
    compared = [term.method for term in claim.contrast]
    items = statistics.items_with_base(results)
    items = select(items, method=compared, task=list(results.tasks))
    parts = [(term.weight, _chosen(results, claim, term, items)) for term in claim.contrast]
    return parts, "correct" if claim.metric == "accuracy" else "margin"


def _seed_rows(results: Results, claim: Claim) -> pd.DataFrame:
    _need_budgets(results, claim)
    return seed_values(results, claim).rename("score").reset_index()


def _over_items(rows: pd.DataFrame) -> Effect:
    return statistics.mean_of_items(rows, "score")


def _over_seeds(rows: pd.DataFrame) -> Effect:
    return statistics.t_interval(rows["score"])


def across(results: Results, finding: int, claims: Sequence[Claim] | None = None) -> pd.DataFrame:
    """The effects that the claims of a finding are about, language by language.

    One row a claim and language, and where there are several languages a row with an empty
    `language` for all of them (t over the languages). Columns: claim, statement, metric, side,
    language, effect, low, high (of one seed alone infinite where the seed is the unit), n.
    """
    claims = load() if claims is None else claims
    several = len(results.languages) > 1
    rows = []
    for claim in (claim for claim in claims if claim.finding == finding):
        scores = _scores(results, claim)
        # The p of an effect is not told here.
        found = {
            code: _effect(claim, select(scores, language=code), permute=False)
            for code in results.languages
        }
        found |= {"": _effect(claim, scores)} if several else {}
        rows += [
            {
                "claim": claim.id,
                "statement": " ".join(claim.statement.split()),
                "metric": claim.metric,
                "side": claim.side,
                "language": code,
                "effect": effect.estimate,
                "low": effect.low,
                "high": effect.high,
                "n": effect.n,
            }
            for code, effect in found.items()
        ]
    return pd.DataFrame(rows)


def kinds_table(across: pd.DataFrame) -> pd.DataFrame:
    """`by_kind` of what is known of the languages, in words: a row a claim, a column a kind."""
    known = {code: load_language(code) for code in across["language"].unique() if code}
    kinds = {
        "words": {code: "generated" if it.is_control else "real" for code, it in known.items()},
        "word order": {code: it.word_order for code, it in known.items()},
    }
    found = by_kind(across, kinds)
    if found.empty:
        return found
    metrics = across.drop_duplicates("claim").set_index("claim")["metric"]
    found["said"] = [_said(metrics[row.claim], row) for row in found.itertuples()]
    counts = found.groupby("kind")["languages"].first()
    found["kind"] = [f"{kind} ({counts[kind]})" for kind in found["kind"]]
    return (
        found.pivot_table(index="claim", columns="kind", values="said", aggfunc="first")
        .loc[list(dict.fromkeys(found["claim"])), list(dict.fromkeys(found["kind"]))]
        .reset_index()
        .rename_axis(columns=None)
    )


def _said(metric: Metric, row: tuple) -> str:
    number, unit = _SHOWN[metric]
    if not math.isfinite(row.low):
        return f"{number(row.effect)} {unit}"
    return f"{number(row.effect)} ({number(row.low)} to {number(row.high)}) {unit}"


def by_kind(across: pd.DataFrame, kinds: dict[str, dict[str, str]]) -> pd.DataFrame:
    """Mean effects of kinds of languages, a row a claim, property and kind.

    across: as `across` gives. kinds: by property (such as "word order") each language's kind.
    Columns: claim, property, kind, languages (their number), effect, low and high (t over the
    languages; infinite for a single one).
    """
    rows = []
    single = across[across["language"] != ""]
    for claim, (name, kind_of) in itertools.product(single["claim"].unique(), kinds.items()):
        its = single[single["claim"] == claim]
        for kind, part in its.groupby(its["language"].map(kind_of)):
            found = statistics.t_interval(part["effect"])
            rows.append(
                {
                    "claim": claim,
                    "property": name,
                    "kind": kind,
                    "languages": len(part),
                    "effect": found.estimate,
                    "low": found.low,
                    "high": found.high,
                }
            )
    return pd.DataFrame(rows)


def by_seed(results: Results, claim: Claim) -> pd.Series:
    """The effect that a claim is about, by (language, base, seed)."""
    if claim.unit == "seed":
        _need_budgets(results, claim)
        return seed_values(results, claim)
    scores = statistics.contrast_scores(*_contrast(results, claim))
    each = scores.groupby(["language", "base", "seed", "task"])["score"].mean()
    return each.groupby(["language", "base", "seed"]).mean()


def by_base(results: Results, claim: Claim) -> pd.Series:
    """The effect that a claim is about on each base (hash), over its languages and run seeds."""
    return by_seed(results, claim).groupby("base").mean()


def seed_values(results: Results, claim: Claim) -> pd.Series:
    """One number per (language, base, seed): the contrast, or the slope, of a seed's values."""
    frame = _seed_frame(results, claim)
    total = 0.0
    for term in claim.contrast:
        part = _chosen(results, claim, term, frame).groupby(["language", "base", "seed"])
        if claim.test == "slope":
            each = part[["ct_tokens", "value"]].apply(
                lambda one: statistics.slope_per_decade(one["ct_tokens"], one["value"])
            )
        else:
            each = part["value"].mean()
        total = total + term.weight * each
    return total


def steady_share(results: Results, claim: Claim) -> float:
    """The share of seeds that move to the claimed side from each budget to the next."""
    return float((_moves(results, claim) > 0).all(axis=1).mean())


def unsteady(results: Results, claim: Claim) -> str:
    """Between which budgets a claim's seeds do not all move to its side, and how many do not.

    Empty where they do.
    """
    moves = _moves(results, claim)
    found = []
    for before, after in itertools.pairwise(_budgets(results, "all")):
        still = int((moves[after] <= 0).sum())
        if still:
            stay = "stay the same" if (moves[after] == 0).sum() == still else "do not"
            found.append(f"from {before:,} to {after:,} CT tokens {still} of {len(moves)} {stay}")
    return "; ".join(found)


def _moves(results: Results, claim: Claim) -> pd.DataFrame:
    """How far each seed (a row) moves to the claimed side on the way to each budget (a column)."""
    frame = _chosen(results, claim, claim.contrast[0], _seed_frame(results, claim))
    values = frame.pivot_table(
        values="value", index=["language", "base", "seed"], columns="ct_tokens"
    ).sort_index(axis=1)
    return (1 if claim.side == "greater" else -1) * values.diff(axis=1).iloc[:, 1:]


def p_value(claim: Claim, effect: Effect) -> float:
    """The p that Holm corrects: two-sided against 0, or one-sided against the margin."""
    if claim.test == "equivalence":
        return statistics.tost(effect, claim.margin)
    if claim.test != "non_inferiority":
        return effect.p
    return statistics.one_sided(effect, _bound(claim), claim.side)


def decide(claim: Claim, effect: Effect, p_holm: float, is_steady: bool = True) -> Word:
    """The decision rule of ``data/claims.yaml``, whose header states it in words."""
    low, high = effect.low, effect.high
    if claim.test == "equivalence":
        if p_holm < ALPHA:
            return "holds"
        return "fails" if low > claim.margin or high < -claim.margin else "inconclusive"
    if claim.side == "less":
        low, high = -high, -low
    if claim.test == "non_inferiority":
        if low > -claim.margin and p_holm < ALPHA:
            return "holds"
        return "fails" if high < -claim.margin else "inconclusive"
    if high < claim.smallest_effect:
        return "fails"
    return "holds" if low > 0 and p_holm < ALPHA and is_steady else "inconclusive"


def table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """The verdicts as a table for readers, indexed by claim id."""
    rows = [
        {
            "claim": verdict.statement,
            "effect": effect(verdict),
            "95 % interval": verdict.bounds(),
            "p (Holm)": p_text(verdict.p_holm),
            "rests on": verdict.note if verdict.verdict == NOT_TESTED else verdict.basis(),
            "in the lab": verdict.verdict,
            "at 7B": verdict.at_7b,
        }
        for verdict in verdicts
    ]
    index = pd.Index([verdict.claim for verdict in verdicts], name="id")
    return pd.DataFrame(rows, index=index)


def styled(verdicts: Sequence[Verdict], uuid: str = "verdicts") -> Styler:
    """The table for a notebook, each claim with its id, by which figures call it.

    The fixed `uuid` keeps executed notebooks equal.
    """
    bold = {"holds": "font-weight: bold", "fails": "font-weight: bold"}
    shown = table(verdicts)
    shown["claim"] = [f"{claim} ({name})" for name, claim in shown["claim"].items()]
    return (
        shown.style.set_uuid(uuid)
        .hide(axis="index")
        .map(lambda word: bold.get(word, ""), subset=["in the lab"])
        .set_properties(**{"text-align": "left", "vertical-align": "top"})
    )


def shown(metric: Metric, value: float) -> tuple[float, str]:
    """A value of a metric in the unit that readers see it in, and that unit."""
    factor, unit = _UNITS[metric]
    return factor(value), unit


def effect(verdict: Verdict) -> str:
    """The effect with its unit, in words for a table."""
    if verdict.verdict == NOT_TESTED:
        return NOT_TESTED
    number, unit = _SHOWN[verdict.metric]
    return f"{number(verdict.effect)} {unit}"


def by_run_seed(verdict: Verdict) -> str:
    """What each run seed alone says, to go on with in brackets; empty where there is one."""
    if len(verdict.by_seed) < 2:
        return ""
    *others, last = (as_text(verdict.metric, mean) for _, mean in verdict.by_seed)
    return f"; by run seed {', '.join(others)} and {last}"


def numbers(verdicts: Sequence[Verdict]) -> dict[str, str]:
    """What prose may quote, by name: ``<claim id>-verdict``, ``-effect``, ``-interval``, …"""
    quoted = {}
    for verdict in verdicts:
        quoted |= {
            f"{verdict.claim}-verdict": verdict.verdict,
            f"{verdict.claim}-effect": effect(verdict),
            f"{verdict.claim}-interval": verdict.interval(),
            f"{verdict.claim}-p": _p(verdict.p_holm),
            f"{verdict.claim}-basis": verdict.basis(),
            f"{verdict.claim}-sentence": verdict.sentence(),
        }
    return quoted


def _verdict(results: Results, claim: Claim, effect: Effect, p: float, p_holm: float) -> Verdict:
    where = unsteady(results, claim) if claim.monotone else ""
    word = decide(claim, effect, p_holm, is_steady=not where)
    return Verdict(
        claim=claim.id,
        statement=" ".join(claim.statement.split()),
        metric=claim.metric,
        unit=claim.unit,
        test=claim.test,
        effect=effect.estimate,
        low=effect.low,
        high=effect.high,
        p=p,
        p_holm=p_holm,
        n=effect.n,
        n_clusters=effect.n_clusters,
        seeds=effect.seeds,
        verdict=word,
        languages=tuple(results.languages),
        bound=_bound(claim),
        note=_note(claim, effect, word, where),
        bases=effect.bases,
        over=effect.over if effect.bases > 1 or effect.over == "seeds" else "",
        by_seed=effect.by_seed,
    )


def _bound(claim: Claim) -> float:
    """Margin or smallest effect, signed as the contrast: a margin lies on the worse side."""
    if claim.test == "equivalence":
        return claim.margin
    if claim.test == "non_inferiority":
        return claim.margin if claim.side == "less" else -claim.margin
    return claim.smallest_effect if claim.side == "greater" else -claim.smallest_effect


def _note(claim: Claim, effect: Effect, word: Word, unsteady: str) -> str:
    parts = (_note_on_word(claim, effect, word, unsteady), _note_on_seeds(claim, effect))
    return "; ".join(filter(None, parts))


def _note_on_seeds(claim: Claim, effect: Effect) -> str:
    """That run seeds differ by more than the languages' spread explains, and what that means."""
    if not effect.seeds_p < ALPHA:
        return ""
    number, unit = _SHOWN[claim.metric]
    said = ", ".join(f"{number(mean)} with seed {seed}" for seed, mean in effect.by_seed)
    return (
        f"run seeds differ ({_p(effect.seeds_p)}): {said} ({unit}); all languages share a seed's "
        "SFT expert and test items, so that the interval over languages does not hold what another "
        "seed would give"
    )


def _note_on_word(claim: Claim, effect: Effect, word: Word, unsteady: str) -> str:
    if not math.isfinite(effect.low):
        return f"one {'concept' if claim.unit == 'item' else 'seed'} alone gives no interval"
    if unsteady:
        return f"not every seed moves that way from each budget to the next: {unsteady}"
    beyond_zero = effect.low > 0 if claim.side == "greater" else effect.high < 0
    if word == "fails" and claim.test not in WITH_MARGIN and beyond_zero:
        return "the effect is there, but smaller than the smallest effect of interest"
    return ""


def _budgets(results: Results, name: Budgets) -> list[int]:
    known = sorted(int(budget) for budget in results.budgets if budget > 0)
    return {
        "smallest": known[:1],
        "scarcest_two": known[:2],
        "middle": statistics.middle(known),
        "largest": known[-1:],
        "all": known,
        "none": [0],
    }[name]


def _need_budgets(results: Results, claim: Claim) -> None:
    named = {term.budgets for term in claim.contrast} - {"none"}
    needed = 2 if named & {"scarcest_two", "middle", "all"} else len(named)
    found = len(_budgets(results, "all"))
    if found < needed:
        raise MissingResults(
            f"claim {claim.id} compares {needed} CT budgets, but profile {results.profile!r} has "
            f"{found}: run a profile with more budgets, such as "
            f"`langmerge run --language {results.languages[0]} --profile lab`."
        )


def _seed_frame(results: Results, claim: Claim) -> pd.DataFrame:
    """Rows with the claim's metric in `value`, and the base they belong to."""
    if claim.metric == "log_bits_per_byte":
        rows = select(results.rows, metric="bits_per_byte")
        return rows.assign(value=np.log(rows["value"]))
    tensors = results.diagnostics
    if "method" not in tensors:
        tensors = tensors.assign(method="ties_mean")
    if "base" not in tensors:
        only = results.rows.drop_duplicates("language").set_index("language")["base"]
        tensors = tensors.assign(base=tensors["language"].map(only))
    summed = statistics.whole_model(tensors)
    return summed.assign(value=summed[claim.metric])


def _chosen(results: Results, claim: Claim, term: Term, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of a term, after the check that no language, seed or budget is missing."""
    budgets = _budgets(results, term.budgets)
    settings = [term.setting, "fixed"]
    if term.setting == "draws":  # several models that differ in a random draw: their mean
        drawn = select(frame, method=term.method)["setting"].unique()
        settings = [setting for setting in drawn if setting.startswith("draw ")]
    found = select(frame, method=term.method, setting=settings, ct_tokens=budgets)
    variants = {"setting", "slack"} & set(found) if term.setting != "draws" else {"slack"}
    if len(found.drop_duplicates(sorted(variants))) > 1:
        variants = found[sorted(variants)].drop_duplicates().to_dict("records")
        raise LangmergeError(
            f"claim {claim.id}: {term.method} ({term.setting}) is several models: {variants}. "
            "Keep one of them in the results."
        )
    where = ["language", "base", "seed", "ct_tokens"]
    present = set(found[where].drop_duplicates().itertuples(index=False, name=None))
    bases = results.rows.groupby("language")["base"].unique()
    wanted = itertools.product(results.languages, results.seeds, budgets)
    for language, seed, budget in wanted:
        for base in bases.get(language, [""]):
            if (language, base, seed, budget) not in present:
                raise _missing(results, claim, term, (language, seed, budget))
    return found


def _missing(
    results: Results, claim: Claim, term: Term, where: tuple[str, int, int]
) -> MissingResults:
    language, seed, budget = where
    known = set(results.rows["method"])
    hint = "" if term.method in known else f" ({nearest(term.method, known)})"
    seeds = ",".join(str(one) for one in results.seeds)
    mend = (
        f"Make it with `langmerge run --language {language} --profile {results.profile} "
        f"--seeds {seeds}`, or name a method that was run."
    )
    if term.method not in known:
        mend = (
            "The profile does not run it: `families` there names what is run beside the findings."
        )
    if term.setting == "tuned" and "tuned" not in set(results.rows["setting"]):
        tune = f"langmerge tune --profile {results.profile}"
        mend = f"The profile has no tuned settings: run `{tune}`."
    if results.only and term.method not in results.only:
        mend = f"The profile runs {', '.join(results.only)} alone: name it there (`only`)."
    return MissingResults(
        f"claim {claim.id} needs the {claim.metric} of {term.method!r}{hint}, setting "
        f"{term.setting!r}, at {budget:,} CT tokens for {language}, seed {seed}; the results of "
        f"profile {results.profile!r} lack it. {mend}"
    )


def _explain(path: Path, content: object, error: ValidationError) -> str:
    """A pydantic error as lines that name the claim and the field."""
    lines = [f"{path}:"]
    for one in error.errors():
        where = list(one["loc"])
        if where[:1] == ["claims"] and len(where) > 1:
            where = [_name_of(content, where[1]), *where[2:]]
        hint = ""
        if one["type"] == "extra_forbidden":
            fields = Term.model_fields if "contrast" in where else Claim.model_fields
            hint = f" ({nearest(str(where[-1]), fields)})"
        message = one["msg"].removeprefix("Value error, ")
        lines.append(f"  {' › '.join(str(part) for part in where) or 'file'}: {message}{hint}")
    return "\n".join(lines)


def _name_of(content: object, index: int) -> str:
    try:
        return f"claim {content['claims'][index]['id']}"
    except (KeyError, TypeError):
        return f"claim number {index + 1}"


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


# How a reader sees a metric: the number in its unit, and the unit.
_UNITS: dict[str, tuple[Callable[[float], float], str]] = {
    "accuracy": (lambda value: 100 * value, "points"),
    "discarded_sft_share": (lambda value: 100 * value, "points"),
    "log_bits_per_byte": (lambda value: 100 * math.expm1(value), "% of bits per byte"),
    "margin": (lambda value: value, "nats"),
}


def _as_text(metric: str) -> Callable[[float], str]:
    """The function that writes a value of a metric in its unit."""
    factor, digits = _UNITS[metric][0], 2 if metric == "margin" else 1
    return lambda value: _signed(factor(value), digits)


# The number as text, and the unit.
_SHOWN = {metric: (_as_text(metric), unit) for metric, (_, unit) in _UNITS.items()}


def as_text(metric: Metric, value: float) -> str:
    """A value of a metric in the unit that readers see it in, signed, without the unit."""
    return _SHOWN[metric][0](value)


def p_text(p: float) -> str:
    """A p value as tables have it: ``< .001``, ``.031``."""
    return _p(p).removeprefix("p ").removeprefix("= ")


def _p(p: float) -> str:
    if math.isnan(p):
        return "no p"
    return "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("0.", ".", 1)


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")
