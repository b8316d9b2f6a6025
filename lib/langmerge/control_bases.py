"""The last part of the chapter on other bases: the control languages on some of them.

Made when the book is built, from committed rows alone: those of ``reference-controls``, beside the
real languages on the same bases (`other_bases`) and the control languages of the reference run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from langmerge import claims, markdown, other_bases, reference
from langmerge.study import Results

PROFILE = "reference-controls"


def page(_folder: Path) -> str:
    """The generated part."""
    found = runs()
    if found is None:
        return reference.not_computed(PROFILE)
    return "\n".join(_page(*found)) + "\n"


def runs() -> tuple[Results, Results, Results] | None:
    """The real languages, the control languages on the same bases, and the new rows of these.

    The first base is among the bases of the first two; None where rows lack.
    """
    five, first = other_bases.all_bases(), reference.load()
    new = other_bases.whole(PROFILE)
    if five is None or first is None or new is None:
        return None
    controls = reference.joined(reference.like(first, new), new)
    real = other_bases.on_known(five, controls.plan.bases)
    return reference.like(real, _asked_as(real, controls)), controls, new


def _asked_as(real: Results, controls: Results) -> Results:
    """The seeds and budgets of a run with the languages of another."""
    return replace(real, plan=controls.plan.model_copy(update={"languages": real.languages}))


def _page(real: Results, controls: Results, new: Results) -> Iterator[str]:
    names = other_bases.names_of(controls)
    together = reference.in_more_languages(real, controls)
    yield (
        f"Languages: {len(controls.languages)} control languages beside the {len(real.languages)} "
        f"real ones. Bases: {', '.join(names.values())}. Run seeds: "
        f"{', '.join(map(str, controls.seeds))}. CT tokens: "
        f"{', '.join(f'{budget:,}' for budget in controls.budgets)}."
    )
    yield ""
    earlier = {"these bases in the real languages": other_bases.judge(real)}
    yield from other_bases.verdicts_beside(together, other_bases.judge(together), earlier)
    yield from _real_and_control(real, controls, names)
    yield (
        f"The guess about slack, by the rank correlation over the {len(new.languages)} control "
        f"languages: {other_bases.tested_on(new, names)}"
    )
    yield ""


def _real_and_control(real: Results, controls: Results, names: dict[str, str]) -> Iterator[str]:
    """Every effect on each base in the real and in the control languages."""
    stated = other_bases.stated_claims()
    rows = []
    for name, what in other_bases.EFFECTS.items():
        claim = stated[name]
        try:
            kinds = [claims.by_base(run, claim)[list(names)] for run in (real, controls)]
        except claims.MissingResults:
            continue
        told = (
            " / ".join(claims.as_text(claim.metric, kind[found]) for kind in kinds)
            for found in names
        )
        rows.append([what, *told, claims.shown(claim.metric, 0.0)[1]])
    yield from markdown.table(["effect", *(f"{it} base" for it in names.values()), "unit"], rows)
    yield "Means over run seeds in the real languages / in the control languages. Description."
    yield ""
