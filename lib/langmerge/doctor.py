"""`langmerge doctor`: is this machine ready for a class? Each check with its one-line mend.

Linux, macOS, Windows and Colab. It needs nothing but Python's own library, so that it also runs
where the packages are not installed yet: ``python lib/langmerge/doctor.py`` in a clone. What
needs the packages (do they load, is the base whole, does it work without a network) is asked of
another process, which may fail without taking the answer with it.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

_PACKAGE = Path(__file__).resolve().parent
PYTHON = (3, 11)
#: What was measured of the lab profile and `make book` on two cores (README): GiB.
MEMORY_GIB = 3.4
DISK_GIB = 3.0
#: Extras without which the study and the notebooks run all the same.
OPTIONAL = ("attest", "cluster", "test")
BROWSERS = (
    "chromium-headless-shell", "chromium", "chromium-browser", "google-chrome",
    "google-chrome-stable", "chrome", "msedge",
)  # fmt: skip
_APPLICATIONS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)
#: What another process tells of the packages, with all connections to the network refused.
_PROBE = """
import json, socket, sys
def refuse(*_): raise OSError("no network here")
socket.socket.connect = socket.create_connection = refuse
told = {}
import torch
told["torch"], told["cuda"] = torch.__version__, torch.version.cuda
told["gpu"] = torch.cuda.is_available()
from langmerge import base
start = base.load()
told["base"], told["languages"] = start.hash, len(start.languages)
from langmerge import plotting, study
told["fonts"] = {s: plotting.font_for(t) is not None for s, t in json.loads(sys.argv[1]).items()}
print(json.dumps(told))
"""
_SCRIPTS = {
    "Tamil": "த", "Telugu": "త", "Bengali": "ত", "Odia": "ତ", "Tibetan": "ཏ", "Arabic": "ئ",
    "Cyrillic": "ү",
}  # fmt: skip
Status = Literal["ok", "look", "fail"]


@dataclass(frozen=True)
class Check:
    """One finding: `look` is worth knowing, `fail` keeps the study from running."""

    name: str
    status: Status
    found: str
    mend: str = ""


def run() -> list[Check]:
    """All checks, in the order in which one would mend."""
    checks = [python(), *packages(), cores(), memory(), disk(), writing(), *path_length()]
    if any(check.status == "fail" for check in checks):
        return [*checks, kernel(), browser()]
    return [*checks, *loading(), kernel(), browser()]


def where() -> str:
    """The kind of machine: Linux, macOS, Windows or Colab."""
    if "COLAB_RELEASE_TAG" in os.environ or "google.colab" in sys.modules:
        return "Colab"
    return {"Darwin": "macOS"}.get(platform.system(), platform.system())


#: What installing takes on disk, measured on Linux alone.
SIZES = {
    "Linux": "about 2 GB with the CPU build of torch, several more with the default one",
    "Colab": "torch is there; the rest was not measured",
}
_SIZE = "not measured here; on Linux about 2 GB with the CPU build of torch"


def install_line(system: str) -> str:
    """How to install on a system, in a clone."""
    if system == "Windows":
        return (
            r"py -3.11 -m venv .venv; .venv\Scripts\python -m pip install -r requirements.txt "
            r"-c constraints.txt; .venv\Scripts\python -m pip install -e . --no-deps"
        )
    if system == "Colab":  # torch is there, and a pinned one would be fetched again
        return "%pip install -e '.[book]'   (in the clone; the ranges keep Colab's torch)"
    return "make .venv/installed"


# --- the checks --------------------------------------------------------------------------


def python(version: tuple[int, ...] = sys.version_info[:3]) -> Check:
    """Whether Python is new enough."""
    found = f"{'.'.join(map(str, version))}, {sys.executable}"
    needed = ".".join(map(str, PYTHON))
    if version[: len(PYTHON)] >= PYTHON:
        return Check("Python", "ok", found)
    return Check("Python", "fail", found, f"install Python {needed} and make .venv anew with it")


def packages(
    version_of: Callable[[str], str | None] | None = None, pyproject: Path | None = None
) -> Iterator[Check]:
    """Whether each package is there, in the range that pyproject.toml gives, and as pinned."""
    version_of = version_of or _version_of
    if _requirement_class() is None:
        yield Check("packages", "fail", "no pip in this Python", "python -m ensurepip --upgrade")
        return
    wanted = _requirements(pyproject)
    pins = _pins()
    missing, outside, optional, unpinned = [], [], [], []
    for extra, name, specifier in wanted:
        version = version_of(name)
        if version is None:
            (optional if extra in OPTIONAL else missing).append(name)
        elif not specifier.contains(version, prereleases=True):
            outside.append(f"{name} {version} (needs {specifier})")
        elif name in pins and version.split("+")[0] != pins[name]:
            unpinned.append(f"{name} {version} (pinned {pins[name]})")
    mend = install_line(where())
    if missing:
        size = SIZES.get(where(), _SIZE)
        yield Check("packages", "fail", f"missing: {', '.join(missing)}", f"{mend}   ({size})")
    if outside:
        yield Check("packages", "fail", f"other versions: {', '.join(outside)}", mend)
    if not missing and not outside:
        yield Check("packages", "ok", f"{len(wanted) - len(optional)} of {len(wanted)} in range")
    if unpinned:
        yield Check(
            "pinned versions",
            "look",
            f"differ: {', '.join(unpinned)}",
            f"fine for a class; for the book's very numbers: {mend}",
        )
    if optional:
        found = f"not there: {', '.join(optional)}"
        yield Check("optional packages", "look", found, f"only tests and extras need them: {mend}")


def cores(count: int | None = None) -> Check:
    """How many cores this process may use."""
    if count is None:
        own = getattr(os, "sched_getaffinity", None)
        count = len(own(0)) if own else os.cpu_count() or 1
    if count >= 2:
        return Check("cores", "ok", str(count))
    return Check("cores", "look", str(count), "the study takes longer; use a kit: langmerge kit")


def memory(total: int | None = None) -> Check:
    """Memory in all, against what the study and the book were measured to need."""
    total = _total_memory() if total is None else total
    if total is None:
        return Check("memory", "look", "not known", "have at least 4 GiB")
    found = f"{total / 2**30:.1f} GiB"
    if total >= MEMORY_GIB * 2**30:
        return Check("memory", "ok", found)
    mend = "close other programs, and run with --processes 1"
    return Check("memory", "look", f"{found}; the book took {MEMORY_GIB} on two cores", mend)


def disk(free: int | None = None) -> Check:
    """Free space where results go."""
    folder = _existing(_home())
    free = shutil.disk_usage(folder).free if free is None else free
    found = f"{free / 2**30:.1f} GiB free at {folder}"
    mend = "free some space, or set LANGMERGE_HOME to a folder on another disk"
    if free < 2**30:
        return Check("disk", "fail", found, mend)
    if free < DISK_GIB * 2**30:
        return Check("disk", "look", f"{found}; with the packages it comes to {DISK_GIB:g}", mend)
    return Check("disk", "ok", found)


def writing() -> Check:
    """Whether results can be written: a file is, and taken away again."""
    home = _home()
    trial = home / f"doctor-{uuid.uuid4().hex}"
    try:
        home.mkdir(parents=True, exist_ok=True)
        trial.write_text("x")
        trial.unlink()
    except OSError as error:
        mend = "give yourself permission there, or set LANGMERGE_HOME to a folder of your own"
        return Check("write permission", "fail", f"{home}: {error.strerror}", mend)
    return Check("write permission", "ok", str(home))


def path_length(system: str | None = None, home: Path | None = None) -> Iterator[Check]:
    """On Windows: whether the store's paths stay within the 260 characters of old programs."""
    if (system or where()) != "Windows":
        return
    # unfinished/<key>-<8>/model.safetensors
    longest = len(str(home or _home())) + len("/store/unfinished//items.parquet.tmp") + 29
    if longest > 259:
        mend = "set LANGMERGE_HOME to a short path such as C:\\langmerge"
        yield Check("path length", "fail", f"up to {longest} characters", mend)
    else:
        yield Check("path length", "ok", f"up to {longest} characters")


def loading(probe: Callable[[], dict[str, Any] | str] | None = None) -> Iterator[Check]:
    """Whether the packages load, which torch it is, whether the base is whole; all offline."""
    told = (probe or _probe)()
    if isinstance(told, str):
        mend = f"if it names a package: {install_line(where())}"
        yield Check("loading", "fail", told, mend)
        return
    yield _torch(told)
    languages = f"{told['languages']} languages"
    yield Check("base", "ok", f"{told['base']}, whole, {languages}")
    yield Check("network", "ok", "not needed: everything loaded with connections refused")
    lacking = [script for script, there in told["fonts"].items() if not there]
    if lacking:
        mend = "figures show glosses instead; for the words: the fonts Noto Sans (and Noto Serif "
        mend += "Tibetan) of each script; pages bring their own"
        yield Check("fonts", "look", f"no font for {', '.join(lacking)}", mend)
    else:
        yield Check("fonts", "ok", f"for {len(told['fonts'])} scripts beside Latin")


def _torch(told: dict[str, Any]) -> Check:
    """Which build of torch it is, and whether its CUDA libraries are for nothing."""
    if told["cuda"] is None:
        return Check("torch", "ok", f"{told['torch']}, without CUDA")
    build = f"{told['torch']}, with CUDA {told['cuda']}"
    if told["gpu"]:
        return Check("torch", "ok", f"{build}, GPU found (the lab does not need it)")
    mend = "works; to save the disk, install the CPU build (PyTorch's installation page)"
    return Check("torch", "look", f"{build}, no GPU: its libraries are for nothing", mend)


def kernel() -> Check:
    """Whether Jupyter's kernel python3 is this Python, so that a notebook finds langmerge."""
    mend = f'"{sys.executable}" -m ipykernel install --sys-prefix --name python3'
    try:
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    except ImportError:
        return Check("Jupyter kernel", "fail", "no jupyter_client", install_line(where()))
    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        return Check("Jupyter kernel", "fail", "no kernel python3", mend)
    runs = spec.argv[0] if spec.argv else ""
    same = runs in ("python", "python3") or os.path.realpath(runs) == os.path.realpath(
        sys.executable
    )
    if same:
        return Check("Jupyter kernel", "ok", f"python3 in {spec.resource_dir}")
    return Check("Jupyter kernel", "look", f"python3 runs {runs}, not this Python", mend)


def browser() -> Check:
    """Whether there is a Chromium for the browser tests; reading takes any browser."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    found = found or next((path for path in _APPLICATIONS if Path(path).is_file()), None)
    if found:
        return Check("browser", "ok", found)
    mend = "only the browser tests need one: on Debian `apt install chromium`"
    return Check("browser", "look", "no Chromium, Chrome or Edge", mend)


# --- what they rest on -------------------------------------------------------------------


def _checkout() -> Path | None:
    root = _PACKAGE.parent.parent
    return root if (root / "pyproject.toml").is_file() else None


def _home() -> Path:
    """As `langmerge.paths.home`, which needs a package where there is no clone."""
    if os.environ.get("LANGMERGE_HOME") or _checkout() is None:
        try:
            from langmerge import paths
        except ImportError:
            return Path(os.environ.get("LANGMERGE_HOME") or Path.home()).expanduser().resolve()
        return paths.home()
    return _checkout() / "build"


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def _requirements(pyproject: Path | None = None) -> list[tuple[str, str, Any]]:
    """(extra or "", name, specifier) of every package, of a clone or of the installed wheel."""
    read = _requirement_class()
    root = _checkout()
    pyproject = pyproject or (root / "pyproject.toml" if root else None)
    if pyproject is not None:
        project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
        groups = {"": project["dependencies"], **project["optional-dependencies"]}
        found = [(extra, read(line)) for extra, lines in groups.items() for line in lines]
    else:
        found = []
        for line in metadata.requires("langmerge") or []:
            extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line)
            found.append((extra[1] if extra else "", read(line)))
    return [(extra, _plain(one.name), one.specifier) for extra, one in found]


def _requirement_class() -> Any:
    """What reads a requirement: of packaging, else of pip's copy; None where there is neither."""
    for place in ("packaging", "pip._vendor.packaging"):
        try:
            return importlib.import_module(f"{place}.requirements").Requirement
        except ImportError:
            continue
    return None


def _pins() -> dict[str, str]:
    """What requirements.txt pins, in a clone."""
    root = _checkout()
    if root is None or not (root / "requirements.txt").is_file():
        return {}
    lines = (root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("#")[0].strip().split("==") for line in lines if "==" in line)
    return {_plain(name): version for name, version in pairs}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _version_of(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _total_memory() -> int | None:
    try:
        import psutil
    except ImportError:
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return None
    return int(psutil.virtual_memory().total)


def _probe() -> dict[str, Any] | str:
    """What the packages tell when they load, or the last line of what they complain."""
    library = str(_PACKAGE.parent)
    inherited = os.environ.get("PYTHONPATH")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [library, inherited])),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "PYTHONUTF8": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, json.dumps(_SCRIPTS)],
        capture_output=True, text=True, encoding="utf-8", env=environment,
    )  # fmt: skip
    if done.returncode:
        complaint = done.stderr.strip().splitlines()
        return complaint[-1] if complaint else f"ended with code {done.returncode}, saying nothing"
    return json.loads(done.stdout.strip().splitlines()[-1])


def report(checks: list[Check]) -> str:
    """The checks as lines to read."""
    lines = [f"{where()}, {platform.machine()}"]
    width = max(len(check.name) for check in checks)
    for check in checks:
        lines.append(f"{check.status.upper():<5} {check.name:<{width}}  {check.found}")
        if check.mend and check.status != "ok":
            lines.append(f"{'':<5} {'':<{width}}  -> {check.mend}")
    failed = sum(check.status == "fail" for check in checks)
    lines.append("Ready." if not failed else f"Not ready: {failed} to mend.")
    return "\n".join(lines)


def as_json(checks: list[Check]) -> str:
    """The checks for a program."""
    ready = not any(check.status == "fail" for check in checks)
    told = {"system": where(), "ready": ready, "checks": [asdict(check) for check in checks]}
    return json.dumps(told, indent=1)


def exit_code(checks: list[Check]) -> int:
    """1 where something keeps the study from running, else 0."""
    return int(any(check.status == "fail" for check in checks))


if __name__ == "__main__":
    # A clone's own library, and not the folder of this file, whose modules have common names.
    sys.path[0] = str(_PACKAGE.parent)
    found = run()
    print(as_json(found) if "--json" in sys.argv[1:] else report(found))
    sys.exit(exit_code(found))
