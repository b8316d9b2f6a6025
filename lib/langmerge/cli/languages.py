"""The commands about languages: list them, add one, check it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from langmerge.cli.application import app
from langmerge.cli.options import examples
from langmerge.cli.printing import brief, print_table
from langmerge.errors import LangmergeError


@app.command(epilog=examples("languages", "languages --run"))
def languages(
    run: Annotated[
        bool,
        typer.Option("--run", help="Run the notebooks in each shipped one, in small."),
    ] = False,
) -> None:
    """List the languages: code, name, script, word order, tier, review, whose file, in the base."""
    from langmerge import languages as known

    if run:
        _run_languages()
        return
    met = _met_by_base()
    rows = []
    for code in dict.fromkeys([*known.codes(), *(met or ())]):
        try:
            it = known.load(code)
        except LangmergeError:
            rows.append((code, "", "", "", "", "", "", _whose(code), "not complete: check it"))
            continue
        reviewed = "yes" if it.reviewed else "no"
        in_base = "?" if met is None else "yes" if code in (*met, "eng_Latn") else "no"
        described = (code, it.name, it.autonym, it.script, it.word_order, it.tier, reviewed)
        rows.append((*described, _whose(code), in_base))
    titles = ("code", "name", "autonym", "script", "word order", "tier", "reviewed", "file")
    print_table((*titles, "in the base"), rows)


def _run_languages() -> None:
    """The notebooks in every shipped language that can be run; exit code 2 if one fails."""
    from langmerge import book, checks

    codes, left_out = checks.runnable()
    found = book.try_languages(codes)
    for code, problem in found.items():
        typer.echo(f"{code}: {problem or 'all notebooks ran'}")
    for code, reason in left_out.items():
        typer.echo(f"{code}: left out; {reason}")
    if any(found.values()):
        raise typer.Exit(2)


def _whose(code: str) -> str:
    """Whose file a language is read from: the reader's own comes before a shipped one."""
    from langmerge import paths

    shipped = (paths.data() / "languages" / f"{code}.yaml").is_file()
    if not (paths.home() / "languages" / f"{code}.yaml").is_file():
        return "shipped" if shipped else "generated"
    return "yours, not the shipped one" if shipped else "yours"


def _met_by_base() -> tuple[str, ...] | None:
    """The languages whose trace the base holds; None, with a note, where there is no sound base."""
    from langmerge import base as lab_base

    try:
        return lab_base.load().languages
    except LangmergeError as error:
        typer.echo(f"langmerge: {error}", err=True)
        return None


@app.command(epilog=examples("shortcuts"))
def shortcuts() -> None:
    """Measure what scores on the tasks without understanding them, for the data card."""
    from langmerge import paths
    from langmerge import shortcuts as cues

    table = cues.measure().pivot_table(index=["language", "shortcut"], columns="task")["value"]
    print_table(
        ["language", "shortcut", *table.columns],
        ((*row[:2], *map(brief, row[2:])) for row in table.reset_index().itertuples(index=False)),
    )
    typer.echo(paths.data() / cues.FILE)


language_app = typer.Typer(
    rich_markup_mode="markdown",
    no_args_is_help=True,
    help="Add a language, check it, and look its words up in a list.",
    epilog=examples("language new gsw_Latn", "language check gsw_Latn"),
)

app.add_typer(language_app, name="language")


@language_app.command(
    epilog=examples(
        "language new gsw_Latn", "language new quy_Latn --name Quechua --out quy_Latn.yaml"
    )
)
def new(
    code: Annotated[str, typer.Argument(help="FLORES code, such as gsw_Latn.")],
    name: Annotated[str | None, typer.Option(help="Its name in English.")] = None,
    out: Annotated[Path | None, typer.Option(help="The file. [default: your languages]")] = None,
) -> None:
    """Write a language file with every slot, to fill in by hand. Nothing is overwritten."""
    from langmerge import language_new

    path = language_new.write(code, name, out)
    typer.echo(f"{path}\nFill it in, then: `langmerge language check {out or code}`.")


@language_app.command(
    name="check", epilog=examples("language check gsw_Latn", "language check ~/gsw_Latn.yaml")
)
def check_language(
    language: Annotated[str, typer.Argument(help="A code, or a file.")],
) -> None:
    """Say what a language file lacks, how it reads and how hard it will be to learn.

    Exit code 2 where it cannot be used yet.
    """
    from langmerge import language_check

    report = language_check.check(language_check.find(language))
    it = report.language
    typer.echo(f"{it.code}, {it.name}: tier {it.tier}, tasks {', '.join(report.tasks) or 'none'}")
    for sample in report.samples:
        typer.echo(f"\n  {sample.said}\n  {sample.english}\n  {sample.gloss}")
    for warning in report.warnings:
        typer.echo(f"\nLook at this: {warning}.")
    if report.problems:
        listed = "\n  ".join(report.problems)
        raise LangmergeError(f"{report.path} cannot be used yet:\n  {listed}")
    typer.echo(f"\n{report.path} is complete.")
    _print_learnability(it)


def _print_learnability(language: Any) -> None:
    """How hard a language will be, with English and a language that the base has met beside it."""
    from langmerge import base as lab_base
    from langmerge import extension, language_check
    from langmerge import languages as known

    try:
        base = lab_base.load()
    except LangmergeError as error:
        typer.echo(f"How learnable it is cannot be estimated without a base: {error}", err=True)
        return
    beside = [known.load(code) for code in ("eng_Latn", *base.languages[:2])]
    others = [it for it in beside if it.code != language.code]
    estimates = [language_check.learnability(it, base) for it in (language, *others)]
    rows = [
        (
            it.code,
            f"{it.tokens_per_word:.1f}",
            *(f"{told} of {of}" for told, of in it.first_tokens.values()),
            f"{it.mentions:.0f}",
            f"{it.tokens:,}",
        )
        for it in estimates
    ]
    titles = ("language", "tokens a word", "things told by one token", "actions so")
    typer.echo(f"\nIn {estimates[0].documents:,} documents of its trace:")
    print_table((*titles, "times each is met", "tokens"), rows)
    if language.code not in (*base.languages, "eng_Latn"):
        share = estimates[0].tokens / extension.recipe().tokens
        typer.echo(
            f"The base has not met it. Its trace would be {share:.0%} of what "
            f"`langmerge base extend --language {language.code}` trains on"
            + ("." if share <= 0.75 else ", which leaves too little for rehearsal: shorten words.")
        )


@language_app.command(
    epilog=examples('language attest gsw_Latn --list words.txt --name "A word list"')
)
def attest(
    language: Annotated[str, typer.Argument(help="A code, or a file.")],
    words: Annotated[Path, typer.Option("--list", help="Hunspell's .dic, or a word a line.")],
    name: Annotated[str, typer.Option(help="What the list is called.")],
    version: Annotated[str, typer.Option(help="Its version.")] = "",
    note: Annotated[str, typer.Option(help="What a reader should know of it.")] = "",
) -> None:
    """Look a file's words up in an independent list, and note in the file what was found."""
    from langmerge import language_attest, language_check

    path = language_check.find(language)
    given = language_attest.attest(path, words, name, version, note)
    total = given.found + len(given.not_found)
    typer.echo(f"{path}: {given.found} of {total} words are in {name}.")
    if given.not_found:
        typer.echo(f"Not there, which need not mean wrong: {', '.join(given.not_found)}")
