"""The commands for models and data of the hub."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from langmerge import files
from langmerge.cli.application import app
from langmerge.cli.options import (
    MFU,
    Card,
    Cards,
    Measured,
    Mfu,
    OnlyPlan,
    Price,
    Sharded,
    TokensPerSecond,
    examples,
)
from langmerge.cli.printing import print_table
from langmerge.errors import LangmergeError


@app.command(
    epilog=examples(
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
    from langmerge import paper_notebook, paper_page, paper_plan, paper_results, paper_run

    setting = paper_run.setting(device, dtype, batch_size, limit)
    if plan:
        print_table(
            ("plan", chosen.name),
            paper_plan.plan(chosen, papers.pin(chosen, repin), setting).rows,
        )
        return
    options = paper_run.Options(threads=threads, keep=keep, repin=repin)
    paper_run.run(chosen, setting, options, tell=typer.echo)
    found = paper_results.load(chosen, limit, setting.dtype)
    print_table(*paper_page.scores(found))
    typer.echo(chosen.results)
    if missing := paper_notebook.lacking(found):
        typer.echo(missing)
        return
    for path in paper_notebook.write(chosen, limit, setting.dtype, study):
        typer.echo(path)


def _print_released(study: Any) -> None:
    """Which languages have released checkpoints, and what those can test."""
    from langmerge import paper as papers
    from langmerge.paper_testable import TESTABLE

    print_table(("language", "name", "checkpoint", "tasks"), papers.overview(study))
    print_table(("released weights can test", ""), TESTABLE)


@app.command(
    name="hub-small",
    epilog=examples(
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
    mfu: Mfu = MFU,
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
        print_table(("plan", str(where)), studies.plan_lines(study, means))
        return
    typer.echo(studies.run(study, typer.echo))


train_app = typer.Typer(
    rich_markup_mode="markdown",
    no_args_is_help=True,
    help="Continual pre-training and fine-tuning of models of any size.",
    epilog=examples("train ct ct_tel --plan", "train cost", "train measure --shape llama-1b"),
)

app.add_typer(train_app, name="train")

contributed_app = typer.Typer(
    rich_markup_mode="markdown",
    no_args_is_help=True,
    help="Rows of results that readers contribute.",
    epilog=examples("contributed check rows.jsonl", "contributed show"),
)

app.add_typer(contributed_app, name="contributed")

RunFile = Annotated[
    str, typer.Argument(help="Settings of the run (YAML), or shipped ones: ct_tel, sft_flan.")
]


def _command(kind: str, doc: str, *lines: str) -> None:
    """Add ``train ct`` or ``train sft``: another training, the same options."""

    def train(
        run: RunFile,
        plan: OnlyPlan = False,
        prepare: Annotated[
            bool, typer.Option("--prepare", help="Only tokenize and pack the data; needs no GPU.")
        ] = False,
        gpu: Card = "RTX 4090",
        gpus: Cards = 1,
        sharded: Sharded = False,
        tokens_per_second: TokensPerSecond = None,
        measured: Measured = None,
        mfu: Mfu = MFU,
        price: Price = None,
    ) -> None:
        means = (gpu, gpus, sharded, tokens_per_second, measured, mfu, price)
        _train(kind, run, plan, prepare, means)

    train.__doc__ = doc
    train_app.command(name=kind, epilog=examples(*lines))(train)


_command(
    "ct",
    """Continually pre-train a model on running text. Killed, the same command goes on.

    On several devices: `torchrun --nproc_per_node 8 -m langmerge train ct my.yaml`, or
    `accelerate launch` with a file of data/accelerate.
    """,
    "train ct ct_tel --plan --gpu 'A100 80GB' --gpus 8 --sharded",
    "train ct my.yaml",
)
_command(
    "sft",
    """Fine-tune a model on instructions. Killed, the same command goes on.""",
    "train sft sft_flan --plan",
    "train sft my.yaml",
)


def _train(kind: str, source: str, only_plan: bool, only_prepare: bool, means: tuple) -> None:
    from langmerge.scale import settings

    run = settings.read(kind, source)
    if only_plan:
        from langmerge.scale import plan

        print_table(("plan", str(run.out)), plan.lines(run, plan.Means(*means)))
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


@train_app.command(epilog=examples("train cost", "train cost --tokens 1e8 --mfu 0.4 --price 2.5"))
def cost(
    tokens: Annotated[float, typer.Option(min=1, help="Tokens to train on.")] = 1e8,
    mfu: Mfu = MFU,
    price: Price = None,
) -> None:
    """Memory, speed and hours by model and GPU, by formula."""
    from langmerge.scale import cost as costs
    from langmerge.scale import plan

    titles, rows = plan.cost_table(tokens, mfu, price)
    print_table(titles, rows)
    typer.echo(
        f"By formula: MFU x peak / (6 x parameters) tokens a second on each GPU; MFU {mfu:.2f} is "
        f"assumed. {costs.ROWS_TOLD}"
    )


@train_app.command(epilog=examples("train measure --shape llama-1b --rows 4 --out h100.json"))
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
    print_table(("measured", found["device"]), measuring.lines(found))
    if out is not None:
        files.write_text(out, json.dumps(found, indent=1) + "\n")
        typer.echo(out)


@contributed_app.command(name="check", epilog=examples("contributed check rows.jsonl"))
def check_contributed(
    file: Annotated[Path, typer.Argument(help="JSON lines, a row a line.")],
) -> None:
    """Check rows before they are taken into data/results/contributed."""
    from langmerge.scale import contributed

    rows = contributed.check(file)
    counted = ", ".join(sorted({row.language for row in rows}))
    typer.echo(f"{file}: {len(rows)} rows of {counted} are in order.")


@contributed_app.command(name="show", epilog=examples("contributed show"))
def show_contributed() -> None:
    """Show the accuracies that readers have contributed."""
    from langmerge.scale import contributed

    titles, rows = contributed.table()
    if not rows:
        typer.echo(f"Nobody has contributed rows yet: {contributed.folder()} is where they go.")
        return
    print_table(titles, rows)
