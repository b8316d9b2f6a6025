"""The command line: thin calls into the library, and errors a user can mend.

Heavy modules are imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import errno
import math
import os
import re
import sys
from typing import Annotated, Any

import typer

from langmerge.errors import LangmergeError

app = typer.Typer(
    name="langmerge",
    help="Merging language models for low-resource languages: the study and its book.",
    epilog="Example: langmerge run --language ben_Beng --profile smoke --seeds 0,1",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Profile = Annotated[
    str, typer.Option("--profile", "-p", help="How much to compute: smoke, lab, or your own file.")
]
Languages = Annotated[
    list[str] | None,
    typer.Option("--language", "-l", help="FLORES code, such as tam_Taml. May be repeated."),
]
Seeds = Annotated[
    str | None, typer.Option("--seeds", "-s", help="Run seeds, such as 0,1,2. [default: profile's]")
]


def _examples(*lines: str) -> str:
    # A blank line between them keeps them apart in the help's Markdown.
    return "Examples: \n\n" + "\n\n".join(f"`langmerge {line}`" for line in lines)


@app.command(
    epilog=_examples(
        "run",
        "run --language ben_Beng --profile lab",
        "run -l tam_Taml -l ben_Beng --profile smoke --seeds 0,1",
    )
)
def run(
    language: Languages = None,
    profile: Profile = "lab",
    seeds: Seeds = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes. [default: one per core]")
    ] = None,
) -> None:
    """Run the study: compute what the store lacks, and print the scores.

    Without a language, those of the profile are run.
    """
    chosen = parse_seeds(seeds)
    from langmerge import study

    _print_scores(study.run(language=language, profile=profile, seeds=chosen, processes=processes))


@app.command(
    epilog=_examples("book", "book --language ben_Beng", "book --profile smoke --seeds 0,1")
)
def book(
    language: Languages = None,
    profile: Profile = "lab",
    seeds: Seeds = None,
    strict: Annotated[bool, typer.Option(help="Warnings of the renderer are errors.")] = True,
) -> None:
    """Build the book: study, notebooks, site. Languages come beside the default one."""
    chosen = parse_seeds(seeds)
    from langmerge.book import build

    build(languages=language, profile=profile, seeds=chosen, strict=strict)


@app.command(epilog=_examples("tune", "tune --profile lab"))
def tune(profile: Profile = "lab") -> None:
    """Choose all methods' settings anew, on the development languages alone."""
    from langmerge import paths, tuning

    chosen = tuning.tune(profile=profile)
    rows = (
        (method, ", ".join(f"{name} {value}" for name, value in settings.items()))
        for method, settings in chosen.items()
    )
    _print_table(("method", "settings"), rows)
    typer.echo(f"The settings are in {paths.find('profiles', profile)}, the trials beside it.")


@app.command(epilog=_examples("base"))
def base() -> None:
    """Retrain the lab's base model from scratch (about half an hour on one core; resumable)."""
    from langmerge import base as lab_base
    from langmerge.progress import bar

    with bar("Training the base") as progress:
        typer.echo(lab_base.build(progress=progress))


@app.command(epilog=_examples("languages"))
def languages() -> None:
    """List the languages: code, name, script, word order, review, met by the base or not."""
    from langmerge import languages as known

    met = _met_by_base()
    rows = []
    for code in dict.fromkeys([*known.codes(), *(met or ())]):
        it = known.load(code)
        reviewed = "yes" if it.reviewed else "no"
        in_base = "?" if met is None else "yes" if code in (*met, "eng_Latn") else "no"
        rows.append((code, it.name, it.autonym, it.script, it.word_order, reviewed, in_base))
    titles = ("code", "name", "autonym", "script", "word order", "reviewed", "in the base")
    _print_table(titles, rows)


def _met_by_base() -> tuple[str, ...] | None:
    """The languages whose trace the base holds; None, with a note, where there is no sound base."""
    from langmerge import base as lab_base

    try:
        return lab_base.load().languages
    except LangmergeError as error:
        typer.echo(f"langmerge: {error}", err=True)
        return None


@app.command(epilog=_examples("show"))
def show() -> None:
    """Show what the store holds."""
    from langmerge import study

    table = study.show()
    if table is None:
        return
    if len(table) == 0:
        typer.echo("The store is empty: `langmerge run` fills it.")
        return
    _print_table(list(table.columns), table.astype(str).itertuples(index=False))


@app.command(epilog=_examples("test"))
def test() -> None:
    """Lint, test, and build a strict smoke book (needs a clone of the repository)."""
    from langmerge import checks

    raise typer.Exit(checks.run())


@app.command(epilog=_examples("bench"))
def bench() -> None:
    """Measure install, study and book times, memory, and the speed of training and scoring."""
    from langmerge import bench as benchmark

    benchmark.run()


@app.command(epilog=_examples("pair"))
def pair() -> None:
    """Rewrite the output-free .ipynb beside every notebook's .py (for authors)."""
    from langmerge import execution, paths

    for source in sorted(paths.notebooks().glob("*.py")):
        typer.echo(execution.pair(source))


def parse_seeds(text: str | None) -> list[int] | None:
    """Seeds from ``0,1,2`` or ``0 1 2``; None stays None (the profile's own seeds).

    Raises LangmergeError for anything but distinct integers of at least 0.
    """
    if text is None:
        return None
    words = re.split(r"[,\s]+", text.strip())
    wrong = [word for word in words if not (word.isascii() and word.isdigit())]
    if wrong:
        named = ", ".join(map(repr, wrong))
        raise LangmergeError(f"Seeds are integers of at least 0, such as 0,1,2; not {named}")
    seeds = [int(word) for word in words]
    if len(set(seeds)) < len(seeds):
        raise LangmergeError(f"Seeds must differ from each other; not {text!r}")
    return seeds


def _print_table(titles: Any, rows: Any) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    # A narrow terminal must not cut names, and a file or a pipe has no width.
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*map(str, row))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _print_scores(results: Any) -> None:
    """Mean over seeds of every method's score, by task; the book says what they mean."""
    keys = ["ct_tokens", "method", "setting", "slack"]
    for code, rows in results.rows.groupby("language", sort=False):
        scores = rows.pivot_table(
            index=keys, columns="task", values="value", aggfunc="mean", dropna=False, observed=True
        ).dropna(how="all")
        typer.echo(
            f"{code}, profile {results.profile}, mean of {len(results.seeds)} seeds: "
            "accuracy by task, and bits per byte of text"
        )
        lines = scores.reset_index().itertuples(index=False)
        _print_table([*keys, *scores.columns], (map(_brief, line) for line in lines))


def _brief(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.3g}"
    return str(value)


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


def main() -> None:
    """Run the command line; a mendable error is one message on stderr and exit code 2."""
    try:
        app()
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        print(f"langmerge: {message}", file=sys.stderr)
        sys.exit(2)
