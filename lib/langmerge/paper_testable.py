"""What released weights can say about the findings, and what the rest would cost.

Shown with every plan and in the notebook of a run; it needs no row, no network and no model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langmerge.paper import Study, Triple

#: What can be asked of released weights, and the answer.
TESTABLE = (
    ("merging against its parts", "yes: base, CT, SFT and the merges are evaluated on one set"),
    ("a slack variable (finding 3)", "yes: TIES with slacks of our construction, slack 0 is TIES"),
    (
        "saturation (finding 2)",
        "no: it needs intermediate CT checkpoints; the authors released none",
    ),
    ("merging against CT-then-SFT (finding 1)", "only after an SFT of your own on the CT model"),
)


def testable(triple: Triple, study: Study) -> list[tuple[str, str]]:
    """What these weights can test, and what the rest would cost."""
    return [*TESTABLE, ("its SFT, once", sft_told(triple, study))]


def sft_price(triple: Triple, study: Study) -> list[tuple[str, float, float]]:
    """GPU, hours and US dollars of the fine-tuning that CT-then-SFT needs, one language.

    6 · parameters · tokens operations, at the assumed share of each card's peak.
    """
    tokens = study.own_sft.steps * study.own_sft.tokens_per_step
    operations = 6 * triple.parameters * tokens
    prices = []
    for gpu in study.assumed.gpus:
        hours = operations / (study.assumed.utilisation * gpu.peak_tflops * 1e12) / 3600
        prices.append((gpu.name, hours, hours * gpu.usd_per_hour))
    return prices


def sft_told(triple: Triple, study: Study) -> str:
    """The price in a sentence."""
    sft = study.own_sft
    told = "; ".join(
        f"{name}: {hours:,.1f} h, {dollars:,.0f} USD"
        for name, hours, dollars in sft_price(triple, study)
    )
    return (
        f"{sft.steps} steps of {sft.tokens_per_step / 1e6:g} M tokens, 6 · parameters · tokens "
        f"operations at {study.assumed.utilisation:.0%} of the peak: {told} (assumed prices)"
    )
