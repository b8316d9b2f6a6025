"""Where a number came from: code, versions, machine, time.

`provenance()` goes beside every result row and into every notebook's footer. It reads
versions from the installed packages' metadata, so it costs no import of torch.
"""

from __future__ import annotations

import datetime
import functools
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langmerge import __version__, paths

if TYPE_CHECKING:
    from IPython.display import Markdown

PACKAGES = ("torch", "transformers", "lm_eval", "numpy")


def provenance() -> dict[str, Any]:
    """The state of code, packages and machine now, as plain values that JSON can hold.

    ``commit`` and ``dirty`` are None outside a git checkout; ``time`` is UTC, ISO 8601.
    """
    commit, dirty = _git_state()
    return {
        "langmerge": __version__,
        "commit": commit,
        "dirty": dirty,
        "python": platform.python_version(),
        "platform": platform.system(),
        "machine": platform.machine(),
        "cpu": cpu(),
        "cores": os.cpu_count(),
        "threads": _threads(),
        "lab_device": _lab_device(),
        **{package: version_of(package) for package in PACKAGES},
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


@functools.cache
def cpu() -> str:
    """The processor's type: what the last bits of a result depend on beside the versions.

    On Linux its name, family and model; elsewhere what the platform says, which may be less.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return platform.processor() or platform.machine()
    told = dict(re.split(r"\s*:\s*", line, maxsplit=1) for line in reversed(lines) if ":" in line)
    if "model name" not in told:  # some ARM kernels tell numbers alone
        return platform.processor() or platform.machine()
    return f"{told['model name']} (family {told.get('cpu family')}, model {told.get('model')})"


def version_of(package: str) -> str | None:
    """The installed version of a package with its local part (``2.13.0+cpu``), or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def footer(results: Any) -> Markdown:
    """A notebook's last cell: what its numbers were computed from and with.

    `results` is what ``langmerge.study.run`` returned. Code and versions are those of the run
    that gathered them; what it found in the store may be older, but of the same version of
    every stage.
    """
    from IPython.display import Markdown

    known = {**provenance(), **dict(results.provenance)}
    rows = {
        "Profile": results.profile,
        "Languages": _listed(results.languages),
        "Seeds": _listed(results.seeds),
        "Base": _listed(sorted(set(results.rows["base"]))),
        "Evaluated models": f"{results.rows['cell'].nunique():,}",
        "Code": _code_state(known),
        "Versions": ", ".join(f"{name} {known[name]}" for name in ("python", *PACKAGES)),
        "Machine": f"{known['platform']} {known['machine']}, {known['cores']} cores",
        "Gathered": known["time"],
    }
    lines = ["| Provenance | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())]
    return Markdown("\n".join(lines))


def _listed(values: Any) -> str:
    values = [values] if isinstance(values, str) else list(values)
    return ", ".join(str(value) for value in values)


def _code_state(known: dict[str, Any]) -> str:
    if not known["commit"]:
        return f"langmerge {known['langmerge']}"
    changed = " with uncommitted changes" if known["dirty"] else ""
    return f"langmerge {known['langmerge']}, commit {known['commit'][:12]}{changed}"


def _threads() -> int:
    """Threads torch computes with, or would: it takes OMP_NUM_THREADS, else all cores."""
    if "torch" in sys.modules:
        return int(sys.modules["torch"].get_num_threads())
    declared = os.environ.get("OMP_NUM_THREADS", "")
    return int(declared) if declared.isdigit() else os.cpu_count() or 1


def _lab_device() -> str:
    """What the lab trains and evaluates on; torch alone can tell a GPU's name."""
    if "torch" not in sys.modules:
        return os.environ.get("LANGMERGE_DEVICE") or "cpu"
    from langmerge import device

    return device.told()


def _git_state() -> tuple[str | None, bool | None]:
    """The checkout's commit, and whether tracked files differ from it."""
    root = paths.checkout()
    # A copy of the sources inside another repository must not borrow that one's commit.
    if root is None or not (root / ".git").exists():
        return None, None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit, bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):  # no git here, or no commit yet
        return None, None


def _git(root: os.PathLike[str], *arguments: str) -> str:
    command = ["git", "-C", os.fspath(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
