"""The last part of the chapter on the full run: CT at twice the rate on other bases.

Made when the book is built, from committed rows alone: those of ``reference-faster-bases``, whose
claims were stated when the base that ships had shown the same (``reference-faster``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from langmerge import (
    arms,
    claims,
    full_run,
    markdown,
    other_bases,
    plotting,
    plotting_families,
    reference,
)
from langmerge.claims import Verdict
from langmerge.study import Results

PROFILE = "reference-faster-bases"
FINDING = 10
#: The claims that are drawn, all of them on accuracy, and what they compare.
DRAWN = {
    "f10-saturates": "TIES, largest − middle budget",
    "f10-saturates-more": "the same, minus that at the study's rate",
    "f10-average": "the same, minus the average's",
    "f10-slack": "TIES with slack − without",
    "f10-slack-more": "slack's gain, minus that at the study's rate",
}
#: What is told of each base at twice the rate: method and setting.
MERGES = (
    ("ct", "fixed"),
    ("average", "tuned"),
    ("task_arithmetic", "tuned"),
    ("ties_mean", "tuned"),
    ("ties_sv", "tuned"),
)


def page(folder: Path) -> str:
    """The generated part; its figure is saved into a folder."""
    run = other_bases.whole(PROFILE)
    if run is None:
        return reference.not_computed(PROFILE)
    folder.mkdir(parents=True, exist_ok=True)
    return "\n".join(_page(run, folder)) + "\n"


def _page(run: Results, folder: Path) -> Iterator[str]:
    names = other_bases.names_of(run)
    judged = {it.claim: it for it in claims.judge(run, FINDING, missing_ok=True)}
    yield from full_run.about(run)
    yield f"Bases: {', '.join(names.values())}."
    yield ""
    yield from full_run.verdict_table(run)
    yield outcome(judged)
    yield ""
    there = {
        claim: what for claim, what in DRAWN.items() if judged[claim].verdict != claims.NOT_TESTED
    }
    yield from markdown.picture(
        folder,
        "faster-bases",
        plotting_families.effects_by_base(*other_bases.drawn(run, there, names)),
        "Effects at twice the rate on each base: means over the languages. The black line is the "
        "95 % interval that decides, the wider of those over languages and over bases.",
    )
    yield from other_bases.each_base(run, names, [FINDING])
    yield from _ends(run, names)


def _ends(run: Results, names: dict[str, str]) -> Iterator[str]:
    """How high each merge is at the middle and the largest budget, on each base and the first."""
    (name,), (_, middle, largest) = arms.ARMS["faster"], run.budgets
    runs = {called: other_bases.on_bases(run, [found]) for found, called in names.items()}
    first = reference.load("reference-faster")
    if first is not None:
        runs = {"first": first, **runs}
    yield from markdown.table(
        ["method", *(f"{called} base" for called in runs)],
        (
            [
                plotting.label(method),
                *(
                    full_run.from_to(its, f"{name}/{method}", setting, [middle], [largest])
                    for its in runs.values()
                ),
            ]
            for method, setting in MERGES
        ),
    )
    chance = f"{100 * full_run.chance(run):.1f}"
    yield (
        "Accuracy (%) at twice the rate, at the middle and at the largest budget, means over "
        f"languages and run seeds. Chance is {chance}. The first base has no part in the claims "
        "above, other languages and two run seeds, and not all of these merges."
    )
    yield ""


def outcome(judged: dict[str, Verdict]) -> str:
    """What is said by the rule that was written down before the run (`design-log.md`)."""
    fall, average, ct, slack = (
        judged[f"f10-{claim}"].verdict for claim in ("saturates", "average", "ct", "slack")
    )
    if claims.NOT_TESTED in (fall, average, ct, slack):
        return "By the rule that was written down before, nothing is said: a model is missing."
    if fall == ct == "holds":
        of_fall = "that the TIES merge fails where CT goes far is no one base's"
    elif fall == "fails":
        of_fall = "the fall of the TIES merge was the first base's"
    else:
        of_fall = "whether the TIES merge falls on other bases is open"
    of_average = {
        "holds": "it loses more than the average, and so goes with trim and election",
        "fails": "it loses no more than the average, so that a long CT update is enough",
    }.get(average, "whether it goes with trim and election is open")
    of_slack = {
        "holds": "the third finding stands where CT goes far",
        "fails": "slack's help there was the first base's",
    }.get(slack, "whether slack helps there is open")
    return f"By the rule that was written down before, {of_fall}; {of_average}; {of_slack}."
