"""The grid: which models a study compares, from its profile.

Experts are trained first, then experts on experts; merges and controls are cells that are
merged in memory when they are evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pydantic import ValidationError

from langmerge import base as base_module
from langmerge import jobs
from langmerge.cells import Cell, Election, source_of
from langmerge.errors import LangmergeError, readable
from langmerge.experts import Expert, continual_pretrain, finetune
from langmerge.profiles import MERGES, Finetuning, Profile, Settings
from langmerge.store import Store

#: Controls that take the settings of mean-TIES.
TIES_CONTROLS = ("shuffled_ct", "norm_matched_ct")
#: A fine-tuning on top of a CT expert: method, setting, language of the instructions, how.
Continued = tuple[str, str, str, Finetuning]


def cells(
    plan: Profile,
    elections: dict[str, Election] | None = None,
    processes: int | None = None,
    quiet: bool = False,
) -> list[Cell]:
    """All models of a study, the experts among them trained where the store lacks them."""
    sources = {name: source_of(election) for name, election in (elections or {}).items()}
    for method in ("ties_mean", "ties_sv"):
        best(plan, method)  # complains before anything is trained
    found = experts(plan, processes, quiet)
    merges = [_half_sft(cell) for cell in found if cell.method == "sft"]
    for pair in pairs(found):
        merges += _merges(plan, *pair)
        merges += _slack_cells(plan, *pair)
        merges += _controls(plan, *pair)
        merges += _custom(plan, *pair, elections or {}, sources)
    # Half of the SFT update has no CT in it, and so no budget.
    return found + [
        it for it in merges if it.election or plan.runs(it.method, it.ct_tokens or None, it.setting)
    ]


def pairs(cells: list[Cell]) -> list[tuple[Cell, Cell]]:
    """Every CT expert with the SFT expert of its run: what a merge is made of."""
    sft = {run_of(cell): cell for cell in cells if cell.method == "sft"}
    return [(cell, sft[run_of(cell)]) for cell in cells if cell.method == "ct"]


def run_of(cell: Cell) -> tuple[Path, str, int]:
    """What all cells of one run share."""
    return cell.base, cell.language, cell.seed


# --- experts -----------------------------------------------------------------------------


def experts(plan: Profile, processes: int | None = None, quiet: bool = False) -> list[Cell]:
    """The experts' cells, trained where missing: base, SFT, CT, CT-then-SFT, SFT in the target."""
    root = Store().root
    first = starts(plan, processes, quiet)
    second = [
        (train_on_ct, root, cell.base, cell.seed, cell.expert, how)
        for cell in first
        if cell.method == "ct"
        for how in continued(plan, cell)
    ]
    jobs.run("CT-then-SFT", [job for job in second if not is_done(*job)], processes, quiet)
    found: list[Cell] = []
    for cell in first:
        found.append(cell)
        for how in continued(plan, cell) if cell.method == "ct" else ():
            method, setting, _, settings = how
            trained = train_on_ct(root, cell.base, cell.seed, cell.expert, how)
            where, params = (*run_of(cell), cell.ct_tokens), settings.model_dump()
            found.append(Cell(*where, method, setting, trained, params=params))
    return found


def starts(plan: Profile, processes: int | None = None, quiet: bool = False) -> list[Cell]:
    """What everything else is made of, trained where missing: base, SFT and CT experts."""
    triples = [
        (base_module.meeting(name, language).folder, language, seed)
        for name in plan.bases
        for language in plan.languages
        for seed in plan.seeds
    ]
    both = list(dict.fromkeys((base, seed) for base, _, seed in triples))
    root = Store().root
    # The long jobs first, or one core waits at the end.
    first = [(train_ct, plan, root, *triple) for triple in triples]
    first += [(train_sft, plan, root, *pair) for pair in both]
    jobs.run("CT and SFT experts", [job for job in first if not is_done(*job)], processes, quiet)
    sft = {pair: train_sft(plan, root, *pair) for pair in both}
    found: list[Cell] = []
    for triple in triples:
        base, _, seed = triple
        found.append(Cell(*triple, 0, "base", "fixed"))
        found.append(Cell(*triple, 0, "sft", "fixed", expert=sft[base, seed]))
        for tokens, expert in train_ct(plan, root, *triple).items():
            found.append(Cell(*triple, tokens, "ct", "fixed", expert=expert))
    return found


def continued(plan: Profile, ct: Cell) -> list[Continued]:
    """What is fine-tuned from a CT expert: CT-then-SFT, and the ceiling in the target language."""
    every = [
        *(
            ("ct_then_sft", setting, "eng_Latn", finetuning(plan, setting, values))
            for setting, values in plan.settings("ct_then_sft").items()
        ),
        ("target_sft", "fixed", ct.language, plan.finetuning),
    ]
    return [how for how in every if plan.runs(how[0], ct.ct_tokens, how[1])]


def finetuning(
    plan: Profile, setting: str, values: Settings, method: str = "ct_then_sft"
) -> Finetuning:
    """The profile's fine-tuning with some of its values replaced."""
    try:
        return Finetuning.model_validate(plan.finetuning.model_dump() | values)
    except ValidationError as error:
        where = f"profile {plan.name}: {setting}.{method}"
        raise LangmergeError(f"{where}: {readable(error)}") from None


def train_sft(
    plan: Profile, root: Path, base: Path, seed: int, only_find: bool = False
) -> Expert | None:
    """The English SFT expert of a base and a seed."""
    return finetune(
        Store(root),
        base_module.load(base),
        "eng_Latn",
        seed,
        plan.finetuning,
        only_find=only_find,
    )


def train_ct(
    plan: Profile, root: Path, base: Path, language: str, seed: int, only_find: bool = False
) -> dict[int, Expert] | None:
    """The CT experts of a language and seed, by budget."""
    return continual_pretrain(
        Store(root),
        base_module.load(base),
        language,
        seed,
        plan.continual_pretraining,
        plan.budgets,
        only_find=only_find,
    )


def train_on_ct(
    root: Path, base: Path, seed: int, expert: Expert, how: Continued, only_find: bool = False
) -> Expert | None:
    """A CT expert, fine-tuned."""
    _, _, language, settings = how
    start = base_module.load(base)
    return finetune(Store(root), start, language, seed, settings, expert, only_find=only_find)


def is_done(function: Callable[..., object], *arguments: object) -> bool:
    """Whether the store has what a training job would make."""
    return function(*arguments, only_find=True) is not None


# --- merges and controls -----------------------------------------------------------------


def merge_cell(ct: Cell, sft: Cell, method: str, setting: str, merge: str, **more: object) -> Cell:
    """The merge of a CT and an SFT expert by a row of the methods' table."""
    return Cell(
        *run_of(ct),
        ct.ct_tokens,
        method,
        setting,
        merge=merge,
        ct=ct.expert,
        sft=sft.expert,
        **more,
    )


def best(plan: Profile, method: str) -> tuple[str, Settings]:
    """A merge's setting to build on (its name and parameters): the tuned one where there is one."""
    settings = plan.settings(method)
    if not settings:
        raise LangmergeError(
            f"profile {plan.name} has no settings of {method}: give them under `default:`"
        )
    name = "tuned" if "tuned" in settings else "default"
    return name, settings[name]


def chosen(plan: Profile, method: str) -> dict[str, Settings]:
    """The settings in which a family has a method: the best, and the untuned ones if asked for."""
    name, values = best(plan, method)
    both = plan.settings(method) if "untuned" in plan.families else {}
    return {name: values} | both


def _merges(plan: Profile, ct: Cell, sft: Cell) -> Iterator[Cell]:
    for method in MERGES:
        for setting, values in plan.settings(method).items():
            yield merge_cell(ct, sft, method, setting, method, params=values)


def _slack_cells(plan: Profile, ct: Cell, sft: Cell) -> Iterator[Cell]:
    """Slack over the profile's grid at the settings of mean-TIES, and TIES-SV without its slack."""
    _, params = best(plan, "ties_mean")
    for slack in plan.slacks:
        swept = params | {"slack": slack}
        yield merge_cell(ct, sft, "ties_sv", "sweep", "ties_sv", params=swept)
    _, params = best(plan, "ties_sv")
    yield merge_cell(ct, sft, "ties_sv", "without slack", "ties_sv", params=params | {"slack": 0.0})


def _controls(plan: Profile, ct: Cell, sft: Cell) -> Iterator[Cell]:
    yield merge_cell(ct, sft, "chat_vector", "fixed", "chat_vector")
    setting, params = best(plan, "ties_mean")
    for control in TIES_CONTROLS:
        drawn = {"seed": ct.seed} if control == "shuffled_ct" else {}
        yield merge_cell(ct, sft, control, setting, control, params=params | drawn)


def _half_sft(sft: Cell) -> Cell:
    """Half of the SFT vector and nothing of CT."""
    return Cell(*run_of(sft), 0, "half_sft", "fixed", merge="half_sft", sft=sft.expert)


def _custom(
    plan: Profile,
    ct: Cell,
    sft: Cell,
    elections: dict[str, Election],
    sources: dict[str, str],
) -> Iterable[Cell]:
    """A reader's own elections at the settings of mean-TIES."""
    setting, params = best(plan, "ties_mean")
    for name, election in elections.items():
        yield merge_cell(
            ct,
            sft,
            f"custom:{name}",
            setting,
            "ties",
            params=params,
            election=election,
            election_source=sources[name],
        )
