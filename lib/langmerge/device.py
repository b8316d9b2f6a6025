"""The device that the lab's models are trained and evaluated on.

One CPU thread a process, unless ``LANGMERGE_DEVICE`` names a GPU (``cuda``): tiny models gain
nothing there, and larger ones of the lab's kind are only feasible there. Merging stays on the
CPU. On a GPU sums are taken in another order and products are rounded to TF32, so that a run
there is no function of its seed to the last bit.
"""

from __future__ import annotations

import os

import torch

from langmerge.errors import LangmergeError

VARIABLE = "LANGMERGE_DEVICE"


def chosen() -> torch.device:
    """The device that ``LANGMERGE_DEVICE`` names, by default the CPU.

    Raises LangmergeError where it names none, one that is not here, or one of several GPUs.
    """
    name = os.environ.get(VARIABLE) or "cpu"
    if name == "cpu":
        return torch.device(name)
    if name != "cuda":
        raise LangmergeError(f"{VARIABLE}={name}: cpu or cuda.")
    count = torch.cuda.device_count()
    if count != 1:
        seen = "no GPU" if count == 0 else f"{count} GPUs"
        mend = f"Unset {VARIABLE}" if count == 0 else "Name one of them in CUDA_VISIBLE_DEVICES"
        raise LangmergeError(f"{VARIABLE}=cuda, and torch sees {seen}. {mend}.")
    torch.set_float32_matmul_precision("high")
    return torch.device(name)


def told() -> str:
    """The chosen device as a provenance names it: ``cpu``, or the GPU as its driver calls it."""
    return torch.cuda.get_device_name() if chosen().type == "cuda" else "cpu"
