"""The last part of the chapter on other bases: the whole reference run on three of them.

Made when the book is built, from committed rows alone: those of ``reference-three-bases`` with the
reference run's own, in real and in control languages.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from langmerge import claims, languages, markdown, other_bases, reference
from langmerge.study import Results


def page(_folder: Path) -> str:
    """The generated part."""
    found = runs()
    if found is None:
        return reference.not_computed(other_bases.missing())
    return "\n".join(_page(*found)) + "\n"


def runs() -> tuple[Results, Results, Results] | None:
    """Three bases in all languages, in the real ones, and in the control languages.

    None where rows lack.
    """
    if (three := other_bases.three_bases()) is None:
        return None
    control = [code for code in three.languages if languages.load(code).is_control]
    real = [code for code in three.languages if code not in control]
    return three, *(reference.in_languages(three, codes) for codes in (real, control))


def _page(together: Results, real: Results, controls: Results) -> Iterator[str]:
    names = other_bases.names_of(controls)
    others = other_bases.on_known(controls, controls.plan.bases[1:])
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
        "The guess about slack, by the rank correlation over the "
        f"{len(controls.languages)} control languages: {other_bases.tested_on(others, names)}"
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
