"""The command line: thin calls into the library, and errors a user can mend.

Heavy modules are imported inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from langmerge import files
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
Processes = Annotated[
    int | None, typer.Option("--processes", min=1, help="Processes. [default: one per core]")
]
Scheduler = Annotated[
    str | None,
    typer.Option("--scheduler", help="A Dask scheduler, tcp://host:port, whose workers compute."),
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
    processes: Processes = None,
    scheduler: Scheduler = None,
) -> None:
    """Run the study: compute what the store lacks, and print the scores.

    Without a language, those of the profile are run.
    """
    chosen = parse_seeds(seeds)
    _use_scheduler(scheduler, processes)
    from langmerge import study

    _print_scores(study.run(language=language, profile=profile, seeds=chosen, processes=processes))


@app.command(epilog=_examples("book", "book --language ben_Beng", "book --student"))
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


@app.command(epilog=_examples("reference --plan", "reference", "reference --limit 4"))
def reference(
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what is there, and what the rest would take.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Languages to compute now. [default: all]")
    ] = None,
    profile: Annotated[str, typer.Option("--profile", "-p")] = "reference",
    seal: Annotated[
        bool,
        typer.Option("--seal", help="Only write hashes into slices from before these were kept."),
    ] = False,
    processes: Processes = None,
    scheduler: Scheduler = None,
) -> None:
    """Run many languages for the pooled verdicts, slice by slice; kept under data/results.

    Killed, it goes on with the next slice.
    """
    from langmerge import reference as runs

    if seal:
        typer.echo(f"{len(runs.seal(profile))} slices sealed.")
        return
    if plan:
        found = runs.plan(profile)
        _print_table(
            ("base", "seed", "language", "there", "minutes", "what is another now"),
            (
                (
                    r.base,
                    r.seed,
                    r.language,
                    _yes(r.done),
                    _minutes(r.seconds, r.measured),
                    r.differs,
                )
                for r in found.itertuples()
            ),
        )
        blocks = runs.cost(profile)
        _print_table(
            ("block", "models a slice", "minutes a slice", "slices to do"),
            (
                (r.block, _count(r.models), _minutes(r.seconds, measured=True), r.to_do)
                for r in blocks.itertuples()
            ),
        )
        left = found[~found["done"]]["seconds"].sum(min_count=1) / 60
        told = f"about {left:,.0f} minutes" if left > 0 else "no time is measured yet"
        typer.echo(f"To do: {(~found['done']).sum()} of {len(found)} slices ({told}).")
        return
    _use_scheduler(scheduler, processes)
    done = runs.run(profile, processes=processes, limit=limit)
    typer.echo(f"{len(done)} slices computed, {len(runs.plan(profile).query('~done'))} to go.")


def _use_scheduler(scheduler: str | None, processes: int | None = None) -> None:
    """Send the jobs to a scheduler, the environment's where none is given, if there is one."""
    if scheduler is not None and processes is not None:
        raise LangmergeError(
            "--scheduler sends the jobs to its workers and --processes keeps them here: give one"
        )
    if processes is None:
        from langmerge import cluster

        cluster.use(scheduler)


def _minutes(seconds: float, measured: bool) -> str:
    if math.isnan(seconds):
        return "?"
    return f"{seconds / 60:.1f}" if measured else f"about {seconds / 60:.0f}"


def _count(models: float) -> str:
    return "?" if math.isnan(models) else f"{models:.0f}"


@app.command(epilog=_examples("tune", "tune --missing", "tune --method widen --method della"))
def tune(
    profile: Profile = "lab",
    method: Annotated[
        list[str] | None,
        typer.Option("--method", "-m", help="A method; may be repeated. [default: all]"),
    ] = None,
    missing: Annotated[
        bool, typer.Option("--missing", help="Only methods that have no tuned settings yet.")
    ] = False,
    scheduler: Scheduler = None,
) -> None:
    """Choose methods' settings anew, on the development languages alone.

    What is not tuned now stays as it is.
    """
    _use_scheduler(scheduler)
    from langmerge import paths, tuning

    chosen = tuning.tune(profile=profile, methods=method, missing=missing)
    if not chosen:
        typer.echo(f"Nothing to tune: every method of profile {profile} has its settings.")
        return
    rows = (
        (method, ", ".join(f"{name} {value}" for name, value in settings.items()))
        for method, settings in chosen.items()
    )
    _print_table(("method", "settings"), rows)
    typer.echo(f"The settings are in {paths.find('profiles', profile)}, the trials beside it.")


base_app = typer.Typer(rich_markup_mode="markdown")
app.add_typer(base_app, name="base")


@base_app.callback(invoke_without_command=True, epilog=_examples("base", "base extend -l gsw_Latn"))
def base(context: typer.Context) -> None:
    """Retrain the lab's base model from scratch (about half an hour on one core; resumable)."""
    if context.invoked_subcommand:
        return
    from langmerge import base as lab_base
    from langmerge.progress import bar

    with bar("Training the base") as progress:
        typer.echo(lab_base.build(progress=progress))


@base_app.command(
    epilog=_examples("base extend --language gsw_Latn", "base extend -l gsw_Latn -l bod_Tibt")
)
def extend(language: Annotated[list[str], typer.Option("--language", "-l")]) -> None:
    """Let the base meet a language that it has not seen, in a few minutes (resumable).

    Studies of the language then start from the extended base.
    """
    from langmerge import base as lab_base
    from langmerge import extension
    from langmerge.progress import bar

    with bar("Extending the base") as progress:
        folder, standing, lost = extension.extend(language, progress=progress)
    _print_table(
        ("language", "task", "English SFT alone", "chance", "standing"),
        (
            (row.language, row.task, f"{row.value:.2f}", f"{row.chance:.2f}", row.standing)
            for row in standing.itertuples()
        ),
    )
    _print_table(
        ("rehearsed", "bits per byte before", "after", "loss", "within"),
        (
            (r.language, f"{r.before:.3f}", f"{r.after:.3f}", f"{r.loss:+.0%}", _yes(r.within))
            for r in lost.itertuples()
        ),
    )
    for code in language:
        lab_base.load(folder).require_ready(code)
        typer.echo(f"{code} is ready: `langmerge run --language {code}`.")
    typer.echo(folder)


@app.command(epilog=_examples("languages", "languages --run"))
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
    _print_table((*titles, "in the base"), rows)


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


language_app = typer.Typer(
    rich_markup_mode="markdown",
    no_args_is_help=True,
    help="Add a language, check it, and look its words up in a list.",
    epilog=_examples("language new gsw_Latn", "language check gsw_Latn"),
)
app.add_typer(language_app, name="language")


@language_app.command(
    epilog=_examples(
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
    name="check", epilog=_examples("language check gsw_Latn", "language check ~/gsw_Latn.yaml")
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
    _print_table((*titles, "times each is met", "tokens"), rows)
    if language.code not in (*base.languages, "eng_Latn"):
        share = estimates[0].tokens / extension.recipe().tokens
        typer.echo(
            f"The base has not met it. Its trace would be {share:.0%} of what "
            f"`langmerge base extend --language {language.code}` trains on"
            + ("." if share <= 0.75 else ", which leaves too little for rehearsal: shorten words.")
        )


@language_app.command(
    epilog=_examples('language attest gsw_Latn --list words.txt --name "A word list"')
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


def _met_by_base() -> tuple[str, ...] | None:
    """The languages whose trace the base holds; None, with a note, where there is no sound base."""
    from langmerge import base as lab_base

    try:
        return lab_base.load().languages
    except LangmergeError as error:
        typer.echo(f"langmerge: {error}", err=True)
        return None


@app.command(epilog=_examples("shortcuts"))
def shortcuts() -> None:
    """Measure what scores on the tasks without understanding them, for the data card."""
    from langmerge import paths
    from langmerge import shortcuts as cues

    table = cues.measure().pivot_table(index=["language", "shortcut"], columns="task")["value"]
    _print_table(
        ["language", "shortcut", *table.columns],
        ((*row[:2], *map(_brief, row[2:])) for row in table.reset_index().itertuples(index=False)),
    )
    typer.echo(paths.data() / cues.FILE)


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


@app.command(
    epilog=_examples(
        "merge recipe.yaml merged",
        "merge laptop merged --plan",
        "merge recipe.yaml merged --resume --threads 2",
    )
)
def merge(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's file (YAML as mergekit's), or a shipped one: laptop.")
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
        _print_table(("plan", str(out)), stream.plan(job, out).rows())
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
    _print_table(("to be fetched from the hub first", "size"), rows)
    typer.echo("The rest of the plan needs them: `langmerge merge` fetches them, or `hf download`.")
    return True


@app.command(
    epilog=_examples(
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
    _print_table(*diagnosis.lines(found))
    if out is not None:
        from langmerge import plotting

        typer.echo(plotting.save(diagnosis.figure(found), out / "diagnosis"))
    if json_file is not None:
        about = {"base": base, "ct": ct, "sft": sft, "keep": keep, "variant": "weighted"}
        text = json.dumps(diagnosis.as_json(found, about), indent=1, allow_nan=False)
        files.write_text(json_file, text + "\n")
        typer.echo(json_file)


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


@app.command(
    name="verify-reference",
    epilog=_examples("verify-reference --plan", "verify-reference", "verify-reference --limit 1"),
)
def verify_reference(
    share: Annotated[float, typer.Option(help="The part of the models to compute anew.")] = 0.1,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Slices to draw from. [default: as many as it takes]")
    ] = None,
    draw: Annotated[int, typer.Option(min=0, help="Another number draws other models.")] = 0,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only check the files, and say what.")
    ] = False,
    profile: Annotated[str, typer.Option("--profile", "-p")] = "reference",
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes. [default: one per core]")
    ] = None,
) -> None:
    """Compute a random tenth of the committed results anew, and compare.

    Exit code 1 where they differ, 2 where the committed files are not what they say.
    """
    from langmerge import profiles, verify

    if plan:
        how = profiles.load(profile)
        blocks = verify.draw(verify.check(profile), how, share, draw, limit)
        took = [verify.seconds(block, how) for block in blocks]
        _print_table(
            ("base", "seed", "language", "CT tokens", "minutes"),
            (
                (one.base, one.seed, one.language, _tokens(block.budgets), _minutes(time, False))
                for block, one, time in zip(blocks, (b.slice for b in blocks), took, strict=True)
            ),
        )
        typer.echo(f"All files are whole. To compute: about {sum(took) / 60:,.0f} minutes.")
        return
    found = verify.verify(profile, share, draw, limit, processes)
    _print_verified(found)
    if not found.holds:
        raise typer.Exit(1)


def _tokens(budgets: Any) -> str:
    return ", ".join(f"{budget:,}" for budget in budgets)


def _print_verified(found: Any) -> None:
    """What came out again, what did not, and what was asked for."""
    from langmerge import verify

    titles = ("base", "seed", "language", "CT tokens", "models", "numbers", "identical")
    _print_table(
        (*titles, "accuracy off by", "bits per byte off by", "holds"),
        (
            (
                *(r.base, r.seed, r.language, f"{r.ct_tokens:,}", r.models, r.numbers, r.same),
                *(f"{r.accuracy:.4f}", f"{r.bits:.4%}", _yes(r.holds)),
            )
            for r in found.blocks.itertuples()
        ),
    )
    if found.elsewhere:
        accuracy, bits = verify.TOLERANCE["accuracy"], verify.TOLERANCE["bits_per_byte"]
        typer.echo(
            f"Not the same here: {'; '.join(found.elsewhere)}.\nSo numbers may differ: accuracy by "
            f"{accuracy:g}, bits per byte by {bits:.1%}."
        )
    else:
        typer.echo("Versions and processor are the same: every number has to be identical.")
    if not found.holds:
        columns = ["language", "seed", "ct_tokens", "method", "setting", "slack", "task"]
        rows = found.differing[[*columns, "value", "found"]].itertuples(index=False)
        _print_table((*columns, "committed", "found"), (map(_brief, row) for row in rows))
        typer.echo(f"{len(found.differing)} numbers differ by more than that.")


@app.command(epilog=_examples("doctor", "doctor --json"))
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
    epilog=_examples(
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


@app.command(
    epilog=_examples("publish-check", "publish-check --address https://someone.github.io/book/")
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


train_app = typer.Typer(
    rich_markup_mode="markdown",
    no_args_is_help=True,
    help="Continual pre-training and fine-tuning of models of any size.",
    epilog=_examples("train ct ct_tel --plan", "train cost", "train measure --shape llama-1b"),
)
app.add_typer(train_app, name="train")
contributed_app = typer.Typer(
    rich_markup_mode="markdown",
    no_args_is_help=True,
    help="Rows of results that readers contribute.",
    epilog=_examples("contributed check rows.jsonl", "contributed show"),
)
app.add_typer(contributed_app, name="contributed")

RunFile = Annotated[
    str, typer.Argument(help="Settings of the run (YAML), or shipped ones: ct_tel, sft_flan.")
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
Mfu = Annotated[
    float, typer.Option(min=0.01, max=1, help="The share of its peak that a GPU does, assumed.")
]
Price = Annotated[float | None, typer.Option(min=0, help="Of one GPU for an hour.")]


@train_app.command(
    epilog=_examples(
        "train ct ct_tel --plan --gpu 'A100 80GB' --gpus 8 --sharded", "train ct my.yaml"
    )
)
def ct(
    run: RunFile,
    plan: OnlyPlan = False,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Only tokenize and pack the text; needs no GPU.")
    ] = False,
    gpu: Card = "RTX 4090",
    gpus: Cards = 1,
    sharded: Sharded = False,
    tokens_per_second: TokensPerSecond = None,
    measured: Measured = None,
    mfu: Mfu = 0.35,
    price: Price = None,
) -> None:
    """Continually pre-train a model on running text. Killed, the same command goes on.

    On several devices: `torchrun --nproc_per_node 8 -m langmerge train ct my.yaml`, or
    `accelerate launch` with a file of data/accelerate.
    """
    means = (gpu, gpus, sharded, tokens_per_second, measured, mfu, price)
    _train("ct", run, plan, prepare, means)


@train_app.command(epilog=_examples("train sft sft_flan --plan", "train sft my.yaml"))
def sft(
    run: RunFile,
    plan: OnlyPlan = False,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Only tokenize and pack the examples.")
    ] = False,
    gpu: Card = "RTX 4090",
    gpus: Cards = 1,
    sharded: Sharded = False,
    tokens_per_second: TokensPerSecond = None,
    measured: Measured = None,
    mfu: Mfu = 0.35,
    price: Price = None,
) -> None:
    """Fine-tune a model on instructions. Killed, the same command goes on."""
    means = (gpu, gpus, sharded, tokens_per_second, measured, mfu, price)
    _train("sft", run, plan, prepare, means)


def _train(kind: str, source: str, only_plan: bool, only_prepare: bool, means: tuple) -> None:
    from langmerge.scale import settings

    run = settings.read(kind, source)
    if only_plan:
        from langmerge.scale import plan

        _print_table(("plan", str(run.out)), plan.lines(run, plan.Means(*means)))
        return
    from langmerge.progress import bar
    from langmerge.scale import training

    if only_prepare:
        with bar("Packing rows") as progress:
            training.prepare(run, progress)
        typer.echo(run.out / "data")
        return
    task = {"ct": training.continual_pretrain, "sft": training.finetune}[kind]
    if "RANK" in os.environ:  # one of several processes: the log says how far they are
        task(run)
        return
    if not training.is_done(run):
        with bar("Packing rows") as progress:
            training.prepare(run, progress)
    with bar("Training") as progress:
        task(run, progress)
    for folder in run.checkpoints().values():
        typer.echo(folder)


@train_app.command(epilog=_examples("train cost", "train cost --tokens 1e8 --mfu 0.4 --price 2.5"))
def cost(
    tokens: Annotated[float, typer.Option(min=1, help="Tokens to train on.")] = 1e8,
    mfu: Mfu = 0.35,
    price: Price = None,
) -> None:
    """Memory, speed and hours by model and GPU, by formula."""
    from langmerge.scale import cost as costs
    from langmerge.scale import plan

    titles, rows = plan.cost_table(tokens, mfu, price)
    _print_table(titles, rows)
    typer.echo(
        f"By formula: MFU x peak / (6 x parameters) tokens a second on each GPU; MFU {mfu:.2f} is "
        f"assumed. {costs.ROWS_TOLD}"
    )


@train_app.command(epilog=_examples("train measure --shape llama-1b --rows 4 --out h100.json"))
def measure(
    shape: Annotated[
        str, typer.Option(help="qwen1.5-0.5b, llama-1b, ... or a folder.")
    ] = "llama-1b",
    rows: Annotated[int, typer.Option(min=1, help="Sequences at once.")] = 1,
    sequence: Annotated[int, typer.Option(min=2, help="Tokens of a sequence.")] = 2048,
    steps: Annotated[int, typer.Option(min=1, help="Steps that count.")] = 20,
    precision: Annotated[str, typer.Option(help="auto, bf16 or fp32.")] = "auto",
    checkpointing: Annotated[bool, typer.Option(help="Compute activations anew.")] = True,
    out: Annotated[Path | None, typer.Option(help="A file (JSON) for --measured.")] = None,
) -> None:
    """Measure training's speed and memory here, with random weights of a model's shape."""
    from langmerge.scale import cost as costs
    from langmerge.scale import measure as measuring
    from langmerge.scale import plan

    known = costs.SHAPES.get(shape) or plan.shape(shape)
    found = measuring.measure(known, rows, sequence, steps, 3, precision, checkpointing)
    _print_table(("measured", found["device"]), measuring.lines(found))
    if out is not None:
        files.write_text(out, json.dumps(found, indent=1) + "\n")
        typer.echo(out)


@app.command(
    name="hub-small",
    epilog=_examples(
        "hub-small --language tel_Telu --plan --gpu 'RTX 4090' --price 0.5",
        "hub-small --language tel_Telu",
    ),
)
def hub_small(
    language: Annotated[str, typer.Option("--language", "-l", help="FLORES code.")],
    settings: Annotated[
        str, typer.Option(help="Your settings (YAML). [default: the shipped ones]")
    ] = "hub_small",
    out: Annotated[
        Path | None, typer.Option(help="The folder. [default: hub-small/<language> in the home]")
    ] = None,
    plan: OnlyPlan = False,
    gpu: Card = "RTX 4090",
    tokens_per_second: TokensPerSecond = None,
    measured: Measured = None,
    mfu: Mfu = 0.35,
    price: Price = None,
) -> None:
    """The three findings with a model of half a billion parameters, on one GPU. Resumable."""
    from langmerge import paths
    from langmerge.scale import hub_small as studies
    from langmerge.scale import plan as plans

    where = out or paths.home() / "hub-small" / language
    study = studies.Study(studies.read(settings), language, where)
    if plan:
        means = plans.Means(gpu, 1, False, tokens_per_second, measured, mfu, price)
        _print_table(("plan", str(where)), studies.plan_lines(study, means))
        return
    typer.echo(studies.run(study, typer.echo))


@contributed_app.command(name="check", epilog=_examples("contributed check rows.jsonl"))
def check_contributed(
    file: Annotated[Path, typer.Argument(help="JSON lines, a row a line.")],
) -> None:
    """Check rows before they are taken into data/results/contributed."""
    from langmerge.scale import contributed

    rows = contributed.check(file)
    counted = ", ".join(sorted({row.language for row in rows}))
    typer.echo(f"{file}: {len(rows)} rows of {counted} are in order.")


@contributed_app.command(name="show", epilog=_examples("contributed show"))
def show_contributed() -> None:
    """Show the accuracies that readers have contributed."""
    from langmerge.scale import contributed

    titles, rows = contributed.table()
    if not rows:
        typer.echo(f"Nobody has contributed rows yet: {contributed.folder()} is where they go.")
        return
    _print_table(titles, rows)


@app.command(epilog=_examples("power --plan", "power", "power --languages 16 --bases 3 --seeds 2"))
def power(
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what of the pilot is there, and what it takes.")
    ] = False,
    languages: Annotated[
        int | None, typer.Option(min=2, help="Languages. [default: the reference run's]")
    ] = None,
    bases: Annotated[
        int | None, typer.Option(min=1, help="Bases. [default: the reference run's]")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Run seeds. [default: the reference run's]")
    ] = None,
    base_spread: Annotated[
        float,
        typer.Option(min=0, help="How much bases differ, if languages differ by 1."),
    ] = 0.5,
    profile: Annotated[str, typer.Option("--profile", "-p", help="The pilot.")] = "pilot",
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes. [default: one per core]")
    ] = None,
) -> None:
    """Say what a run of some size could show, from a pilot on the development languages.

    Runs what is missing of the pilot, slice by slice, and writes data/power.csv.
    """
    from langmerge import power as powers
    from langmerge import reference as runs

    if plan:
        reference(plan=True, profile=profile)
        return
    usual = powers.design()
    size = powers.Design(languages or usual.languages, bases or usual.bases, seeds or usual.seeds)
    runs.run(profile, processes=processes)
    table = powers.measure(size, profile, base_spread=base_spread)
    columns = ["claim", "truth", "effect", "spread", "holds", "fails", "inconclusive"]
    _print_table(columns, (map(_brief, r) for r in table[columns].itertuples(index=False)))
    typer.echo(
        f"Of {size.languages} languages on {size.bases} base(s), {size.seeds} seed(s) each; the "
        "table is in data/power.csv."
    )


@app.command(epilog=_examples("coverage"))
def coverage() -> None:
    """Simulate how often the study's 95 % intervals hold the truth, for the book."""
    from langmerge import coverage as intervals

    table = intervals.measure()
    columns = ["units", "number", "spread", "interval", "coverage"]
    _print_table(columns, (map(_brief, r) for r in table[columns].itertuples(index=False)))
    typer.echo("The table is in data/coverage.csv.")


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


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


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


@app.command(
    epilog=_examples(
        "paper",
        "paper --language tam_Taml --plan",
        "paper --language tam_Taml",
        "paper --language ind_Latn --limit 50",
    )
)
def paper(
    language: Annotated[
        str | None, typer.Option("--language", "-l", help="FLORES code. [default: list them]")
    ] = None,
    triple: Annotated[
        str | None, typer.Option(help="Which checkpoints: paper or laptop. [default: what fits]")
    ] = None,
    laptop: Annotated[
        bool, typer.Option("--laptop", help="The same as --triple laptop: 0.5B models.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what would be fetched, and what it takes.")
    ] = False,
    slack: Annotated[
        list[float] | None, typer.Option(help="A slack; may be repeated, and inf.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Items a task, for a trial. [default: all]")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda:0, mps. [default: the best]")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="To evaluate in. [default: bfloat16, float32 on a CPU]")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts at once.")] = 8,
    threads: Annotated[int, typer.Option(min=1, help="Threads to merge with.")] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the merged models on disk.")] = False,
    repin: Annotated[
        bool, typer.Option("--repin", help="Take today's revisions in place of the first run's.")
    ] = False,
    study: Annotated[
        Path | None, typer.Option(help="Triples and grid of your own, as data/paper.yaml has them.")
    ] = None,
) -> None:
    """Merge released checkpoints and evaluate them, against their parts and over slacks.

    Fetches, diagnoses, merges and evaluates; rows are kept as they come, and the same command goes
    on where it was stopped.
    """
    from langmerge import paper as papers

    if laptop and triple not in (None, "laptop"):
        raise LangmergeError(f"--laptop and --triple {triple} say different things: give one.")
    written = papers.read_study(study)
    if language is None:
        _print_released(written)
        return
    chosen = papers.choose(language, "laptop" if laptop else triple, written, slack or ())
    from langmerge import paper_page, paper_plan, paper_run

    setting = paper_run.setting(device, dtype, batch_size, limit)
    if plan:
        _print_table(
            ("plan", chosen.name),
            paper_plan.plan(chosen, papers.pin(chosen, repin), setting).rows,
        )
        return
    options = paper_run.Options(threads=threads, keep=keep, repin=repin)
    rows, pinned = paper_run.run(chosen, setting, options, tell=typer.echo)
    _print_table(*paper_page.table(chosen, rows))
    typer.echo(paper_page.write(chosen, pinned, setting, rows))
    typer.echo(chosen.results)


def _print_released(study: Any) -> None:
    """Which languages have released checkpoints, and what those can test."""
    from langmerge import paper as papers

    _print_table(("language", "name", "checkpoint", "tasks"), papers.overview(study))
    _print_table(("released weights can test", ""), papers.TESTABLE)


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
