"""The application that every module of commands adds its own to."""

from __future__ import annotations

import typer

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
