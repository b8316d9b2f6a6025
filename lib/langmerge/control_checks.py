"""The chapter on controls: whether those of the reference run do what controls should.

Made when the book is built, from committed rows alone, by the rules of ``data/checks.yaml``: of the
reference run, and of it together with ``reference-three-bases``, which has all controls too, the
ceiling at the largest budget alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from langmerge import (
    claims,
    full_run,
    many_seeds,
    markdown,
    other_bases,
    other_traces,
    paths,
    plotting,
    plotting_families,
    reference,
    statistics,
    verdicts,
)
from langmerge.claims import Claim, Verdict
from langmerge.statistics import Effect, select
from langmerge.study import Results
from langmerge.tasks import TASKS

#: The models that are drawn: the controls, and what they are controls of.
DRAWN = ("target_sft", "ct_then_sft", "ties_mean", "shuffled_ct", "sft", "half_sft")
#: What stands beside each other on every base, with the settings that each is shown in.
BESIDE = {
    "base": ("fixed",),
    "sft": ("fixed",),
    "half_sft": ("fixed",),
    "ct": ("fixed",),
    "average": ("tuned", "default"),
    "task_arithmetic": ("tuned",),
    "chat_vector": ("fixed",),
    "ties_mean": ("tuned", "default"),
    "norm_matched_ct": ("tuned",),
    "shuffled_ct": ("tuned",),
    "ties_sv": ("tuned", "default"),
    "ct_then_sft": ("tuned", "default"),
    "target_sft": ("fixed",),
}
#: The smallest effect of interest on accuracy, as in ``data/claims.yaml``.
SMALLEST = 0.03


def page(folder: Path) -> str:
    """The chapter's generated part; its figure is saved into a folder."""
    first, three, five = reference.load(), other_bases.three_bases(), other_bases.all_bases()
    if first is None or three is None or five is None:
        return reference.not_computed(other_bases.missing())
    folder.mkdir(parents=True, exist_ok=True)
    return "\n".join(_page(first, three, five, folder)) + "\n"


def stated() -> list[Claim]:
    """The checks, in their order."""
    return claims.load(paths.data() / "checks.yaml")


def judge(first: Results, three: Results) -> list[tuple[Verdict, Verdict]]:
    """What each check comes to on the first base, and on the three together.

    What was not run on three is not tested there, and takes no part in their correction.
    """
    checks = stated()
    together = claims.judge_all(three, [it for it in checks if claims.has_models(three, it)])
    alone = claims.judge_all(first, checks)
    lacking = "this control is trained, and at these budgets on the first base alone"
    return [(alone[it.id], together.get(it.id) or claims.untested(it, lacking)) for it in checks]


def deciding(judged: list[tuple[Verdict, Verdict]]) -> list[Verdict]:
    """Of each check the verdict that decides: that of three bases where there is one."""
    return [alone if it.verdict == claims.NOT_TESTED else it for alone, it in judged]


def _page(first: Results, three: Results, five: Results, folder: Path) -> Iterator[str]:
    judged = judge(first, three)
    yield from _misbehaving(judged, three)
    yield (
        f"Languages: {len(first.languages)}. Run seeds: {', '.join(map(str, first.seeds))}. Three "
        f"bases: {', '.join(other_bases.names_of(three).values())}."
    )
    yield ""
    yield from markdown.table(
        ["Check", "first base", "three bases"],
        ([one.statement, one.said(), together.said()] for one, together in judged),
    )
    yield (
        "Effect, 95 % interval with what it is over, and verdict by the rule of each check, "
        "corrected over all checks of a column. Where both are there, three bases decide. The "
        "first two effects are SFT alone minus the merge with the shuffled update."
    )
    yield ""
    yield from markdown.picture(
        folder,
        "controls",
        plotting_families.over_languages(first, DRAWN),
        "The controls and what they are controls of, on the first base: means over the languages "
        "with their 95 % intervals; dots are languages.",
    )
    yield "## Every model on each base"
    yield ""
    yield from _beside(three)
    yield "## Chance"
    yield ""
    far = dealt_anew(three)
    yield from _chance(three, far)
    yield from _without(uneven(far), first, five)


def _misbehaving(judged: list[tuple[Verdict, Verdict]], three: Results) -> Iterator[str]:
    """What does not do what it should, before everything else."""
    found = deciding(judged)
    wrong = [it for it in found if it.verdict != "holds"]
    if not wrong:
        yield f"All {len(found)} checks hold: every control does what it should."
    else:
        yield f"Of {len(found)} checks {len(wrong)} do not hold:"
        yield ""
        yield from (f"- {it.statement}: {it.said()}{_by_base(it, three)}." for it in wrong)
    yield ""


def _by_base(it: Verdict, three: Results) -> str:
    """What each base says of a check that was judged over several, for a sentence's end."""
    if it.bases < 2:
        return ""
    (claim,) = (claim for claim in stated() if claim.id == it.claim)
    means = claims.by_base(three, claim)[list(other_bases.names_of(three))]
    *others, last = (claims.as_text(it.metric, value) for value in means)
    return f"; by base {', '.join(others)} and {last}"


def _beside(three: Results) -> Iterator[str]:
    """How high each model is with little and with most text, what is untuned beside the tuned."""
    runs = {
        called: other_bases.on_bases(three, [found])
        for found, called in other_bases.names_of(three).items()
    }
    least, most = sorted(three.budgets)[:2], [max(three.budgets)]
    yield from markdown.table(
        ["model", *(f"{called} base" for called in runs)],
        (
            [
                plotting.label(method) + (", untuned" if setting == "default" else ""),
                *(full_run.from_to(it, method, setting, least, most) for it in runs.values()),
            ]
            for method, settings in BESIDE.items()
            for setting in settings
        ),
    )
    chance = f"{100 * full_run.chance(three):.1f}"
    yield (
        "Accuracy (%), means over languages and run seeds: with the two scarcest CT budgets → with "
        f"the largest; one number where there is no CT, a dash where it was not run. Chance is "
        f"{chance}. Task arithmetic is tuned to its default, at which it is Chat Vector."
    )
    yield ""


def _chance(three: Results, far: pd.DataFrame) -> Iterator[str]:
    """What the base solves before any training, and every model with answers dealt anew."""
    before = untrained(three)
    yield from markdown.table(
        ["task", "chance", "before any training", "answers dealt anew", "commonest answer"],
        (
            [
                task,
                f"{100 / TASKS[task]:.1f}",
                f"{100 * it.estimate:.1f} ({100 * it.low:.1f} to {100 * it.high:.1f})",
                f"{100 * far.loc[task, 'low']:.1f} to {100 * far.loc[task, 'high']:.1f}",
                f"{100 * far.loc[task, 'commonest']:.0f}",
            ]
            for task, it in before.items()
        ),
        numbers=True,
    )
    yield (
        "In %. Before any training: the accuracy of the bases themselves, means over languages, "
        "bases and the run seeds' items, with the wider of the 95 % intervals over languages and "
        f"over bases. Answers dealt anew: of {three.rows['cell'].nunique():,} models, how often "
        "the least and the most lucky are right on average where the right answers of a task's "
        "items are dealt anew among them. Commonest answer: how often a model gives the answer "
        "that it gives most, the median over the models."
    )
    yield ""


def untrained(run: Results) -> dict[str, Effect]:
    """The accuracy of the bases themselves on each task, as an effect over languages and bases."""
    rows = select(run.rows, method="base", metric="accuracy", task=list(run.tasks))
    return {
        str(task): statistics.pool(
            statistics.by_run(its, lambda part: statistics.t_interval(part["value"]))
        )
        for task, its in rows.groupby("task", sort=False)
    }


def dealt_anew(run: Results) -> pd.DataFrame:
    """How often models are right on average where a task's right answers are dealt anew.

    A row a task. Columns: low and high, over the models, exact, for the mean over all deals follows
    from how often each option is the answer and how often it is given; and commonest, the share of
    a model's items to which it gives its commonest answer, the median over the models (shares).
    """
    items = run.items[run.items["task"].isin(run.tasks)]
    model = [items[name] for name in ("task", "cell", "base", "language", "seed")]
    given, right = (
        pd.crosstab(model, items[which], normalize="index") for which in ("prediction", "answer")
    )
    mean = (given * right.reindex(columns=given.columns, fill_value=0)).sum(axis=1)
    by_task = mean.groupby("task")
    most = given.max(axis=1).groupby("task").median()
    return pd.DataFrame({"low": by_task.min(), "high": by_task.max(), "commonest": most})


def uneven(far: pd.DataFrame) -> list[str]:
    """The tasks on which luck alone moves a model by more than the smallest effect of interest."""
    chance = 1 / pd.Series(TASKS)[far.index]
    away = pd.concat([far["high"] - chance, chance - far["low"]], axis=1).max(axis=1)
    return [task for task in TASKS if task in away.index and away[task] > SMALLEST]


def _without(tasks: list[str], first: Results, five: Results) -> Iterator[str]:
    """What the paper's findings come to where the tasks of uneven answers are left out."""
    if not tasks or set(tasks).issuperset(first.tasks):
        return
    named = ", ".join(f"*{task}*" for task in tasks)
    yield f"## Without {', '.join(tasks)}"
    yield ""
    yield (
        f"On {named} the right answers of a run seed's items are spread so unevenly that a model "
        f"which always answers alike is off chance by more than {100 * SMALLEST:.0f} points, the "
        "smallest effect of interest. So here are the findings' claims on accuracy without it."
    )
    yield ""
    changed, rows, seeds = [], [], reference.load(many_seeds.PROFILE)
    runs = [
        ("reference run", first, other_bases.judge),
        (f"{len(five.plan.bases)} bases", five, other_bases.judge),
    ]
    if seeds is not None:
        runs.append((f"{len(seeds.seeds)} other run seeds", seeds, many_seeds.judge))
    for where, run, judged in runs:
        for was, now in zip(judged(run), judged(_less(run, tasks)), strict=True):
            if was.metric != "accuracy":
                continue
            rows.append([f"{was.statement} ({where})", was.said(), now.said()])
            if was.verdict != now.verdict:
                verdicts = f"{was.verdict} with all tasks, **{now.verdict}** without"
                changed.append(f"- {was.statement} ({where}): {verdicts}.")
    yield f"Of {len(rows)} verdicts {len(changed)} are others" + (":" if changed else ".")
    yield ""
    yield from changed
    yield ""
    yield from markdown.table(["Claim", "all tasks", f"without {', '.join(tasks)}"], rows)
    yield (
        "By the rules of the verdicts page, corrected within each column and run. Looked at when "
        "the checks had shown it: the verdicts stay those of all tasks, as they were stated."
    )
    yield ""
    yield from _beyond(tasks)
    if seeds is not None:
        yield from _between_seeds(seeds, tasks)
    if (others := other_bases.others()) is not None:
        kept = _less(others, tasks)
        said = other_bases.tested_on(kept, other_bases.names_of(kept))
        yield f"The guess about slack ({{doc}}`other_bases`), without {named}: {said}"
        yield ""
    if (traced := other_bases.whole(other_traces.PROFILE)) is not None:
        yield from _other_traces(five, traced, tasks)


def _less(run: Results, tasks: list[str]) -> Results:
    """A run without some of its tasks."""
    return reference.on_tasks(run, [task for task in run.tasks if task not in tasks])


def _between_seeds(seeds: Results, tasks: list[str]) -> Iterator[str]:
    """How far run seeds differ with all tasks and without some: how much of it is their luck."""
    every, kept = many_seeds.between_seeds(seeds), many_seeds.between_seeds(_less(seeds, tasks))
    told = "; ".join(
        f"{plotting.label(method)} {100 * every[method]:.1f} and {100 * kept[method]:.1f}"
        for method in every
    )
    yield (
        "How far a merge is ahead of CT-then-SFT differs between run seeds ({doc}`many_seeds`) by "
        f"a standard deviation, in points, with all tasks and without {', '.join(tasks)}, of: "
        f"{told}."
    )
    yield ""


def _other_traces(usual: Results, traced: Results, tasks: list[str]) -> Iterator[str]:
    """Which effects then lie outside what one more base of the usual trace would give."""
    names = list(traced.plan.bases)
    before, after = (
        other_traces.outlying(other_traces.effects(*runs), names)
        for runs in ((usual, traced), (_less(usual, tasks), _less(traced, tasks)))
    )
    told = "; ".join(f"on `{name}` {' and '.join(out) or 'none'}" for name, out in after.items())
    yield (
        f"Of the effects on bases of another trace ({{doc}}`other_traces`) "
        f"{'the same' if after == before else 'others'} lie outside what one more base of the "
        f"usual trace would give without {', '.join(tasks)}: {told}."
    )
    yield ""


def _beyond(tasks: list[str]) -> Iterator[str]:
    """Which verdicts beyond the paper's findings are others without some tasks."""
    number, changed = 0, []
    for finding, profile in verdicts.PROFILES.items():
        if finding in claims.PAPERS or (run := reference.load(profile)) is None:
            continue
        kept = _less(run, tasks)
        before, after = (claims.judge(it, finding, missing_ok=True) for it in (run, kept))
        for was, now in zip(before, after, strict=True):
            number += was.metric == "accuracy"
            if was.verdict != now.verdict:
                changed.append(f"{now.statement}: {was.verdict}, then {now.said()}")
    if number:
        yield (
            f"Of {number} verdicts on accuracy beyond the paper's findings {len(changed)} "
            f"{'is' if len(changed) == 1 else 'are'} another without {', '.join(tasks)}"
            f"{': ' + '; '.join(changed) if changed else ''}."
        )
        yield ""
