"""The chapter on repeated text: finding 1 where CT reads scarce text again, as replay does.

Made when the book is built, from committed rows alone: those of ``reference-repeated``, whose
settings were chosen on the development languages before, and those of ``reference-replay``, the
same on other bases.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from langmerge import (
    claims,
    full_run,
    languages,
    markdown,
    other_bases,
    plotting,
    plotting_families,
    reference,
)
from langmerge.claims import Claim, Verdict
from langmerge.profiles import REPEATED
from langmerge.statistics import select, whole_model
from langmerge.study import Results

PROFILE = "reference-repeated"
FINDING = 7
#: The same on other bases, and the finding whose claims that run decides.
ON_BASES = ("reference-replay", 9)
RIVALS = ("ct_then_sft_replay", "joint")
#: What the figure draws; averaging and task arithmetic without repeated text are in the tables.
DRAWN = (*RIVALS, *REPEATED, "ct_then_sft", "ties_mean")
ONCE = ("sft", "ct", "ct_then_sft", "average", "task_arithmetic", "ties_mean", "layer_swapping")


def page(folder: Path) -> str:
    """The chapter's generated part; its figures are saved into a folder."""
    run = reference.load(PROFILE)
    if run is None:
        return reference.not_computed(PROFILE)
    folder.mkdir(parents=True, exist_ok=True)
    return "\n".join(_page(run, folder)) + "\n"


def _page(run: Results, folder: Path) -> Iterator[str]:
    yield from _about(run)
    yield from full_run.verdict_table(run)
    yield outcome({it.claim: it for it in claims.judge(run, FINDING, missing_ok=True)})
    yield ""
    yield from markdown.picture(
        folder,
        "repeated-text",
        plotting_families.over_languages(run, DRAWN, intervals=False),
        "Where CT reads its text again, beside those that read it once and the baselines that read "
        "it many times: mean over the languages (dots).",
    )
    yield from _by_budget(run, "accuracy")
    yield "Accuracy (%) by CT tokens, mean over languages and run seeds."
    yield ""
    yield from _by_budget(run, "bits_per_byte")
    yield "Bits per byte of the target language by CT tokens, mean over languages and run seeds."
    yield ""
    yield "## What reading again changes"
    yield ""
    yield from _against(run)
    yield from _discarded(run)
    yield "## On other bases"
    yield ""
    yield from _on_bases(run)


def _about(run: Results) -> Iterator[str]:
    names = ", ".join(languages.load(code).name for code in run.languages)
    yield (
        f"Languages: {names} ({len(run.languages)}). Run seeds: "
        f"{', '.join(map(str, run.seeds))}. CT tokens: "
        f"{', '.join(f'{budget:,}' for budget in run.budgets)}. Bases: {len(run.plan.bases)}."
    )
    yield ""
    chosen = {method: run.plan.tuned[method]["repeat_steps"] for method in REPEATED}
    told = ", ".join(
        f"{steps} steps for {plotting.label(REPEATED[method])}" for method, steps in chosen.items()
    )
    replay = run.plan.tuned["ct_then_sft_replay"]
    per_step, most = run.plan.continual_pretraining.tokens_per_step, max(chosen.values())
    passes = [f"{most * per_step / budget:.3g}" for budget in (min(run.budgets), max(run.budgets))]
    yield (
        f"Chosen on the development languages: {told}; replay as tuned takes "
        f"{round(replay['replay'] * replay['steps'])} steps on the text. {most} steps are "
        f"{passes[0]} passes more over the smallest budget and {passes[1]} over the largest here."
    )
    yield ""


def outcome(judged: dict[str, Verdict]) -> str:
    """What is said by the rule that was written down before the run (`design-log.md`)."""
    gain, replay = judged["f7-gain"], judged["f7-replay"]
    if claims.NOT_TESTED in (gain.verdict, replay.verdict):
        return "By the rule that was written down before, nothing is said: a model is missing."
    if gain.verdict == "fails":
        said = (
            "TIES does not gain from it, so that what counts is to train on both at once, and not "
            "how often the text is read"
        )
    elif gain.verdict != "holds":
        said = "whether TIES gains from it is open, and with it what replay has over merging"
    elif replay.high < 0:
        said = "TIES gains from it and is still behind replay: reading the text again is a part"
    elif replay.low > -abs(replay.bound):
        said = (
            "TIES gains from it and is then not behind replay: what replay had over it was how "
            "often it reads"
        )
    else:
        said = (
            "TIES gains from it, and whether it is then still behind replay is open: reading the "
            "text again is a part or all of it"
        )
    return f"By the rule that was written down before, {said}."


def _by_budget(run: Results, metric: str) -> Iterator[str]:
    again = sorted(_steps_read(run))
    rows = [(plotting.label(method), method, ["tuned", "fixed"]) for method in ONCE]
    rows += [(f"CT, {steps} steps again", "ct_repeated", [f"{steps} steps"]) for steps in again]
    rows += [(plotting.label(method), method, ["tuned"]) for method in (*REPEATED, *RIVALS)]
    yield from markdown.table(
        ["method", *(f"{budget:,}" for budget in run.budgets)],
        (
            [name, *(_at(run, method, setting, metric, budget) for budget in run.budgets)]
            for name, method, setting in rows
        ),
        numbers=True,
    )


def _at(run: Results, method: str, setting: list[str], metric: str, budget: int) -> str:
    return full_run.mean_of(run, method, setting, metric, [0 if method == "sft" else budget])


def _steps_read(run: Results) -> set[int]:
    """By how many steps the CT experts of the run went on."""
    named = select(run.rows, method="ct_repeated")["setting"].unique()
    return {int(name.removesuffix(" steps")) for name in named}


def _against(run: Results) -> Iterator[str]:
    """Each method on repeated text against itself without, and against the baselines."""
    (accuracy,) = (claim for claim in claims.load() if claim.id == "f7-replay")
    (text,) = (claim for claim in claims.load() if claim.id == "f7-language")
    against = (("once", accuracy), *((rival, accuracy) for rival in RIVALS), (RIVALS[0], text))
    yield from markdown.table(
        [
            "text repeated",
            "over itself, text read once",
            *(f"over {plotting.label(rival)}" for rival in RIVALS),
            "bits per byte, over replay (%)",
        ],
        (
            [
                plotting.label(REPEATED[method]),
                *(
                    _difference(run, claim, method, REPEATED[method] if it == "once" else it)
                    for it, claim in against
                ),
            ]
            for method in REPEATED
        ),
    )
    yield (
        "At the two scarcest CT budgets, in points of accuracy but for the last column: mean of "
        "the languages' differences with the 95 % interval over the languages, each by itself, "
        "with no correction for their number. Description, but for what the claims above are on."
    )
    yield ""


def _difference(run: Results, like: Claim, one: str, other: str) -> str:
    terms = (
        term.model_copy(update={"method": method})
        for term, method in zip(like.contrast, (one, other), strict=True)
    )
    return full_run.with_interval(run, like.model_copy(update={"contrast": tuple(terms)}))


def _discarded(run: Results) -> Iterator[str]:
    """How long the CT update is with repeated text, and what the election discards of SFT."""
    both = ("ties_mean", "ties_mean_repeated")
    tensors = select(run.diagnostics, method=list(both), setting="tuned")
    mean = (
        whole_model(tensors)
        .groupby(["method", "ct_tokens"])[["norm_ratio", "discarded_sft_share"]]
        .mean()
    )
    yield from markdown.table(
        [
            "CT tokens",
            *(f"{what}: {how}" for what in _OF_MERGE.values() for how in ("once", "again")),
        ],
        (
            [
                f"{budget:,}",
                *(
                    form(mean.loc[method, budget][what])
                    for what, form in _FORMS.items()
                    for method in both
                ),
            ]
            for budget in run.budgets
        ),
        numbers=True,
    )
    yield (
        "The length of the CT update over that of SFT, and the share of SFT parameters in % that "
        "mean-TIES discards, with the text read once and again; means over languages and run seeds."
    )
    yield ""


def _on_bases(run: Results) -> Iterator[str]:
    """The claims on the bases that none of this was seen on, and each base by itself."""
    profile, finding = ON_BASES
    more = other_bases.whole(profile)
    if more is None:
        yield reference.not_computed(profile)
        return
    yield (
        f"Bases: {', '.join(more.plan.bases)}. Languages: {len(more.languages)}. Run seeds: "
        f"{', '.join(map(str, more.seeds))}. CT tokens: "
        f"{', '.join(f'{budget:,}' for budget in more.budgets)}."
    )
    yield ""
    yield from full_run.verdict_table(more, [finding])
    yield outcome_on_bases({it.claim: it for it in claims.judge(more, finding, missing_ok=True)})
    yield ""
    together = reference.joined(reference.like(run, more), more)
    names = other_bases.names_of(together)
    yield from other_bases.each_base(together, names, [finding])
    yield from markdown.table(
        ["method", *(f"{called} base" for called in names.values())],
        (
            [plotting.label(method), *_by_base(together, names, method)]
            for method in ("sft", *ONCE[2:], *REPEATED, RIVALS[0])
        ),
        numbers=True,
    )
    yield (
        "Accuracy (%) at the two scarcest CT budgets, mean over languages and run seeds. The first "
        "base is the one that all of this was seen on; it has no part in the claims above."
    )
    yield ""


def _by_base(together: Results, names: dict[str, str], method: str) -> Iterator[str]:
    budgets = [0] if method == "sft" else list(together.budgets)
    for found in names:
        alone = other_bases.on_bases(together, [found])
        yield full_run.mean_of(alone, method, ["tuned", "fixed"], "accuracy", budgets)


def outcome_on_bases(judged: dict[str, Verdict]) -> str:
    """What is said of the other bases by the rule that was written down before the run."""
    replay, merge, first = (
        judged[claim].verdict for claim in ("f9-replay", "f9-task-arithmetic", "f9-merging")
    )
    if claims.NOT_TESTED in (replay, merge, first):
        return "By the rule that was written down before, nothing is said: a model is missing."
    of_replay = {
        "holds": "replay's lead over TIES is no one base's",
        "fails": "replay's lead over TIES was the first base's",
    }.get(replay, "whether replay leads TIES on other bases is open")
    of_merge = {
        "holds": "task arithmetic on repeated text is a merge that one would use with so little "
        "text",
        "fails": "task arithmetic on repeated text is behind replay too",
    }.get(merge, "whether task arithmetic on repeated text is as good as replay is open")
    of_first = {
        "holds": "stands for that merge in the form that one would practise, with text read again",
        "fails": "does not stand for that merge either where both read again",
    }.get(first, "is open for that merge where both read again")
    return (
        f"By the rule that was written down before, {of_replay}; {of_merge}; the first finding "
        f"{of_first}."
    )


_OF_MERGE = {"norm_ratio": "CT length / SFT length", "discarded_sft_share": "SFT discarded"}
_FORMS = {"norm_ratio": "{:.2f}".format, "discarded_sft_share": lambda share: f"{100 * share:.1f}"}
