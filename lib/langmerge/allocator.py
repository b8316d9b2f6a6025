"""What the C library does with memory that torch gives back."""

from __future__ import annotations

import ctypes
import platform

# Of malloc.h: mallopt's names for its parameters.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: Bytes; glibc's own limit is 32 MB, and the logits of one step of training are more.
KEPT = 2**30


def keep_freed() -> bool:
    """Let this process keep what it frees; whether the C library can be told so (glibc can).

    Otherwise every step of training asks the system for its largest tensors anew, which clears
    their pages on one core while the others wait: on two threads a fifth of a step's time, on one
    a twelfth. For a process that only trains and evaluates, and ends when it has; one that has
    something else to do should give memory back.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(_MMAP_THRESHOLD, KEPT), mallopt(_TRIM_THRESHOLD, KEPT)])
