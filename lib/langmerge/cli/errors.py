"""One clear message for what a user can mend."""

from __future__ import annotations

import errno
import os
import re

from langmerge.errors import LangmergeError


def explain(error: BaseException) -> str | None:
    """One clear message for an error that the user can mend, or None for a bug of ours.

    The causes are searched too: libraries wrap a full disk into exceptions of their own.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, LangmergeError):
            return str(seen)
        number = _errno(seen)
        if number in _MENDS:
            place = getattr(seen, "filename", None)
            where = f": {place}" if place else ""
            return f"{os.strerror(number)}{where}\n{_MENDS[number]}"
        seen = seen.__cause__ or seen.__context__
    return None


_ELSEWHERE = "or set LANGMERGE_HOME to a folder on another disk. Nothing finished is lost."

_MENDS = {
    errno.ENOSPC: f"Free some space and run the same command again, {_ELSEWHERE}",
    errno.EDQUOT: f"Free some of your quota and run the same command again, {_ELSEWHERE}",
    errno.EACCES: f"Give yourself permission to read and write there, {_ELSEWHERE}",
    errno.EPERM: f"Give yourself permission to write there, {_ELSEWHERE}",
    errno.ENOTDIR: f"A part of that path is a file, not a folder: move it away, {_ELSEWHERE}",
    errno.EROFS: f"That file system cannot be written to: mount it so that it can, {_ELSEWHERE}",
}


def _errno(error: BaseException) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    # safetensors and tokenizers report the number in their text only.
    found = re.search(r"os error (\d+)", str(error))
    return int(found.group(1)) if found else None
