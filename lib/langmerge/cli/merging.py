"""The commands that merge checkpoints, and show what a merge throws away."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from langmerge import files
from langmerge.cli.application import app
from langmerge.cli.options import examples
from langmerge.cli.printing import print_table


@app.command(
    epilog=examples(
        "merge recipe.yaml merged",
        "merge laptop merged --plan",
        "merge recipe.yaml merged --resume --threads 2",
    )
)
def merge(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A recipe's file (YAML as mergekit's), or a shipped one: laptop, or for the "
            "paper's checkpoints ben, bod, mon, tam, tel and uig."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The folder of the merged model; new or empty.")],
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Only say what would be read and written, and what it takes."),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a merge that was interrupted.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads to compute with.")] = 1,
    sha256: Annotated[
        bool, typer.Option("--sha256", help="Write SHA-256 of all files beside the fast hash.")
    ] = False,
) -> None:
    """Merge checkpoints by a recipe, tensor by tensor, in little memory.

    Models are folders or hub ids. Nothing is written under its final name before it is whole;
    a merge that was killed goes on with --resume.
    """
    from langmerge.merging import recipe as recipes

    written = recipes.read(recipe)
    if plan and _told_what_to_fetch(written.references_and_base()):
        return
    from langmerge.merging import stream

    job = written.job()
    if plan:
        print_table(("plan", str(out)), stream.plan(job, out).rows())
        return
    from langmerge.progress import bar

    with bar("Merging") as progress:
        report = stream.run(
            job, out, resume=resume, threads=threads, progress=progress, sha256=sha256
        )
    _print_merged(report)


def _print_merged(report: Any) -> None:
    """What a merge did, in two or three lines."""
    resumed = f", {report.resumed} of them by an earlier run" if report.resumed else ""
    typer.echo(
        f"{report.out}: {report.tensors} tensors{resumed}, {report.parameters:,} parameters, in "
        f"{report.seconds:,.1f} s; xxh3 {report.digest}"
    )
    for name, digest in report.sha256.items():
        typer.echo(f"sha256 {digest}  {name}")
    for note in report.notes:
        typer.echo(f"Note: {note}.")


def _told_what_to_fetch(references: list[str]) -> bool:
    """Whether models have to be fetched before a merge can be planned; says which."""
    from langmerge.merging import hub

    missing = [reference for reference in references if not hub.is_here(reference)]
    if not missing:
        return False
    rows = [(reference, f"{hub.bytes_to_fetch(reference) / 1e9:.1f} GB") for reference in missing]
    print_table(("to be fetched from the hub first", "size"), rows)
    typer.echo("The rest of the plan needs them: `langmerge merge` fetches them, or `hf download`.")
    return True


@app.command(
    epilog=examples(
        "diagnose base ct sft",
        "diagnose base ct sft --keep 0.5 --slack 0 --slack 1 --slack inf --out figures",
        "diagnose Qwen/Qwen1.5-0.5B sail/Sailor-0.5B Qwen/Qwen1.5-0.5B-Chat --json losses.json",
    )
)
def diagnose(
    base: Annotated[str, typer.Argument(help="The base: a folder or a hub id.")],
    ct: Annotated[str, typer.Argument(help="The model continually pre-trained from it.")],
    sft: Annotated[str, typer.Argument(help="The model fine-tuned from it.")],
    keep: Annotated[float, typer.Option(help="The share of each update that trim keeps.")] = 0.7,
    slack: Annotated[
        list[float] | None,
        typer.Option(help="A slack; may be repeated, and inf. [default: 0, 1, 3, inf]"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="A folder for the figure (and the JSON, unless named).")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="A file for all numbers, by tensor.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads to compute with.")] = 1,
) -> None:
    """Show what a TIES merge would throw away: conflict, trim and election losses.

    By slack for the whole model, and by layer and module in the figure. Nothing is merged, and
    memory does not grow with the models.
    """
    slacks = list(dict.fromkeys(slack or [0.0, 1.0, 3.0, math.inf]))
    if out is not None:
        json_file = json_file or out / "diagnosis.json"
    for folder in filter(None, (out, json_file and json_file.parent)):
        folder.mkdir(parents=True, exist_ok=True)  # complains before the long pass
    from langmerge import diagnosis
    from langmerge.merging import hub
    from langmerge.merging import stream_diagnostics as streaming
    from langmerge.progress import bar

    diagnosis.check(keep, slacks)
    folders = [hub.folder_of(reference) for reference in (base, ct, sft)]
    with bar("Diagnosing") as progress:
        params = {"density_ct": keep, "density_sft": keep}
        found = streaming.diagnose(*folders, params, slacks, threads=threads, progress=progress)
    print_table(*diagnosis.lines(found))
    if out is not None:
        from langmerge import plotting

        typer.echo(plotting.save(diagnosis.figure(found), out / "diagnosis"))
    if json_file is not None:
        about = {"base": base, "ct": ct, "sft": sft, "keep": keep, "variant": "weighted"}
        text = json.dumps(diagnosis.as_json(found, about), indent=1, allow_nan=False)
        files.write_text(json_file, text + "\n")
        typer.echo(json_file)
