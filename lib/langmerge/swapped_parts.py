"""A part of the chapter on swapping layers: what of it helps, by intervention.

Made when the book is built, from committed rows alone: those of ``reference-replay``, in which the
embeddings and the layers of the two updates are apart (`families.PARTS`), and the trials by which
the settings of layer swapping were chosen (``data/profiles/lab.trials.csv``).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from langmerge import (
    claims,
    full_run,
    markdown,
    other_bases,
    paths,
    plotting_families,
    reference,
    repeated_text,
)
from langmerge.claims import Verdict
from langmerge.families import PARTS
from langmerge.statistics import select
from langmerge.study import Results

#: The finding that the run decides here.
FINDING = 13
#: The parts of the two updates that are there or not; the layers of SFT always are.
FACTORS = {
    "ct_embeddings": "CT's embeddings",
    "ct_layers": "CT's layers",
    "sft_embeddings": "SFT's embeddings",
}
#: Every model by what is there of these: the six, and two that the findings have anyway.
MODELS = {**PARTS, "sft": ("sft_embeddings",), "task_arithmetic": tuple(FACTORS)}
#: What is said of each part, by its claim.
EFFECTS = {
    "ct-embeddings": ("the CT model's update of the embeddings", "helps", "help"),
    "ct-layers": ("its update of the layers", "costs", "cost"),
    "sft-embeddings": ("the SFT model's update of the embeddings", "costs", "cost"),
}


def page(folder: Path) -> str:
    """The generated part; its figure is saved into a folder."""
    profile, _ = repeated_text.ON_BASES
    run = other_bases.whole(profile)
    if run is None:
        return reference.not_computed(profile)
    folder.mkdir(parents=True, exist_ok=True)
    return "\n".join(_page(run, folder)) + "\n"


def _page(run: Results, folder: Path) -> Iterator[str]:
    names = other_bases.names_of(run)
    yield from full_run.verdict_table(run, [FINDING])
    yield outcome({it.claim: it for it in claims.judge(run, FINDING, missing_ok=True)})
    yield ""
    yield from other_bases.each_base(run, names, [FINDING])
    found = models(run)
    yield from _table(found)
    yield from markdown.picture(
        folder,
        "swapped-parts",
        plotting_families.parts(found),
        "SFT's layers with each choice of the other parts, at the two scarcest CT budgets: means "
        "over languages and run seeds. Large marks are means over the bases, small ones bases.",
    )
    yield "### In the search"
    yield ""
    yield from _settings_tried(trials())


def outcome(judged: dict[str, Verdict]) -> str:
    """What is said by the rule that was written down before the run (`design-log.md`)."""
    words = {name.removeprefix("f13-"): it.verdict for name, it in judged.items()}
    if claims.NOT_TESTED in words.values():
        return "By the rule that was written down before, nothing is said: a model is missing."
    if words["embeddings"] == words["embeddings-language"] == "holds":
        said = "what helps is the CT model's embeddings, and no layer of it is needed"
    elif words["embeddings"] == "fails":
        said = "the CT model's layer does something that its embeddings alone do not"
    else:
        said = "whether the CT model's layer is needed is open"
    of_parts = []
    for claim, (what, does, do) in EFFECTS.items():
        of_parts.append(
            {
                "holds": f"{what} {does}",
                "fails": f"{what} does not {do} by as much as three points",
            }.get(words[claim], f"whether {what} {does} is open")
        )
    return f"By the rule that was written down before, {said}; {'; '.join(of_parts)}."


def models(run: Results) -> pd.DataFrame:
    """The eight models' means at the profile's budgets, a row a model and base.

    Columns: method, a column (bool) for each of `FACTORS`, base (as it is called), accuracy (a
    share) and bits_per_byte.
    """
    names, rows = other_bases.names_of(run), []
    for method, there in MODELS.items():
        its = select(run.rows, method=method, setting=["tuned", "fixed"])
        by_base = {
            metric: its[its["task"].isin(tasks)].groupby("base", observed=True)["value"].mean()
            for metric, tasks in (("accuracy", run.tasks), ("bits_per_byte", ["text"]))
        }
        for found, called in names.items():
            means = {metric: value.get(found) for metric, value in by_base.items()}
            factors = {factor: factor in there for factor in FACTORS}
            rows.append({"method": method, **factors, "base": called, **means})
    return pd.DataFrame(rows)


def _table(found: pd.DataFrame) -> Iterator[str]:
    bases = list(found["base"].unique())
    yield from markdown.table(
        [*FACTORS.values(), *(f"{base} base" for base in bases), "bits per byte"],
        (_row(its.set_index("base"), bases) for _, its in found.groupby("method", sort=False)),
    )
    yield (
        "Accuracy (%) of the SFT model's layers with what the first three columns say, by base, at "
        "the two scarcest CT budgets; bits per byte are means over the bases. With SFT's "
        "embeddings alone it is the SFT model, with all three task arithmetic."
    )
    yield ""


def _row(its: pd.DataFrame, bases: list[str]) -> list[str]:
    there = ["yes" if its[factor].iloc[0] else "—" for factor in FACTORS]
    accuracy = [f"{100 * its.loc[base, 'accuracy']:.1f}" for base in bases]
    return [*there, *accuracy, f"{its['bits_per_byte'].mean():.3f}"]


def trials() -> pd.DataFrame:
    """The settings that were tried on the development languages, the best first.

    Columns: bottom, top, transition (shares or numbers of layers) and accuracy.
    """
    table = pd.read_csv(paths.data() / "profiles/lab.trials.csv")
    table = select(table, method="layer_swapping")
    tried = pd.DataFrame([ast.literal_eval(values) for values in table["values"]])
    tried["accuracy"] = table["accuracy"].to_numpy()
    return tried.sort_values("accuracy", ascending=False, ignore_index=True)


def _settings_tried(tried: pd.DataFrame) -> Iterator[str]:
    yield from markdown.table(
        ["bottom layers of CT (%)", "top layers of CT (%)", "layers averaged at a border",
         "accuracy (%)"],
        (
            [f"{100 * it.bottom:g}", f"{100 * it.top:g}", f"{it.transition:g}",
             f"{100 * it.accuracy:.1f}"]
            for it in tried.itertuples()
        ),
        numbers=True,
    )  # fmt: skip
    yield (
        "All settings that were tried on the development languages, over all budgets, on the first "
        "base. The embeddings are the CT model's in each of them, and so is the output matrix, "
        "which is the same here; the layers between are the SFT model's."
    )
    yield ""
