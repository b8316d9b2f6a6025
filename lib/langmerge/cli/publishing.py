"""The commands for who makes, checks and hands out the book."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from langmerge.cli.application import app
from langmerge.cli.options import Languages, Profile, Seeds, examples, parse_seeds
from langmerge.errors import LangmergeError, nearest


@app.command(epilog=examples("book", "book --language ben_Beng", "book --student"))
def book(
    language: Languages = None,
    profile: Profile = "lab",
    seeds: Seeds = None,
    strict: Annotated[bool, typer.Option(help="Warnings of the renderer are errors.")] = True,
    student: Annotated[
        bool,
        typer.Option("--student", help="Leave the exercises' solutions out; a site of its own."),
    ] = False,
) -> None:
    """Build the book: study, notebooks, site. Languages come beside the default one."""
    chosen = parse_seeds(seeds)
    from langmerge.book import build

    build(languages=language, profile=profile, seeds=chosen, strict=strict, student=student)


@app.command(
    epilog=examples(
        "kit --language ben_Beng", "kit --seeds 0 --out kit.zip", "kit --use kit-tam_Taml-lab.zip"
    )
)
def kit(
    language: Annotated[str, typer.Option("--language", "-l")] = "tam_Taml",
    profile: Profile = "lab",
    seeds: Seeds = None,
    out: Annotated[Path | None, typer.Option(help="The file. [default: in build/kits]")] = None,
    use: Annotated[
        Path | None, typer.Option("--use", help="Unpack a kit, once its hashes are right.")
    ] = None,
    sha256: Annotated[
        str | None, typer.Option("--sha256", help="With --use: the hash that it should have.")
    ] = None,
) -> None:
    """Put all that a study of one language trained into one file, so that a class trains nothing.

    What is missing of the study is computed first.
    """
    chosen = parse_seeds(seeds)
    from langmerge import kit as kits

    made = kits.use(use, sha256) if use else kits.build(language, profile, chosen, out)
    its = made.manifest
    typer.echo(
        f"{made.path}: {made.size / 1e6:,.1f} MB, {made.experts} models and {made.results} results "
        f"of {its.language}, profile {its.profile}, seeds {', '.join(map(str, its.seeds))}"
    )
    typer.echo(f"sha256 {made.digest}")
    if use:
        typer.echo("It is in the store: notebooks with this language and profile train nothing.")


@app.command(epilog=examples("doctor", "doctor --json"))
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="For a program.")] = False,
) -> None:
    """Check whether this machine is ready: each finding with its mend. Exit code 1 if it is not.

    Where langmerge is not installed yet: `python lib/langmerge/doctor.py` in a clone.
    """
    from langmerge import doctor as preflight

    found = preflight.run()
    typer.echo(preflight.as_json(found) if as_json else preflight.report(found))
    raise typer.Exit(preflight.exit_code(found))


@app.command(
    epilog=examples("publish-check", "publish-check --address https://someone.github.io/book/")
)
def publish_check(
    address: Annotated[str, typer.Option(help="Where the site will be.")] = (
        "http://localhost/langmerge/"
    ),
) -> None:
    """Make the built book ready for a web server, in _build/publish, and check it there.

    Icon, sitemap, links, anchors; served on this machine under a sub-path. Exit code 2 where
    something is wrong.
    """
    from langmerge import publishing

    site = publishing.prepare(address)
    if found := publishing.problems(site, address):
        raise LangmergeError("The site cannot be published:\n" + "\n".join(found))
    typer.echo(f"{site}: {len(publishing.pages(site))} pages, ready for {address}")


@app.command(epilog=examples("test"))
def test() -> None:
    """Lint, test, and build a strict smoke book (needs a clone of the repository)."""
    from langmerge import checks

    raise typer.Exit(checks.run())


@app.command(epilog=examples("bench", "bench --only merges --mergekit mergekit/bin/mergekit-yaml"))
def bench(
    only: Annotated[
        str | None, typer.Option(help="study or merges: leave the other out. [default: both]")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(help="Where the merged checkpoints go, and stay. [default: temporary]"),
    ] = None,
    mergekit: Annotated[
        str | None, typer.Option(help="The mergekit-yaml to merge beside. [default: from PATH]")
    ] = None,
) -> None:
    """Measure install, study and book times, memory, training and scoring; and merges, on disk
    (1.1 billion parameters, 10 GB of room) and in memory.
    """
    from langmerge import bench as benchmark
    from langmerge import bench_merge

    if only not in (None, "study", "merges"):
        raise LangmergeError(f"--only {only!r}: {nearest(only, ('study', 'merges'))}")
    if only != "study":
        bench_merge.check_room(folder)
    if only != "merges":
        benchmark.run()
    if only != "study":
        bench_merge.run_all(folder, mergekit)


@app.command(epilog=examples("pair"))
def pair() -> None:
    """Rewrite the output-free .ipynb beside every notebook's .py (for authors)."""
    from langmerge import execution, paths

    for source in sorted(paths.notebooks().glob("*.py")):
        typer.echo(execution.pair(source))
