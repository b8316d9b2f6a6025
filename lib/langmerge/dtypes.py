"""The types that checkpoints store numbers in, known without the library that computes in them."""

from __future__ import annotations

import enum

import numpy as np

from langmerge.later import torch


class Dtype(enum.Enum):
    """A type of entries: its name in a safetensors header, and as its value the one in torch.

    ``Dtype["BF16"]`` and ``Dtype("bfloat16")`` are the same.
    """

    F64 = "float64"
    F32 = "float32"
    F16 = "float16"
    BF16 = "bfloat16"
    I64 = "int64"
    I32 = "int32"
    I16 = "int16"
    I8 = "int8"
    U8 = "uint8"
    BOOL = "bool"

    @classmethod
    def of(cls, dtype: torch.dtype) -> Dtype | None:
        """What torch calls by its own object; None for a type that checkpoints do not have."""
        name = str(dtype).removeprefix("torch.")
        return cls(name) if name in {one.value for one in cls} else None

    @property
    def in_torch(self) -> torch.dtype:
        """The type in torch."""
        return getattr(torch, self.value)

    @property
    def in_numpy(self) -> np.dtype:
        """The type in numpy; bf16, which that lacks, as the uint16 of its bits."""
        return np.dtype(np.uint16 if self is Dtype.BF16 else self.value)

    @property
    def itemsize(self) -> int:
        """The bytes of an entry."""
        return self.in_numpy.itemsize

    @property
    def is_floating_point(self) -> bool:
        """Whether weights may be stored in it."""
        return self in (Dtype.F64, Dtype.F32, Dtype.F16, Dtype.BF16)
