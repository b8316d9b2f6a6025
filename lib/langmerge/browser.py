"""Which browser the checks of the built book use, and how to get one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

#: Set to the program of a browser that is built on Chromium, before any that is found.
PROGRAM = "LANGMERGE_BROWSER"
#: Set (as CI does) where a missing browser is a failure and not a reason to skip.
NEEDED = "LANGMERGE_NEED_BROWSER"
HOW = (
    "No browser was found for the checks of the built book. On Debian and Ubuntu: "
    "apt-get install chromium-headless-shell fonts-noto-core. Elsewhere install Chromium, Chrome "
    f"or Edge, or set {PROGRAM} to the program of one."
)
_NAMES = (
    "chromium-headless-shell", "chromium", "chromium-browser", "google-chrome",
    "google-chrome-stable", "microsoft-edge", "msedge", "chrome",
)  # fmt: skip
_PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)


def find() -> str | None:
    """The program of a browser on this machine, or None."""
    if os.environ.get(PROGRAM):
        return os.environ[PROGRAM]
    found = (shutil.which(name) for name in _NAMES)
    there = (place for place in _PLACES if Path(place).is_file())
    return next(filter(None, [*found, *there]), None)


def is_needed() -> bool:
    """Whether a missing browser is a failure."""
    return bool(os.environ.get(NEEDED))


def arguments() -> list[str]:
    """What the browser is started with: root may run it only without its sandbox."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    return ["--no-sandbox"] if root else []
