"""Executing the notebooks for the book, and keeping their two forms paired.

A notebook is edited as ``.py`` (jupytext percent) and stands beside an output-free
``.ipynb``, which papermill, GitHub and Colab read. `pair` writes the second from the first.

`execute` runs notebooks by papermill in a kernel of this very interpreter. What comes out
is checked (no error, every figure there), cleaned so that equal runs give equal files, and
kept under a key of everything it depends on: a second run with nothing changed costs a copy.
A notebook that fails stays in ``build/notebooks/failed`` and never reaches the book.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langmerge import files, paths, solutions
from langmerge.errors import LangmergeError, nearest
from langmerge.notebook import FIGURE_KEY, LANGUAGE_TOKEN
from langmerge.provenance import provenance, version_of

#: Seconds to wait for a kernel that starts, and for what a cell puts out after it has ended.
PATIENCE = 300
WIDGET = "application/vnd.jupyter.widget-view+json"
# A new version of these may draw or count differently; everything else is in the sources.
_VERSIONED = ("torch", "transformers", "lm_eval", "numpy", "pandas", "matplotlib", "seaborn")


@dataclass(frozen=True)
class Job:
    """One notebook to execute for one language.

    `depends` is a digest of what the notebook reads beside its own source and parameters:
    library, data and results.
    """

    source: Path
    language: str
    parameters: Mapping[str, Any]
    depends: str = ""

    @property
    def key(self) -> str:
        """The digest of everything the executed notebook depends on."""
        stated = json.dumps(dict(self.parameters), sort_keys=True, default=str)
        return digest(self.source.read_bytes(), stated, self.depends)

    @property
    def cached(self) -> Path:
        """Where the executed notebook is kept."""
        profile = self.parameters.get("profile", "default")
        name = f"{self.source.stem}-{profile}-{self.key[:16]}.ipynb"
        return paths.home() / "notebooks" / self.language / name

    @property
    def told(self) -> dict[str, Any]:
        """When it was executed, where, by what code and in how many seconds.

        Kept beside the executed notebook; empty for one that was executed before there was such
        a file, or whose file is not readable.
        """
        try:
            told = json.loads(_beside(self.cached).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return told if isinstance(told, dict) else {}


def digest(*parts: str | bytes) -> str:
    """SHA-256 over the parts; where one ends and the next begins counts."""
    sha = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        sha.update(f"{len(data)}:".encode() + data)
    return sha.hexdigest()


def surroundings() -> str:
    """The digest of library sources, data files (the user's own too) and package versions."""
    library = Path(__file__).parent
    read = [*library.rglob("*.py"), *_files(paths.data())]
    for folder in ("languages", "profiles", "results"):
        read += _files(paths.home() / folder)
    versions = [platform.python_version(), *(f"{p} {version_of(p)}" for p in _VERSIONED)]
    contents = (
        part
        for path in sorted(read)
        if "__pycache__" not in path.parts
        for part in (str(path), path.read_bytes())
    )
    return digest(*versions, *contents)


def check_parameters(notebook: Path, parameters: Iterable[str]) -> None:
    """Raise LangmergeError for a parameter that the notebook's tagged cell does not have.

    papermill itself accepts it with a printed line, and the run then ignores the wish.
    """
    import papermill

    known = papermill.inspect_notebook(notebook)
    for name in parameters:
        if name not in known:
            raise LangmergeError(
                f"{notebook.name} has no parameter {name!r}: {nearest(name, known)}"
            )


def execute(
    jobs: Sequence[Job],
    processes: int | None = None,
    report: Callable[[Job, float], None] = lambda job, seconds: None,
) -> None:
    """Execute what is not kept yet, several at a time; the results are at each `Job.cached`.

    `report` is called with each job that has just finished and its seconds. Raises
    LangmergeError naming notebook and cell where one fails; what has finished stays kept.
    """
    from joblib import Parallel, delayed

    waiting = [job for job in jobs if not job.cached.is_file()]
    for job in waiting:
        check_parameters(job.source, job.parameters)
    processes = min(processes or os.cpu_count() or 1, max(len(waiting), 1))
    # As a context it ends its workers, and with them their kernels, where one has failed.
    with Parallel(n_jobs=processes, return_as="generator_unordered") as parallel:
        for job, seconds in parallel(delayed(_execute_one)(job) for job in waiting):
            report(job, seconds)


def _execute_one(job: Job) -> tuple[Job, float]:
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    started = time.monotonic()
    partial = paths.home() / "notebooks" / "failed" / job.language / job.source.name
    partial.parent.mkdir(parents=True, exist_ok=True)
    _use_own_kernel()
    try:
        executed = papermill.execute_notebook(
            job.source,
            partial,
            parameters=dict(job.parameters),
            kernel_name="python3",
            cwd=job.source.parent,
            progress_bar=False,
            # A busy machine is no failure; the defaults are a minute, and four seconds.
            start_timeout=PATIENCE,
            iopub_timeout=PATIENCE,
        )
    except PapermillExecutionError as error:
        raise LangmergeError(_failure(job, error, partial)) from None
    except DeadKernelError:
        raise LangmergeError(
            f"{job.source.name} ({job.language}): its kernel died; most often the memory was full. "
            "Give the command again: what was computed is kept."
        ) from None
    except RuntimeError as error:  # what jupyter_client raises where a kernel stays silent
        if "didn't respond" not in str(error):
            raise
        raise LangmergeError(
            f"{job.source.name} ({job.language}): its kernel did not answer within {PATIENCE} "
            "seconds; most often the machine had too much to do. "
            "Give the command again: what was computed is kept."
        ) from None
    require_figures(executed, job.source.name)
    text = nbformat.writes(clean(executed, job.source.stem))
    seconds = time.monotonic() - started
    _keep(job, text.replace(LANGUAGE_TOKEN, job.language), seconds)
    partial.unlink()
    return job, seconds


def _failure(job: Job, error: Any, partial: Path) -> str:
    # The notebook's own LangmergeError already says what to mend; others need their kind.
    what = error.evalue if error.ename == "LangmergeError" else f"{error.ename}: {error.evalue}"
    where = f"{job.source.name} ({job.language}), cell [{error.exec_count}]"
    return f"{where}: {what}\nThe notebook up to there, with the traceback: {partial}"


def _keep(job: Job, text: str, seconds: float) -> None:
    """Write the executed notebook under its key, and drop the ones it supersedes.

    How it came about goes first, so that no notebook is there without it.
    """
    target = job.cached
    told = {"seconds": round(seconds, 1), **provenance()}
    write_atomically(_beside(target), json.dumps(told, indent=1) + "\n")
    write_atomically(target, text)
    stem = target.name.rsplit("-", 1)[0]
    for old in target.parent.glob(f"{stem}-*.ipynb"):
        if old != target and old.name.rsplit("-", 1)[0] == stem:
            old.unlink()
            _beside(old).unlink(missing_ok=True)


def _beside(notebook: Path) -> Path:
    """Where it is kept how an executed notebook came about."""
    return notebook.with_suffix(".json")


def write_atomically(target: Path, text: str) -> None:
    """Write a text file, its folder too, so that no reader meets half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(target, text)


def _use_own_kernel() -> None:
    """Make ``python3`` mean this interpreter and this langmerge.

    A kernel that the user installed once under the same name would otherwise run the
    notebooks with other packages.
    """
    place = paths.home() / "jupyter"
    library = str(Path(__file__).parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {
        "argv": [*argv, "--log-level=50"],
        "display_name": "Python 3",
        "language": "python",
        "env": {
            "PYTHONPATH": os.pathsep.join(filter(None, [library, inherited])),
            # Threads that wait for each other by spinning slow a busy machine tenfold.
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
            # The user's start-up scripts and history are no part of the study.
            "IPYTHONDIR": str(place / "ipython"),
        },
    }
    write_atomically(place / "kernels" / "python3" / "kernel.json", json.dumps(spec, indent=1))
    found = os.environ.get("JUPYTER_PATH", "").split(os.pathsep)
    if found[0] != str(place):
        os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [str(place), *found]))


def require_figures(notebook: Any, name: str) -> None:
    """Raise LangmergeError for a notebook that hid an error or drew less than it declares.

    A cell declares a figure by calling `langmerge.notebook.figure` or by ``mystnb.figure``
    in its metadata; a notebook has at least one.
    """
    images = 0
    for number, cell in _code_cells(notebook):
        outputs = cell.get("outputs", [])
        if any(output["output_type"] == "error" for output in outputs):
            raise LangmergeError(f"{name}: code cell {number} ended in an error")
        drawn = sum("image/png" in output.get("data", {}) for output in outputs)
        if _declares_figure(cell) and not drawn:
            raise LangmergeError(f"{name}: code cell {number} declares a figure and drew none")
        images += drawn
    if not images:
        raise LangmergeError(f"{name} drew no figure: a run without one has failed")


def _code_cells(notebook: Any) -> Iterator[tuple[int, Any]]:
    return enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), start=1)


def _declares_figure(cell: Any) -> bool:
    called = re.search(r"(?<![\w.])(notebook\.)?figure\(", cell.source)
    return bool(called) or "figure" in cell.metadata.get("mystnb", {})


def clean(notebook: Any, stem: str) -> Any:
    """Strip what differs between equal runs, fold parameters said twice, label the figures."""
    defaults = [c.source for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    notebook.metadata.pop("papermill", None)
    notebook.metadata.pop("widgets", None)
    for number, cell in enumerate(notebook.cells, start=1):
        cell["id"] = f"{stem}-{number:02d}"[-64:]
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        tags = list(cell.metadata.get("tags", []))
        if "injected-parameters" in tags and _repeats(cell.source, "\n".join(defaults)):
            cell.metadata["tags"] = [*dict.fromkeys([*tags, "hide-input"])]
        _drop_progress(cell)
        _label_figure(cell)
    return notebook


def _repeats(injected: str, defaults: str) -> bool:
    """Whether injected parameters are the very ones that the cell above them shows."""
    assigned = [line for line in injected.splitlines() if line and not line.startswith("#")]
    shown = [line.split("  #")[0] for line in defaults.splitlines()]
    return set(assigned) <= set(shown)


def _drop_progress(cell: Any) -> None:
    """Progress bars are for who waits: in a page their widgets would load scripts from a CDN.

    What is left of a bar is an empty line, which would be an empty box.
    """
    if "outputs" in cell:
        cell["outputs"] = [
            output
            for output in cell["outputs"]
            if WIDGET not in output.get("data", {})
            and output.get("name") != "stderr"
            and not _says_nothing(output)
        ]


def _says_nothing(output: Any) -> bool:
    """Whether an output is blank text, or a page's element around nothing."""
    if output["output_type"] == "stream":
        return not output["text"].strip()
    data = output.get("data", {})
    if "text/html" not in data or set(data) - {"text/html", "text/plain"}:
        return False
    return not re.sub(r"<[^>]*>", "", data["text/html"]).strip() and "<img" not in data["text/html"]


def _label_figure(cell: Any) -> None:
    """Hand name, caption and alternative text of `langmerge.notebook.figure` to the renderer.

    It takes them from the cell's metadata alone, where the run's numbers are not known yet.
    """
    labels = [
        output.metadata.pop(FIGURE_KEY)
        for output in cell.get("outputs", [])
        if FIGURE_KEY in output.get("metadata", {})
    ]
    if len(labels) > 1:
        raise LangmergeError(f"one figure a cell: {labels[0]['name']} shares its cell")
    for label in labels:
        declared = cell.metadata.setdefault("mystnb", {})
        declared["figure"] = {"name": label["name"], "caption": label["caption"]}
        declared["image"] = {**declared.get("image", {}), "alt": label["alt"]}


def install(executed: Iterable[Job], target: Path, student: bool = False) -> None:
    """Make ``<target>/<language>/`` hold exactly the executed notebooks of each language.

    student: without the cells that are exercises' solutions.
    """
    wanted = {target / job.language / job.source.name: job.cached for job in executed}
    for place, path in wanted.items():
        text = path.read_text(encoding="utf-8")
        text = solutions.without(text) if student else text
        if not place.is_file() or place.read_text(encoding="utf-8") != text:
            write_atomically(place, text)
    for folder in {place.parent for place in wanted}:
        for found in folder.glob("*.ipynb"):
            if found not in wanted:
                found.unlink()


def pair(source: Path) -> Path:
    """Write the output-free ``.ipynb`` beside a notebook's ``.py`` and return its path."""
    import nbformat

    target = source.with_suffix(".ipynb")
    write_atomically(target, nbformat.writes(_from_percent(source)) + "\n")
    return target


def paired(source: Path) -> bool:
    """Whether the ``.ipynb`` beside a ``.py`` says the same and carries no output."""
    import nbformat

    target = source.with_suffix(".ipynb")
    if not target.is_file():
        return False
    return _essence(nbformat.read(target, as_version=4)) == _essence(_from_percent(source))


def _from_percent(source: Path) -> Any:
    import jupytext

    notebook = jupytext.read(source)
    # Without a kernel's name papermill refuses the notebook.
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    notebook.metadata.pop("jupytext", None)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells, start=1):
        cell["id"] = f"cell-{number:02d}"  # jupytext's are random
    return notebook


def _essence(notebook: Any) -> list[Any]:
    keys = ("cell_type", "source", "metadata", "outputs", "execution_count")
    return [{key: cell.get(key) for key in keys} for cell in notebook.cells]


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
