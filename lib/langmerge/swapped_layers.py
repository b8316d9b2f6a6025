"""The chapter on swapping layers: finding 1 with a merge that the paper does not ask.

Made when the book is built, from committed rows alone: those of ``reference-replay``, four bases on
which it had not been seen, beside those of ``reference-repeated`` on the first base. What of it
helps is asked in `swapped_parts`.
"""

from __future__ import annotations

from collections.abc import Iterator

from langmerge import (
    claims,
    full_run,
    markdown,
    other_bases,
    plotting,
    reference,
    repeated_text,
)
from langmerge.claims import Verdict
from langmerge.study import Results

#: The findings that the run decides here: with the text read once, and again.
ONCE, AGAIN = 11, 12
METHOD = "layer_swapping"
#: What stands beside it in the tables.
BESIDE = ("sft", "ct", "ct_then_sft", "average", "task_arithmetic", "ties_mean", METHOD,
          "ct_then_sft_repeated", "task_arithmetic_repeated", f"{METHOD}_repeated",
          "ct_then_sft_replay", "joint")  # fmt: skip
#: Of a table's columns, by their heads: the rows, and at which budgets.
Columns = dict[str, tuple[Results, list[int]]]
MEASURES = {"accuracy": "Accuracy (%)", "bits_per_byte": "Bits per byte"}


def page() -> str:
    """The chapter's generated part."""
    profile, _ = repeated_text.ON_BASES
    more, first = other_bases.whole(profile), reference.load(repeated_text.PROFILE)
    if more is None or first is None:
        return reference.not_computed(profile if more is None else repeated_text.PROFILE)
    return "\n".join(_page(more, first)) + "\n"


def _page(more: Results, first: Results) -> Iterator[str]:
    together = reference.joined(reference.like(first, more), more)
    names = other_bases.names_of(together)
    by_base: Columns = {
        f"{called} base": (other_bases.on_bases(together, [found]), together.budgets)
        for found, called in names.items()
    }
    by_budget: Columns = {f"{budget:,}": (first, [budget]) for budget in first.budgets}
    yield (
        f"Bases: {', '.join(more.plan.bases)}. Languages: {len(more.languages)}. Run seeds: "
        f"{', '.join(map(str, more.seeds))}. CT tokens: "
        f"{', '.join(f'{budget:,}' for budget in more.budgets)}."
    )
    yield ""
    for finding, said, heading in (
        (ONCE, outcome, ""),
        (AGAIN, outcome_again, "## With the text read again"),
    ):
        if heading:
            yield heading
            yield ""
        yield from full_run.verdict_table(more, [finding])
        yield said({it.claim: it for it in claims.judge(more, finding, missing_ok=True)})
        yield ""
        yield from other_bases.each_base(together, names, [finding])
    yield "## Beside the others"
    yield ""
    for metric, called in MEASURES.items():
        yield from _table(by_base, metric)
        yield (
            f"{called} at the two scarcest CT budgets, means over languages and run seeds. The "
            "first base has no part in the claims above."
        )
        yield ""
    yield "## With more text"
    yield ""
    for metric, called in MEASURES.items():
        yield from _table(by_budget, metric)
        yield (
            f"{called} on the first base by CT tokens, means over {len(first.languages)} "
            f"languages and run seeds {' and '.join(map(str, first.seeds))}: description."
        )
        yield ""


def outcome(judged: dict[str, Verdict]) -> str:
    """What is said by the rule that was written down before the run (`design-log.md`)."""
    words = {name.removeprefix("f11-"): it.verdict for name, it in judged.items()}
    if claims.NOT_TESTED in words.values():
        return "By the rule that was written down before, nothing is said: a model is missing."
    if words["accuracy"] == words["language"] == "holds":
        said = (
            "the paper's first finding stands in the lab for a merge other than the paper's, "
            "against the paper's rival"
        )
    elif words["accuracy"] == "fails":
        said = "what the full run shows was its base's, or its three languages'"
    else:
        said = "whether this merge is ahead on other bases is open"
    of_replay = {
        "holds": "it is a merge that one would use with so little text",
        "fails": "against the stronger rival, replay, it falls",
    }.get(words["replay"], "whether it is as good at the tasks as replay is open")
    return f"By the rule that was written down before, {said}; {of_replay}."


def outcome_again(judged: dict[str, Verdict]) -> str:
    """The same of text that is read again."""
    words = {name.removeprefix("f12-"): it.verdict for name, it in judged.items()}
    if claims.NOT_TESTED in words.values():
        return "By the rule that was written down before, nothing is said: a model is missing."
    if words["replay"] == words["replay-language"] == "holds":
        said = "there is a merge in the lab that one would use with so little text"
    elif words["replay"] == "fails":
        said = "replay stays ahead of every merge"
    else:
        said = "whether it is as good as replay is open"
    first = {
        "holds": "stands for this merge in the form that one would practise",
        "fails": "does not stand for this merge where both read again",
    }.get(words["ct-then-sft"], "is open for this merge where both read again")
    return f"By the rule that was written down before, {said}; the first finding {first}."


def _table(columns: Columns, metric: str) -> Iterator[str]:
    """A row a method of `BESIDE` that any column has."""
    rows = [
        [
            plotting.label(method),
            *(
                full_run.mean_of(
                    run, method, ["tuned", "fixed"], metric, [0] if method == "sft" else budgets
                )
                for run, budgets in columns.values()
            ),
        ]
        for method in BESIDE
    ]
    yield from markdown.table(
        ["method", *columns], (row for row in rows if any(row[1:])), numbers=True
    )
