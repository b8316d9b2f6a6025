"""The commands that compute: the study, its languages side by side, its settings, its base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from langmerge.cli.application import app
from langmerge.cli.options import (
    Languages,
    Processes,
    Profile,
    Scheduler,
    Seeds,
    examples,
    parse_seeds,
    use_scheduler,
)
from langmerge.cli.printing import brief, count, minutes, print_table, tokens, yes


@app.command(
    epilog=examples(
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
    use_scheduler(scheduler, processes)
    from langmerge import study

    print_scores(study.run(language=language, profile=profile, seeds=chosen, processes=processes))


def print_scores(results: Any) -> None:
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
        print_table([*keys, *scores.columns], (map(brief, line) for line in lines))


@app.command(epilog=examples("show"))
def show() -> None:
    """Show what the store holds."""
    from langmerge import study

    table = study.show()
    if table is None:
        return
    if len(table) == 0:
        typer.echo("The store is empty: `langmerge run` fills it.")
        return
    print_table(list(table.columns), table.astype(str).itertuples(index=False))


@app.command(epilog=examples("tune", "tune --missing", "tune --method widen --method della"))
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
    use_scheduler(scheduler)
    from langmerge import paths, tuning

    chosen = tuning.tune(profile=profile, methods=method, missing=missing)
    if not chosen:
        typer.echo(f"Nothing to tune: every method of profile {profile} has its settings.")
        return
    rows = (
        (method, ", ".join(f"{name} {value}" for name, value in settings.items()))
        for method, settings in chosen.items()
    )
    print_table(("method", "settings"), rows)
    typer.echo(f"The settings are in {paths.find('profiles', profile)}, the trials beside it.")


@app.command(epilog=examples("reference --plan", "reference", "reference --limit 4"))
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
    train_bases: Annotated[
        bool,
        typer.Option(
            "--train-bases",
            help="First train the bases that do not ship, by what is known of their recipes.",
        ),
    ] = False,
    processes: Processes = None,
    scheduler: Scheduler = None,
) -> None:
    """Run many languages for the pooled verdicts, slice by slice; kept under data/results.

    Killed, it goes on with the next slice.
    """
    from langmerge import base as lab_base
    from langmerge import reference as runs
    from langmerge.progress import bar

    if seal:
        typer.echo(f"{len(runs.seal(profile))} slices sealed.")
        return
    if plan:
        _print_plan(profile)
        return
    use_scheduler(scheduler, processes)
    for name in runs.bases_to_train(profile) if train_bases else ():
        with bar(f"Training the base {name}") as progress:
            lab_base.rebuild(name, progress)
    done = runs.run(profile, processes=processes, limit=limit)
    typer.echo(f"{len(done)} slices computed, {len(runs.plan(profile).query('~done'))} to go.")


def _print_plan(profile: str) -> None:
    """Which slices are there, what each block costs, and what is left to do."""
    from langmerge import reference as runs

    found = runs.plan(profile)
    print_table(
        ("base", "seed", "language", "there", "minutes", "what is another now"),
        (
            (
                r.base,
                r.seed,
                r.language,
                yes(r.done),
                minutes(r.seconds, r.measured),
                r.differs,
            )
            for r in found.itertuples()
        ),
    )
    blocks = runs.cost(profile)
    print_table(
        ("block", "models a slice", "minutes a slice", "slices to do"),
        (
            (r.block, count(r.models), minutes(r.seconds, measured=True), r.to_do)
            for r in blocks.itertuples()
        ),
    )
    for name in runs.bases_to_train(profile):
        typer.echo(f"The base {name} has to be trained first (--train-bases).")
    left = found[~found["done"]]["seconds"].sum(min_count=1) / 60
    told = f"about {left:,.0f} minutes" if left > 0 else "no time is measured yet"
    to_do = (~found["done"]).sum()
    typer.echo(f"To do: {to_do} of {len(found)} slices" + (f" ({told})." if to_do else "."))


@app.command(
    name="verify-reference",
    epilog=examples("verify-reference --plan", "verify-reference", "verify-reference --limit 1"),
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
        took = verify.seconds(blocks, how)
        print_table(
            ("base", "seed", "language", "CT tokens", "minutes"),
            (
                (one.base, one.seed, one.language, tokens(block.budgets), minutes(time, False))
                for block, one, time in zip(blocks, (b.slice for b in blocks), took, strict=True)
            ),
        )
        typer.echo(f"All files are whole. Minutes to compute: {minutes(sum(took), False)}.")
        return
    found = verify.verify(profile, share, draw, limit, processes)
    _print_verified(found)
    if not found.holds:
        raise typer.Exit(1)


def _print_verified(found: Any) -> None:
    """What came out again, what did not, and what was asked for."""
    from langmerge import verify

    titles = ("base", "seed", "language", "CT tokens", "models", "numbers", "identical")
    print_table(
        (*titles, "accuracy off by", "bits per byte off by", "holds"),
        (
            (
                *(r.base, r.seed, r.language, f"{r.ct_tokens:,}", r.models, r.numbers, r.same),
                *(f"{r.accuracy:.4f}", f"{r.bits:.4%}", yes(r.holds)),
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
        print_table((*columns, "committed", "found"), (map(brief, row) for row in rows))
        typer.echo(f"{len(found.differing)} numbers differ by more than that.")


@app.command(epilog=examples("power --plan", "power", "power --languages 16 --bases 3 --seeds 2"))
def power(
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say what of the pilot is there, and what it takes.")
    ] = False,
    languages: Annotated[
        int | None, typer.Option(min=2, help="Languages. [default: see below]")
    ] = None,
    bases: Annotated[int | None, typer.Option(min=1, help="Bases. [default: see below]")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Run seeds. [default: see below]")
    ] = None,
    base_spread: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="How much bases differ, if languages differ by 1. [default: as measured]",
        ),
    ] = None,
    profile: Annotated[str, typer.Option("--profile", "-p", help="The pilot.")] = "pilot",
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes. [default: one per core]")
    ] = None,
) -> None:
    """Say what a run of some size could show, from a pilot on the development languages.

    Runs what is missing of the pilot, slice by slice, and writes data/power.csv. Without a size:
    for the reference run as it stands, as planned, with the bases that there are, and with three
    and twelve; of a size that is given in part the rest is the reference run's as planned.
    """
    from langmerge import power as powers
    from langmerge import reference as runs

    if plan:
        _print_plan(profile)
        return
    usual = powers.design()
    asked = powers.Design(languages or usual.languages, bases or usual.bases, seeds or usual.seeds)
    runs.run(profile, processes=processes)
    sizes = [asked] if languages or bases or seeds else None
    table = powers.measure(sizes, profile, base_spread=base_spread)
    columns = ["languages", "bases", "seeds", "claim", "truth", "effect", "spread"]
    columns += ["holds", "fails", "inconclusive"]
    print_table(columns, (map(brief, r) for r in table[columns].itertuples(index=False)))
    typer.echo("The table is in data/power.csv.")


@app.command(epilog=examples("coverage"))
def coverage() -> None:
    """Simulate how often the study's 95 % intervals hold the truth, for the book."""
    from langmerge import coverage as intervals

    table = intervals.measure()
    columns = ["units", "number", "spread", "interval", "coverage"]
    print_table(columns, (map(brief, r) for r in table[columns].itertuples(index=False)))
    typer.echo("The table is in data/coverage.csv.")


base_app = typer.Typer(rich_markup_mode="markdown")

app.add_typer(base_app, name="base")


@base_app.callback(
    invoke_without_command=True,
    epilog=examples("base", "base --name second --seed 1", "base extend -l gsw_Latn"),
)
def base(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Option(help="Make another base beside the shipped one; profiles name it by this."),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="A recipe of your own. [default: data/base_recipe.yaml]")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="In place of the recipe's.")] = None,
) -> None:
    """Train a base model of the lab from scratch (about half an hour on one core; resumable).

    Without a name the shipped one is made again.
    """
    if context.invoked_subcommand:
        return
    from langmerge import base as lab_base
    from langmerge.errors import LangmergeError
    from langmerge.progress import bar

    if name is None and (recipe or seed is not None):
        raise LangmergeError("a base of another recipe or seed needs a --name of its own.")
    if name and "+" in name:
        raise LangmergeError(f"{name!r}: + is for what `langmerge base extend` adds to a name.")
    out = lab_base.new_folder(name) if name else None
    with bar("Training the base") as progress:
        typer.echo(lab_base.build(out, recipe, progress, seed))


@base_app.command(
    epilog=examples("base extend --language gsw_Latn", "base extend -l gsw_Latn -l bod_Tibt")
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
    print_table(
        ("language", "task", "English SFT alone", "chance", "standing"),
        (
            (row.language, row.task, f"{row.value:.2f}", f"{row.chance:.2f}", row.standing)
            for row in standing.itertuples()
        ),
    )
    print_table(
        ("rehearsed", "bits per byte before", "after", "loss", "within"),
        (
            (r.language, f"{r.before:.3f}", f"{r.after:.3f}", f"{r.loss:+.0%}", yes(r.within))
            for r in lost.itertuples()
        ),
    )
    for code in language:
        lab_base.load(folder).require_ready(code)
        typer.echo(f"{code} is ready: `langmerge run --language {code}`.")
    typer.echo(folder)
