"""Options that several commands share, and how a command says its examples."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from langmerge.errors import LangmergeError

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

Processes = Annotated[
    int | None, typer.Option("--processes", min=1, help="Processes. [default: one per core]")
]

Scheduler = Annotated[
    str | None,
    typer.Option("--scheduler", help="A Dask scheduler, tcp://host:port, whose workers compute."),
]

OnlyPlan = Annotated[bool, typer.Option("--plan", help="Only say what it would take.")]

Card = Annotated[str, typer.Option("--gpu", help="The GPU that a plan reckons with.")]

Cards = Annotated[int, typer.Option("--gpus", min=1, help="How many of it.")]

Sharded = Annotated[bool, typer.Option("--sharded", help="The model is shared out over them.")]

TokensPerSecond = Annotated[
    float | None, typer.Option(min=1e-9, help="Training speed. [default: by formula]")
]

Measured = Annotated[
    Path | None, typer.Option(help="A file of `langmerge train measure --out`, for the speed.")
]

MFU = 0.28  # what `langmerge.scale.cost` assumes, which would be slow to import
Mfu = Annotated[
    float, typer.Option(min=0.01, max=1, help="The share of its peak that a GPU does, assumed.")
]

Price = Annotated[float | None, typer.Option(min=0, help="Of one GPU for an hour.")]


def examples(*lines: str) -> str:
    """The end of a command's help: lines that a user can type."""
    # A blank line between them keeps them apart in the help's Markdown.
    return "Examples: \n\n" + "\n\n".join(f"`langmerge {line}`" for line in lines)


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


def use_scheduler(scheduler: str | None, processes: int | None = None) -> None:
    """Send the jobs to a scheduler, the environment's where none is given, if there is one."""
    if scheduler is not None and processes is not None:
        raise LangmergeError(
            "--scheduler sends the jobs to its workers and --processes keeps them here: give one"
        )
    if processes is None:
        from langmerge import cluster

        cluster.use(scheduler)
