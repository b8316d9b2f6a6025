"""The book: study, notebooks, site.

`build` does what ``make book`` promises. The study computes what its store lacks, the
notebooks are executed where something they depend on has changed, and jupyter-book renders
the pages into ``_build/html``. A new site replaces the old one only when it is complete,
without warnings, and loads nothing from elsewhere.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from langmerge import bundle, execution, offline, paths, site_pages
from langmerge.errors import LangmergeError
from langmerge.execution import Job
from langmerge.files import write_text
from langmerge.progress import bar
from langmerge.provenance import version_of

EXECUTED = "book/_executed"
# Its script may not be on the path where the environment is not activated.
_JUPYTER_BOOK = "from jupyter_book.cli.main import main; main()"
HEADLINE_METHODS = ("sft", "ct", "ct_then_sft", "average", "ties_mean", "ties_sv")
_RENDERERS = ("jupyter-book", "sphinx", "myst-nb", "sphinx-book-theme", "docutils")


def build(
    languages: Sequence[str] | None = None,
    profile: str = "lab",
    seeds: Sequence[int] | None = None,
    output: Path | None = None,
    strict: bool = True,
    student: bool = False,
) -> Path:
    """Run the study, execute the notebooks, render the site; return its ``index.html``.

    `languages` are shown beside those that ``_toc.yml`` lists. The site goes to
    ``<output>/_build/html``; `output` is the checkout where it is not given. With `strict`
    a warning of the renderer is an error. With `student` the exercises' solutions are left out
    (`langmerge.solutions`), and the site goes to the folder ``student`` under ``LANGMERGE_HOME``,
    so that neither build replaces the other. Raises LangmergeError outside a checkout, and
    where a notebook, a page or the check for external references fails.
    """
    from langmerge import paper_notebook

    root = require_checkout()
    console = Console()
    shipped = read_toc(root / "_toc.yml")
    codes = list(dict.fromkeys([*toc_languages(shipped), *(languages or ())]))
    toc = paper_notebook.extend_toc(extend_toc(shipped, codes))

    results = _study(codes, profile, seeds, console)
    jobs = [*_jobs(results, seeds, toc), *paper_notebook.jobs(toc)]
    _execute(jobs, console)
    execution.install(jobs, root / EXECUTED, student)
    _write_pages(results, jobs, root / EXECUTED)
    output = output or (paths.home() / "student" if student else root)
    index = _render(root, toc, output, strict, jobs, console, student)
    console.print(f"The book: [bold]{index}[/bold]", soft_wrap=True)
    return index


def _write_pages(results: dict[str, Any], jobs: Sequence[Job], folder: Path) -> None:
    """Write what the chapters include, unless it is there from the same notebooks and data.

    A notebook's key depends on the library, the data and the results that ship, and on its run.
    """
    stamp = folder / "pages.json"
    key = execution.digest(*(job.key for job in jobs))
    told = json.loads(stamp.read_text(encoding="utf-8")) if stamp.is_file() else {}
    if told.get("key") == key and all((folder / name).is_file() for name in told["files"]):
        return
    stamp.unlink(missing_ok=True)
    _make_pages(results, jobs, folder)
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    told = {"key": key, "files": files}
    execution.write_atomically(stamp, json.dumps(told, indent=1) + "\n")


def _make_pages(results: dict[str, Any], jobs: Sequence[Job], folder: Path) -> None:
    """Write samples, tables, verdicts and their figures, made from data and results."""
    # They draw and compute; the other commands start without them.
    from langmerge import (
        background,
        control_bases,
        control_checks,
        data_card,
        explorer,
        faster_bases,
        faster_traces,
        frozen_embeddings,
        full_run,
        larger,
        larger_bases,
        many_seeds,
        other_bases,
        other_traces,
        paper_chapter,
        reference,
        repeated_text,
        status,
        swapped_layers,
        swapped_parts,
        teaching,
    )
    from langmerge import verdicts as verdicts_page

    pages = {
        **background.pages(folder),
        **data_card.page(),
        "samples.md": samples(),
        "verdicts.md": verdicts(results),
        "answer.md": answer(results, folder),
        "explorer.md": explorer.page(reference.load(), folder),
        "real_models.md": paper_chapter.page(),
        "full.md": full_run.page(folder),
        "faster_bases.md": faster_bases.page(folder),
        "repeated_text.md": repeated_text.page(folder),
        "swapped_layers.md": swapped_layers.page(),
        "swapped_parts.md": swapped_parts.page(folder),
        "frozen_embeddings.md": frozen_embeddings.page(),
        "larger.md": larger.page(folder),
        "larger_bases.md": larger_bases.page(folder),
        "many_seeds.md": many_seeds.page(folder),
        "other_bases.md": other_bases.page(folder),
        "control_bases.md": control_bases.page(folder),
        "controls.md": control_checks.page(folder),
        "other_traces.md": other_traces.page(folder),
        "faster_traces.md": faster_traces.page(folder),
        "teaching.md": teaching.expected(reference.load()),
        "status.md": status.page(jobs, results, folder, _RENDERERS),
    }
    pages |= verdicts_page.page(results)
    for name, text in pages.items():
        execution.write_atomically(folder / name, text)


def try_languages(codes: Sequence[str], profile: str = "smoke") -> dict[str, str]:
    """Run the study and the notebooks of each language, without a site; what kept which from it.

    Returns a line for each language: empty where all its notebooks ran. Raises LangmergeError
    outside a checkout.
    """
    toc = read_toc(require_checkout() / "_toc.yml")
    console = Console()
    found = {}
    for code in codes:
        try:
            results = _study([code], profile, None, console)
            _execute(_jobs(results, None, extend_toc(toc, [code])), console)
        except LangmergeError as error:
            found[code] = str(error)
        else:
            found[code] = ""
    return found


def samples() -> str:
    """Two facts of the lab's world in every language, as a Markdown table for its page."""
    from langmerge import data_card, languages
    from langmerge.realize import Realizer
    from langmerge.world import Proposition

    facts = (
        Proposition.of("kind", thing="cow", topic="animal"),
        Proposition.of("act_place", person="mother", action="cook", thing="rice", place="village"),
    )
    lines = ["| Language | Script | Word order | One fact | Another |", "|---|---|---|---|---|"]
    for code in data_card.shown():
        it = languages.load(code)
        say = Realizer(it)
        can_say = it.inventory().constructions
        said = (
            data_card.marked(it, say(fact)) if fact.construction in can_say else ""
            for fact in facts
        )
        described = (f"{it.name} (`{code}`)", it.script, it.word_order, *said)
        lines.append(f"| {' | '.join(described)} |")
    return "\n".join(lines) + "\n"


def answer(results: dict[str, Any], folder: Path) -> str:
    """The first page's answer: one figure, saved into a folder, and a sentence for each finding.

    The figure is of the first language; the sentences are of the reference run where there is
    one.
    """
    from langmerge import languages, plotting, reference

    code, found = next(iter(results.items()))
    name = languages.load(code).name
    fig = plotting.accuracy_against_tokens(found, methods=HEADLINE_METHODS)
    plotting.save(fig, folder / "answer.png")
    many = reference.load()
    said = headlines(found, name) if many is None else [*in_short(), *headlines(many)]
    said += ["", *other_runs(), *beyond(), ""]
    caption = (
        f"Accuracy on tasks in {name} against tokens of continual pre-training: the usual way, "
        "merges, and the two models that a merge is made of. Bars are 95 % intervals."
    )
    lines = [
        "```{figure} _executed/answer.png",
        ":name: fig-answer",
        f":alt: {plotting.alt(fig)}",
        "",
        caption,
        "```",
        "",
        *said,
    ]
    return "\n".join(lines) + "\n"


def in_short() -> list[str]:
    """What the runs on several bases say of the paper's findings, as one line and an empty one.

    Empty without their rows.
    """
    from langmerge import (
        claims,
        frozen_embeddings,
        larger,
        larger_bases,
        other_bases,
        reference,
        swapped_layers,
    )
    from langmerge import verdicts as verdicts_page

    small, sizes = other_bases.all_bases(), larger_bases.runs()
    if small is None or sizes is None:
        return []
    words = []
    for run in (small, sizes[-1]):
        judged = {it.claim: it.verdict for it in other_bases.judge(run)}
        words.append([judged[claims.FINDINGS[number][1]] for number in claims.PAPERS])
    titles = [claims.FINDINGS[number][0] for number in claims.PAPERS]
    told = "; ".join(
        f"{title[0].lower()}{title[1:]}: **{one}**, and **{other}** in models of "
        f"{larger.times()} times the size"
        for title, one, other in zip(titles, *words, strict=True)
    )
    said = f"In short, by the runs on several bases, which are the ones to go by: {told}."
    swapped = reference.load(verdicts_page.PROFILES[swapped_layers.ONCE])
    if swapped is not None:
        asked = (swapped_layers.ONCE, frozen_embeddings.FINDING)
        one, other = (_word(swapped, finding) for finding in asked)
        said += (
            " A merge that the paper does not ask, swapping layers, is better than CT-then-SFT "
            f"where text is scarce: **{one}** ({swapped_layers.ONCE}); and than CT-then-SFT whose "
            f"SFT leaves the embeddings as they are: **{other}** ({frozen_embeddings.FINDING})."
        )
    return [said, ""]


def _word(run: Any, finding: int) -> str:
    """The verdict on the claim that stands for a finding."""
    from langmerge import claims

    judged = {it.claim: it for it in claims.judge(run, finding, missing_ok=True)}
    return judged[claims.FINDINGS[finding][1]].verdict


def headlines(
    results: Any, where: str | None = None, findings: Sequence[int] | None = None
) -> list[str]:
    """A sentence for each finding, the paper's by default, from the claim that stands for it.

    where: what the run's languages are called.
    """
    from langmerge import claims

    findings = findings or claims.PAPERS
    stated = [claim for claim in claims.load() if claim.finding in findings]
    judged = claims.judge_all(results, stated)
    said = []
    for number in findings:
        title, claim = claims.FINDINGS[number]
        verdict = judged[claim]
        bases = f" on {verdict.bases} bases" if verdict.bases > 1 else ""
        its = where or f"{len(results.languages)} languages{bases} together"
        seeds = claims.by_run_seed(verdict)
        measured = f"{claims.effect(verdict)}, {verdict.interval()} ({its}{seeds})"
        if verdict.verdict == claims.NOT_TESTED:
            measured = f"not tested ({its})"
        said.append(
            f"{number}. **{title}: {verdict.verdict}.** Claimed: "
            f"{verdict.statement[0].lower()}{verdict.statement[1:]}. Measured: {measured}."
        )
    return said


def other_runs() -> list[str]:
    """A sentence on each run beside the reference run that has rows, and where to read on."""
    from langmerge import larger_bases, many_seeds, other_bases

    runs = {"many_seeds": many_seeds, "other_bases": other_bases, "larger_model": larger_bases}
    told = ((page, run.headline()) for page, run in runs.items())
    return [
        line
        for page, said in told
        if said is not None
        for line in (f"{said} See {{doc}}`{page}`.", "")
    ]


def beyond() -> list[str]:
    """The sentences on what is asked beyond the paper, of the parts of the full run that there are.

    Empty where there is none.
    """
    from langmerge import reference
    from langmerge import verdicts as verdicts_page

    said = []
    for finding, profile in verdicts_page.PROFILES.items():
        part = reference.load(profile)
        said += [] if part is None else headlines(part, findings=[finding])
    return ["And beyond the paper, in fewer languages:", "", *said] if said else []


def verdicts(results: dict[str, Any]) -> str:
    """The claims on the paper's findings with their verdicts, as Markdown for the first page.

    One column a language, one for all of the reference run's together, and one for several bases.
    """
    from langmerge import claims, languages, other_bases, reference

    stated = [claim for claim in claims.load() if claim.finding in claims.PAPERS]
    runs = {languages.load(code).name: found for code, found in results.items()}
    many = reference.load()
    if many is not None:
        runs[f"{len(many.languages)} languages"] = many
    bases = other_bases.all_bases()
    if bases is not None:
        runs[f"{len(bases.plan.bases)} bases, {len(bases.languages)} languages"] = bases
    judged = [claims.judge_all(found, stated) for found in runs.values()]
    names = " | ".join(f"{name}, in the lab" for name in runs)
    lines = [f"| Finding | Claim | {names} | at 7B |", "|---" * (3 + len(runs)) + "|"]
    for claim in stated:
        row = [its[claim.id] for its in judged]
        words = " | ".join(map(_in_short, row))
        lines.append(f"| {claim.finding} | {claim.statement} | {words} | {row[0].at_7b} |")
    rests = "; ".join(
        f"{name}: {_seeds(found.seeds)}, profile `{found.profile}`" for name, found in runs.items()
    )
    notes = {found.plan.note for found in results.values() if found.plan.note}
    return "\n".join(lines) + f"\n\n{rests}.\n" + "".join(f"\n**{note}**\n" for note in notes)


def _in_short(verdict: Any) -> str:
    """A verdict for a cell of a table: the word alone where nothing was tested."""
    from langmerge import claims

    word = f"**{verdict.verdict}**"
    if verdict.verdict == claims.NOT_TESTED:
        return word
    return f"{word}: {claims.effect(verdict)}, {verdict.interval()}"


def _seeds(seeds: Sequence[int]) -> str:
    return f"{len(seeds)} seed{'s' * (len(seeds) > 1)}"


def require_checkout() -> Path:
    """The repository's top folder; LangmergeError where langmerge came from a wheel."""
    root = paths.checkout()
    if root is None or not (root / "_toc.yml").is_file():
        raise LangmergeError(
            "The book is built in a clone of the repository, and this langmerge was installed "
            "without one.\nThe study and the notebooks run here too: `langmerge run --help`."
        )
    return root


def read_toc(path: Path) -> dict[str, Any]:
    """The table of contents as jupyter-book reads it."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def toc_notebooks(toc: dict[str, Any]) -> list[tuple[str, str]]:
    """(language, notebook's stem) of every executed notebook that the contents list."""
    entries = (_split(chapter) for part in toc["parts"] for chapter in part["chapters"])
    return [entry for entry in entries if entry]


def toc_languages(toc: dict[str, Any]) -> list[str]:
    """The languages whose notebooks the contents list, in their order."""
    return list(dict.fromkeys(language for language, _ in toc_notebooks(toc)))


def extend_toc(toc: dict[str, Any], codes: Sequence[str]) -> dict[str, Any]:
    """The contents with a part for each of `codes`, made after the first language's part."""
    from langmerge import languages

    toc = copy.deepcopy(toc)
    listed = toc_languages(toc)
    position, model = next(
        (i, part) for i, part in enumerate(toc["parts"]) if any(map(_split, part["chapters"]))
    )
    original = languages.load(listed[0]).name
    for code in (code for code in codes if code not in listed):
        part = copy.deepcopy(model)
        part["caption"] = part["caption"].replace(original, languages.load(code).name)
        for chapter in part["chapters"]:
            chapter["file"] = chapter["file"].replace(f"/{listed[0]}/", f"/{code}/")
        position += 1
        toc["parts"].insert(position, part)
    return toc


def _split(chapter: dict[str, str]) -> tuple[str, str] | None:
    match = re.fullmatch(rf"{EXECUTED}/([^/]+)/([^/]+?)(?:\.ipynb)?", chapter.get("file", ""))
    return match.groups() if match else None


def _study(
    codes: Sequence[str], profile: str, seeds: Sequence[int] | None, console: Console
) -> dict[str, Any]:
    """Compute what the store lacks; return each language's results."""
    from langmerge import study

    results = {}
    for code in codes:
        console.rule(f"Study: {code}, profile {profile}")
        results[code] = study.run(language=code, profile=profile, seeds=seeds and list(seeds))
    return results


def _jobs(results: dict[str, Any], seeds: Sequence[int] | None, toc: dict[str, Any]) -> list[Job]:
    """What there is to execute: the notebooks that the contents list, for each language."""
    surroundings = execution.surroundings()
    jobs = []
    for code, found in results.items():
        depends = execution.digest(surroundings, fingerprint(found))
        parameters: dict[str, Any] = {"language": code, "profile": found.profile}
        if seeds:
            parameters["seeds"] = list(seeds)
        jobs += [
            Job(paths.notebooks() / f"{stem}.ipynb", code, parameters, depends)
            for language, stem in toc_notebooks(toc)
            if language == code
        ]
    for job in jobs:
        if not job.source.is_file():
            raise LangmergeError(f"_toc.yml lists {job.source.stem}, but {job.source} is missing")
    return jobs


def fingerprint(results: Any) -> str:
    """A digest of the results: the cells, and the values that they hold."""
    rows = results.rows[["cell", "task", "metric", "value", "n"]]
    ordered = rows.sort_values(["cell", "task", "metric"]).to_csv(index=False)
    return execution.digest(ordered)


def _execute(jobs: Sequence[Job], console: Console) -> None:
    waiting = sum(not job.cached.is_file() for job in jobs)
    if not waiting:
        console.print(f"Notebooks: all {len(jobs)} unchanged")
        return
    done = 0
    with bar("Executing notebooks", waiting, console) as progress:

        def report(job: Job, seconds: float) -> None:
            nonlocal done
            done += 1
            progress(done, waiting)
            console.print(f"  {job.source.stem} ({job.language}): {seconds:.0f} s")

        execution.execute(jobs, report=report)


def _render(
    root: Path,
    toc: dict[str, Any],
    output: Path,
    strict: bool,
    executed: Sequence[Job],
    console: Console,
    student: bool = False,
) -> Path:
    """Render the pages unless the site at `output` was rendered from the very same ones."""
    index = output / "_build" / "html" / "index.html"
    stamp = output / "_build" / "rendered-from"
    key = _site_key(root, toc, strict, executed, student)
    if index.is_file() and stamp.is_file() and stamp.read_text() == key:
        console.print("Site: unchanged")
        return index
    started = time.monotonic()
    with console.status("Rendering the site"):
        site = render(root, toc, strict, student)
    stamp.unlink(missing_ok=True)
    shutil.rmtree(index.parent, ignore_errors=True)
    index.parent.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(site, index.parent)
    execution.write_atomically(stamp, key)
    console.print(f"Site: rendered in {time.monotonic() - started:.0f} s")
    return index


def render(root: Path, toc: dict[str, Any], strict: bool, student: bool = False) -> Path:
    """Render `root` with the given contents in a workplace; return the folder of the HTML.

    student: the zip of the study that the pages offer has no solutions.

    Every page is read anew: the renderer repeats no warning for a page that it kept from
    the last time, and a second try of a failed build would pass.
    """
    workplace = paths.home() / "site"
    shutil.rmtree(workplace, ignore_errors=True)
    toc_file = workplace / "_toc.yml"
    execution.write_atomically(toc_file, yaml.safe_dump(toc, sort_keys=False, allow_unicode=True))
    command = [sys.executable, "-c", _JUPYTER_BOOK, "build", str(root)]
    command += ["--toc", str(toc_file), "--path-output", str(workplace), "--keep-going"]
    command += ["--warningiserror"] if strict else []
    environment = {**os.environ, "NO_COLOR": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    log = paths.home() / "book.log"
    execution.write_atomically(log, done.stdout)
    site = workplace / "_build" / "html"
    if done.returncode or not (site / "index.html").is_file():
        raise LangmergeError(f"jupyter-book failed:\n{complaints(done.stdout)}\nAll of it: {log}")
    (site / ".nojekyll").touch()
    bundle.write(root, site / bundle.NAME, student)
    for page in site.rglob("*.html"):
        write_text(page, site_pages.tidy(page.read_text(encoding="utf-8")))
    if external := offline.external_references(site):
        raise LangmergeError("The site would load from elsewhere:\n" + "\n".join(external))
    return site


def complaints(log: str) -> str:
    """The warnings and errors in the renderer's log, or its last lines where it has none."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", log)
    lines = [line for line in plain.splitlines() if line.strip()]
    found = [line for line in lines if re.search(r"\b(WARNING|ERROR|CRITICAL)\b", line)]
    return "\n".join(found or lines[-20:])


def _site_key(
    root: Path, toc: dict[str, Any], strict: bool, executed: Sequence[Job], student: bool = False
) -> str:
    pages = [root / "_config.yml", *sorted(root.glob("*.md")), *sorted((root / "book").rglob("*"))]
    pages = [page for page in pages if page.is_file() and (root / EXECUTED) not in page.parents]
    # What is computed beside the notebooks: the tables that pages include.
    pages += sorted((root / EXECUTED).glob("*.md")) + sorted((root / EXECUTED).glob("*.png"))
    sources = [part for page in pages for part in (str(page), page.read_bytes())]
    versions = [f"{package} {version_of(package)}" for package in _RENDERERS]
    notebooks = [job.cached.name for job in executed]
    how = (str(strict), str(student))
    return execution.digest(yaml.safe_dump(toc), *how, *versions, *notebooks, *sources)
