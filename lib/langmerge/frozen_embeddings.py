"""A part of the chapter on swapping layers: SFT that leaves the embeddings as they are.

Made when the book is built, from committed rows alone: those of ``reference-replay``, in which the
findings' methods have SFT that trains everything, and SFT that trains the layers alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from langmerge import claims, full_run, markdown, other_bases, plotting, reference, repeated_text
from langmerge.claims import Verdict
from langmerge.profiles import FROZEN
from langmerge.study import Results
from langmerge.swapped_layers import MEASURES

#: The finding that the run decides here.
FINDING = 14
#: Methods with SFT of the layers alone, by what they are with SFT of everything.
PAIRS = {"sft": "sft_frozen", **{like: method for method, like in FROZEN.items()}}
#: What stands beside them, and has no such SFT here.
BESIDE = ("ct", "ct_then_sft_replay")
SETTINGS = ["tuned", "fixed"]


def page() -> str:
    """The generated part."""
    profile, _ = repeated_text.ON_BASES
    run = other_bases.whole(profile)
    return reference.not_computed(profile) if run is None else "\n".join(_page(run)) + "\n"


def _page(run: Results) -> Iterator[str]:
    yield from full_run.verdict_table(run, [FINDING])
    yield outcome({it.claim: it for it in claims.judge(run, FINDING, missing_ok=True)})
    yield ""
    yield from other_bases.each_base(run, other_bases.names_of(run), [FINDING])
    for metric, called in MEASURES.items():
        yield from _table(run, metric)
        yield (
            f"{called} at the two scarcest CT budgets, means over languages and run seeds: with "
            "SFT that trains everything → with SFT that leaves the embeddings as they are."
        )
        yield ""


def outcome(judged: dict[str, Verdict]) -> str:
    """What is said by the rule that was written down before the run (`design-log.md`)."""
    words = {name.removeprefix("f14-"): it.verdict for name, it in judged.items()}
    if claims.NOT_TESTED in words.values():
        return "By the rule that was written down before, nothing is said: a model is missing."
    swapping = {
        "holds": "the lead of swapping layers is one over the better rival too",
        "fails": "the lead of swapping layers was its rival's fault, and is had without merging",
    }.get(words["swapping"], "whether swapping layers is ahead of the better rival is open")
    both = {words["merging"], words["merging-language"]}
    merging = "is open for task arithmetic where SFT leaves the embeddings alone"
    if both == {"holds"}:
        merging = "stands for task arithmetic where SFT leaves the embeddings alone"
    elif "fails" in both:
        merging = "does not stand for task arithmetic where SFT leaves the embeddings alone"
    ties = {"holds": "stands for TIES", "fails": "does not stand for TIES"}.get(
        words["ties"], "is open for TIES"
    )
    return (
        f"By the rule that was written down before, {swapping}; the paper's first finding "
        f"{merging}, and {ties}."
    )


def _table(run: Results, metric: str) -> Iterator[str]:
    runs = {
        f"{called} base": other_bases.on_bases(run, [found])
        for found, called in other_bases.names_of(run).items()
    }
    rows = [
        [
            plotting.label(method),
            *(_from_to(its, method, PAIRS.get(method), metric) for its in runs.values()),
        ]
        for method in (*PAIRS, *BESIDE)
    ]
    yield from markdown.table(["method", *runs], rows)


def _from_to(run: Results, plain: str, frozen: str | None, metric: str) -> str:
    """A method's mean with either SFT, "30.1 → 35.2"; one number where there is one."""
    its = [
        full_run.mean_of(
            run, method, SETTINGS, metric, [0] if method.startswith("sft") else run.budgets
        )
        for method in (plain, frozen)
        if method
    ]
    return " → ".join(its)
