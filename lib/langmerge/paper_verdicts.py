"""The claims of finding 3 at the size of the paper, from the rows of `langmerge paper`.

The rules are those of ``data/claims.yaml``, applied by the code that judges the lab's runs. The
one CT checkpoint that is released stands for the largest budget, TIES for "without slack", and
TIES with the slack that ``data/paper.yaml`` fixed beforehand (`judged_slack`) for the tuned slack.
In one language the items are the unit, clustered by text; of several, the languages. What the
released weights cannot say is "not tested", and counts in Holm's correction as in the lab.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import pandas as pd
from IPython.display import Markdown

from langmerge import claims, paper, paper_results
from langmerge.claims import NOT_TESTED, Claim, Verdict
from langmerge.errors import LangmergeError
from langmerge.hub_languages import catalogue, task_set
from langmerge.paper_results import PROFILE, Run

FINDING = 3
#: The triple of ``data/paper.yaml`` whose rows fill the column "at 7B".
TRIPLE = "paper"
#: What stands for the one CT budget: nobody says how many tokens it was.
_BUDGET = 1
_ROWS = ("language", "base", "seed", "task", "metric", "value", "method", "setting", "ct_tokens")


@dataclasses.dataclass(frozen=True)
class Real:
    """The runs of some languages as statistics and claims read them."""

    rows: pd.DataFrame
    items: pd.DataFrame
    diagnostics: pd.DataFrame
    languages: Sequence[str]
    tasks: Sequence[str]
    seeds: Sequence[int] = (0,)
    budgets: Sequence[int] = (_BUDGET,)
    profile: str = PROFILE
    only: Sequence[str] = ()


def judge(runs: Sequence[Run]) -> list[Verdict]:
    """The verdicts on the claims of finding 3 from the runs of one language or more.

    A claim whose data are missing is "not tested", and its note says what is missing.
    """
    stated = [claim for claim in claims.load() if claim.finding == FINDING]
    lacking = [reason for run in runs if (reason := _lacking(run))]
    if lacking or not runs:
        why = lacking[0] if lacking else "there are no rows of released weights"
        return [claims.untested(claim, why) for claim in stated]
    found = claims.weigh(as_results(runs), stated)
    return [
        dataclasses.replace(verdict, note=_note(claim, verdict, runs))
        for claim, verdict in zip(stated, found, strict=True)
    ]


def as_results(runs: Sequence[Run]) -> Real:
    """Runs as results: TIES and TIES at the judged slack, with the outcomes of the items."""
    items = [_items(run, task) for run in runs for task in run.chosen.tasks]
    names = list(dict.fromkeys(_short(task) for run in runs for task in run.chosen.tasks))
    found = pd.concat(items, ignore_index=True)
    keys = [name for name in _ROWS if name not in ("metric", "value")]
    rows = found.groupby(keys, sort=False)["correct"].mean().rename("value").reset_index()
    return Real(
        rows=rows.assign(metric="accuracy")[list(_ROWS)],
        items=found,
        diagnostics=pd.concat([_tensors(run) for run in runs], ignore_index=True),
        languages=[run.chosen.language.code for run in runs],
        tasks=names,
    )


def at_7b() -> dict[str, str]:
    """What the column "at 7B" says, by claim; a claim that is not in it is not tested there.

    Whole rows of the shipped triple `TRIPLE` count, kept or shipped, in all languages together.
    """
    paths = [path for path in paper_results.files() if path.stem.startswith(f"{TRIPLE}-")]
    return dict(_told(tuple((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in paths)))


def by_language() -> str:
    """The claims that were judged at 7B, each language alone, as a Markdown table; else empty."""
    lines = [
        (f"`{it.claim}`", run.chosen.language.name, f"**{it.verdict}**", measured(it))
        for run in _paper_runs()
        for it in judge([run])
        if it.verdict != NOT_TESTED
    ]
    heads = ("Claim", "Language", "Verdict", "Measured")
    if not lines:
        return ""
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, ["---"] * 4, *sorted(lines)))


def table(verdicts: Sequence[Verdict]) -> Markdown:
    """The verdicts for a page, with what each rests on, or what is missing."""
    lines = [
        (
            verdict.statement,
            f"**{verdict.verdict}**",
            claims.effect(verdict) if verdict.verdict != NOT_TESTED else "",
            verdict.bounds() if verdict.verdict != NOT_TESTED else "",
            claims.p_text(verdict.p_holm) if verdict.verdict != NOT_TESTED else "",
            "; ".join(filter(None, [basis(verdict), verdict.note])),
        )
        for verdict in verdicts
    ]
    heads = ("Claim", "With these weights", "Effect", "95 % interval", "p (Holm)", "Rests on")
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in (heads, ["---"] * 6, *lines)))


def sentences(verdicts: Sequence[Verdict]) -> Markdown:
    """The verdicts in prose, an item each."""
    return Markdown(
        "\n".join(f"- {v.statement}: **{v.verdict}** ({measured(v)})." for v in verdicts)
    )


def measured(verdict: Verdict) -> str:
    """Effect, interval and what they rest on; what is missing where nothing was tested."""
    if verdict.verdict == NOT_TESTED:
        return verdict.note
    said = [f"{claims.effect(verdict)}, {verdict.interval()}", basis(verdict)]
    return "; ".join(filter(None, [*said, verdict.note]))


def basis(verdict: Verdict) -> str:
    """What a verdict rests on: items and texts of a language, or languages."""
    if verdict.verdict == NOT_TESTED:
        return ""
    if len(verdict.languages) > 1:
        counted = f"{len(verdict.languages)} languages"
        return f"{counted}, {verdict.n:,} items" if verdict.unit == "item" else counted
    if verdict.unit == "item":
        return f"{verdict.n:,} items on {verdict.n_clusters:,} texts"
    return f"{verdict.n:,} value of one set of weights"


@functools.lru_cache(maxsize=4)
def _told(files: tuple[tuple[str, int, int], ...]) -> tuple[tuple[str, str], ...]:
    """`at_7b`, for files as they are now."""
    runs = _paper_runs() if files else []
    names = ", ".join(run.chosen.language.name for run in runs)
    return tuple(
        (verdict.claim, f"{verdict.verdict}: {measured(verdict)} ({names})")
        for verdict in (judge(runs) if runs else [])
        if verdict.verdict != NOT_TESTED
    )


def _paper_runs() -> list[Run]:
    """The runs whose verdicts count at 7B: those that lack nothing."""
    base = paper.read_study().triples[TRIPLE].base
    return [
        run
        for run in paper_results.runs()
        if run.chosen.triple_name == TRIPLE and not _lacking(run) and _is_of(run, base)
    ]


def _is_of(run: Run, base: str) -> bool:
    """Whether the rows are of the base's weights: a study of one's own may call others `paper`."""
    named = [its["base"].partition("@")[0] for its in run.rows["repositories"] if "base" in its]
    return set(named) == {base.partition("@")[0]}


def _pair(run: Run) -> dict[str, str]:
    """The titles of TIES and of TIES at the judged slack, by what they are called in claims."""
    slack = run.chosen.study.judged_slack
    merges = run.rows[run.rows["role"] == "merge"].drop_duplicates("model")
    wanted = {"without slack": ("ties", 0.0), "tuned": ("ties_sv", slack)}
    return {
        setting: row.model
        for setting, (method, number) in wanted.items()
        for row in merges.itertuples()
        if row.method == method and row.slack == number
    }


def _lacking(run: Run) -> str:
    """What a run lacks for the claims; empty where it lacks nothing."""
    found, slack = _pair(run), run.chosen.study.judged_slack
    name = run.chosen.language.name
    for setting, what in (("without slack", "TIES"), ("tuned", f"TIES with slack {slack:g}")):
        if setting not in found:
            return f"{name}: no merge by {what} was evaluated"
        for task in run.chosen.tasks:
            if run.items(found[setting], task) is None:
                return f"{name}: the items of {task} of {what} are not here"
    return ""


def _items(run: Run, task: str) -> pd.DataFrame:
    parts = []
    for setting, model in _pair(run).items():
        items = run.items(model, task)
        if items is None:
            raise LangmergeError(f"{run.file}: the items of {model} on {task} are not here.")
        short = _short(task)
        # Texts are numbered within a task: the same number is another text in another task.
        concept = short + "/" + items["concept"]
        parts.append(
            items.assign(
                base=run.chosen.triple_name,
                task=short,
                concept=concept,
                correct=items[task_set(task)[0].metric],
                method="ties_sv",
                setting=setting,
                slack=run.row(model, task)["slack"],
                ct_tokens=_BUDGET,
            )
        )
    return pd.concat(parts, ignore_index=True)


def _tensors(run: Run) -> pd.DataFrame:
    """The diagnosis at the two slacks, as the lab's diagnostics have it; empty without one."""
    known = {0.0: "without slack", run.chosen.study.judged_slack: "tuned"}
    found = run.diagnosis()
    columns = ["slack", "kept_sft", "trimmed_sft", "outvoted_sft", "norm_ct", "norm_sft"]
    found = pd.DataFrame(columns=columns, dtype=float) if found is None else found[columns]
    found = found[found["slack"].isin(list(known))]
    return found.assign(
        setting=found["slack"].map(known),
        method="ties_sv",
        language=run.chosen.language.code,
        base=run.chosen.triple_name,
        seed=0,
        ct_tokens=_BUDGET,
    )


def _short(task: str) -> str:
    """The name of a task's data set, the same in every language."""
    its, _ = task_set(task)
    return next(name for name, one in catalogue().tasks.items() if one == its)


def _note(claim: Claim, verdict: Verdict, runs: Sequence[Run]) -> str:
    """What the numbers of released weights do not say alone, or what they lack."""
    if verdict.verdict == NOT_TESTED:
        return _missing(claim, runs)
    if math.isfinite(verdict.low):
        return verdict.note
    return "one language alone gives no interval" if claim.unit == "seed" else verdict.note


def _missing(claim: Claim, runs: Sequence[Run]) -> str:
    if claim.metric == "log_bits_per_byte":
        return "no text is scored, only tasks"
    if {term.budgets for term in claim.contrast} - {"largest"}:
        return "one CT checkpoint is released, and the claim compares several"
    if any(term.method != "ties_sv" for term in claim.contrast):
        return "nothing is tuned on released weights: TIES has the settings of TIES with slack"
    if claim.metric == "discarded_sft_share":
        return f"no diagnosis lies beside the rows of {runs[0].file.stem}"
    return f"the rows have no {claim.metric}"
