"""What families train: other orders of CT and SFT, and the findings with another CT.

The baselines are the stronger rivals of merging in finding 1: CT-then-SFT at a lower rate and
with replay of CT text, SFT first and CT afterwards, and both in one run. An arm is the findings'
own comparison with one thing of CT changed: bilingual documents, or the rate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from langmerge import base as base_module
from langmerge import jobs
from langmerge.cells import Cell
from langmerge.errors import LangmergeError, readable
from langmerge.experts import Expert, continual_pretrain, finetune, finetune_on_both, read_again
from langmerge.grid import (
    best,
    chosen,
    finetuning,
    is_done,
    merge_cell,
    pairs,
    run_of,
    train_ct,
    train_on_ct,
)
from langmerge.profiles import (
    BASELINES,
    FROZEN,
    REPEATED,
    ContinualPretraining,
    Finetuning,
    MixedFinetuning,
    Profile,
    RepeatedText,
    Settings,
)
from langmerge.store import Store

#: What each arm changes of CT: a value, or for the rate a factor of the profile's.
ARMS: dict[str, dict[str, float]] = {
    "bilingual": {"bilingual 10 %": 0.1, "bilingual 30 %": 0.3},
    "rates": {"rate x 0.4": 0.4, "rate x 2": 2.0},
    "faster": {"rate x 2": 2.0},
}
#: The merges of an arm.
MERGED = ("average", "task_arithmetic", "ties_mean", "ties_sv")
Training = tuple  # a function and its arguments; it takes only_find
Kind = TypeVar("Kind", bound=BaseModel)


def cells(
    family: str,
    plan: Profile,
    core: list[Cell],
    processes: int | None = None,
    quiet: bool = False,
) -> list[Cell]:
    """The models of a family whose experts have to be trained."""
    if family == "baselines":
        return baselines(plan, core, processes, quiet)
    if family == "repeated":
        return repeated(plan, core, processes, quiet)
    if family == "frozen":
        return frozen(plan, core, processes, quiet)
    return [
        cell
        for name, value in ARMS[family].items()
        for cell in arm(with_ct(plan, family, value), name, core, processes, quiet)
    ]


def trained(name: str, trainings: list[Training], processes: int | None, quiet: bool) -> list:
    """What the trainings make, in their order; what the store lacks is made at once."""
    # Once each: a run of CT is wanted by all of its budgets. Settings have no hash.
    different = {repr(job): job for job in trainings}.values()
    jobs.run(name, [job for job in different if not is_done(*job)], processes, quiet)
    return [function(*arguments) for function, *arguments in trainings]


# --- baselines ------------------------------------------------------------------------------


def baselines(
    plan: Profile,
    core: list[Cell],
    processes: int | None = None,
    quiet: bool = False,
    methods: tuple[str, ...] = BASELINES,
) -> list[Cell]:
    """The stronger baselines, each in its settings."""
    root = Store().root
    wanted: list[tuple[Cell, str, str, Settings, Training]] = [
        (ct, method, setting, values, _training(plan, root, ct, sft, method, setting, values))
        for ct, sft in pairs(core)
        for method in methods
        if plan.runs(method)
        for setting, values in chosen(plan, method).items()
    ]
    experts = trained("other orders of CT and SFT", [it[-1] for it in wanted], processes, quiet)
    return [
        Cell(*run_of(ct), ct.ct_tokens, method, setting, _at(expert, ct.ct_tokens), params=values)
        for (ct, method, setting, values, _), expert in zip(wanted, experts, strict=True)
    ]


def _at(made: Expert | dict[int, Expert], tokens: int) -> Expert:
    """A run of CT gives an expert for each budget."""
    return made[tokens] if isinstance(made, dict) else made


def _training(
    plan: Profile, root: Path, ct: Cell, sft: Cell, method: str, setting: str, values: Settings
) -> Training:
    """How a baseline of a pair of experts is trained."""
    where = f"profile {plan.name}: {setting}.{method}"
    text = plan.continual_pretraining
    run = (root, ct.base, ct.language, ct.seed)
    if method == "ct_then_sft_slow":
        how = (method, setting, "eng_Latn", finetuning(plan, setting, values, method))
        return (train_on_ct, root, ct.base, ct.seed, ct.expert, how)
    if method == "sft_then_ct":
        text = _checked(ContinualPretraining, text.model_dump() | values, where)
        return (_ct_on_sft, *run, text, plan.budgets, sft.expert)
    known = plan.finetuning.model_dump() | values
    start = ct.expert
    if method == "joint":
        known["replay"] = ct.ct_tokens // text.tokens_per_step / known["steps"]
        start = None
    settings = _checked(MixedFinetuning, known, where)
    return (_on_both, *run, settings, text, ct.ct_tokens, start)


def _checked(kind: type[Kind], values: Settings, where: str) -> Kind:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise LangmergeError(f"{where}: {readable(error)}") from None


def _ct_on_sft(
    root: Path,
    base: Path,
    language: str,
    seed: int,
    text: ContinualPretraining,
    budgets: list[int],
    start: Expert,
    only_find: bool = False,
) -> dict[int, Expert] | None:
    """CT that starts from the SFT expert."""
    on = (Store(root), base_module.load(base), language, seed, text, budgets)
    return continual_pretrain(*on, start, only_find=only_find)


def _on_both(
    root: Path,
    base: Path,
    language: str,
    seed: int,
    settings: MixedFinetuning,
    text: ContinualPretraining,
    tokens: int,
    start: Expert | None,
    only_find: bool = False,
) -> Expert | None:
    """SFT with steps on CT text between, from a CT expert or from the base."""
    on = (Store(root), base_module.load(base), language, seed, settings, text, tokens)
    return finetune_on_both(*on, start, only_find=only_find)


# --- repeated text --------------------------------------------------------------------------


def repeated(
    plan: Profile,
    core: list[Cell],
    processes: int | None = None,
    quiet: bool = False,
    methods: tuple[str, ...] = tuple(REPEATED),
) -> list[Cell]:
    """Methods of the findings, made of CT experts that go on over the text they have read.

    Each has its own number of further steps, and all else as the method has it without. The
    experts themselves are ``ct_repeated``, the number of steps their setting.
    """
    wanted = {
        (method, setting): _checked(
            RepeatedText, values, f"profile {plan.name}: {setting}.{method}"
        ).repeat_steps
        for method in methods
        if plan.runs(method)
        for setting, values in chosen(plan, method).items()
    }
    found: list[Cell] = []
    tuned: list[tuple[Cell, str, Training]] = []
    for again, sft in _reread(plan, core, set(wanted.values()), processes, quiet):
        found += again.values()
        for (method, setting), number in wanted.items():
            its, (_, values) = again[number], best(plan, REPEATED[method])
            if REPEATED[method] != "ct_then_sft":
                found.append(merge_cell(its, sft, method, setting, REPEATED[method], params=values))
                continue
            how = (method, setting, "eng_Latn", finetuning(plan, setting, values))
            training = (train_on_ct, Store().root, its.base, its.seed, its.expert, how)
            tuned.append((its, setting, training))
    fine = trained("CT-then-SFT on repeated text", [job for *_, job in tuned], processes, quiet)
    for (its, setting, (*_, how)), expert in zip(tuned, fine, strict=True):
        params = how[-1].model_dump() | its.params
        found.append(Cell(*run_of(its), its.ct_tokens, how[0], setting, expert, params=params))
    return found


def _reread(
    plan: Profile, core: list[Cell], numbers: set[int], processes: int | None, quiet: bool
) -> list[tuple[dict[int, Cell], Cell]]:
    """Every CT expert after each number of further steps, with the SFT expert of its run."""
    root, text, steps = Store().root, plan.continual_pretraining, tuple(sorted(numbers))
    of = pairs(core)
    reading = [(_again, root, *run_of(ct), text, ct.ct_tokens, ct.expert, steps) for ct, _ in of]
    experts = trained("CT on repeated text", reading, processes, quiet)
    return [
        (
            {
                number: dataclasses.replace(
                    ct,
                    method="ct_repeated",
                    setting=f"{number} steps",
                    expert=expert,
                    params={"repeat_steps": number},
                )
                for number, expert in by_steps.items()
            },
            sft,
        )
        for (ct, sft), by_steps in zip(of, experts, strict=True)
    ]


def _again(
    root: Path,
    base: Path,
    language: str,
    seed: int,
    text: ContinualPretraining,
    tokens: int,
    start: Expert,
    steps: tuple[int, ...],
    only_find: bool = False,
) -> dict[int, Expert] | None:
    """CT that goes on over the text that it has read."""
    on = (Store(root), base_module.load(base), language, seed, text, tokens)
    return read_again(*on, start, steps, only_find=only_find)


# --- frozen embeddings ----------------------------------------------------------------------


def frozen(
    plan: Profile,
    core: list[Cell],
    processes: int | None = None,
    quiet: bool = False,
    methods: tuple[str, ...] = tuple(FROZEN),
) -> list[Cell]:
    """Methods of the findings, with SFT that leaves the embeddings as they are.

    Each in settings of its own. The SFT expert is ``sft_frozen``, trained as the study's is.
    """
    root, freeze = Store().root, {"freeze_embeddings": True}
    how = plan.finetuning.model_copy(update=freeze)
    runs = [cell for cell in core if cell.method == "sft"]
    first = [(_sft, root, cell.base, cell.seed, how) for cell in runs]
    experts = trained("SFT with frozen embeddings", first, processes, quiet)
    sft = {
        run_of(cell): dataclasses.replace(cell, method="sft_frozen", expert=expert)
        for cell, expert in zip(runs, experts, strict=True)
    }
    found, tuned = [*sft.values()], []
    wanted = [
        (method, FROZEN[method], setting, values)
        for method in methods
        if plan.runs(method)
        for setting, values in chosen(plan, method).items()
    ]
    for ct, _ in pairs(core):
        for method, like, setting, values in wanted:
            if like != "ct_then_sft":
                found.append(merge_cell(ct, sft[run_of(ct)], method, setting, like, params=values))
                continue
            how_then = finetuning(plan, setting, values | freeze, method)
            step = (method, setting, "eng_Latn", how_then)
            tuned.append((ct, (train_on_ct, root, ct.base, ct.seed, ct.expert, step)))
    name = "CT-then-SFT with frozen embeddings"
    fine = trained(name, [job for _, job in tuned], processes, quiet)
    for (ct, (*_, step)), expert in zip(tuned, fine, strict=True):
        method, setting, _, settings = step
        params = settings.model_dump()
        found.append(Cell(*run_of(ct), ct.ct_tokens, method, setting, expert, params=params))
    return found


def _sft(
    root: Path, base: Path, seed: int, settings: Finetuning, only_find: bool = False
) -> Expert | None:
    """An SFT expert of the base by other settings than the study's."""
    on = (Store(root), base_module.load(base), "eng_Latn", seed, settings)
    return finetune(*on, only_find=only_find)


# --- arms: the findings with another CT -----------------------------------------------------


def with_ct(plan: Profile, family: str, value: float) -> Profile:
    """The profile with the CT of an arm."""
    now = plan.continual_pretraining
    change = {"bilingual": value}
    if family in ("rates", "faster"):
        change = {"learning_rate": now.learning_rate * value}
    return plan.model_copy(update={"continual_pretraining": now.model_copy(update=change)})


def arm(
    plan: Profile,
    name: str,
    core: list[Cell],
    processes: int | None = None,
    quiet: bool = False,
) -> list[Cell]:
    """The findings' comparison with the CT of this profile, every method as ``<name>/<method>``."""
    root = Store().root
    runs = [cell for cell in core if cell.method == "sft"]
    first = [(train_ct, plan, root, *run_of(sft)) for sft in runs]
    by_run = zip(runs, trained(f"CT: {name}", first, processes, quiet), strict=True)
    found = [
        (Cell(*run_of(sft), tokens, "ct", "fixed", expert=expert), sft)
        for sft, experts in by_run
        for tokens, expert in experts.items()
    ]
    made = [ct for ct, _ in found]
    made += _finetuned(plan, name, made, processes, quiet) if plan.runs("ct_then_sft") else []
    made += [merged for ct, sft in found for merged in _merged(plan, ct, sft)]
    return [_renamed(cell, name) for cell in made]


def _finetuned(
    plan: Profile, name: str, cts: list[Cell], processes: int | None, quiet: bool
) -> list[Cell]:
    """CT-then-SFT of every CT expert of an arm."""
    setting, values = best(plan, "ct_then_sft")
    how = ("ct_then_sft", setting, "eng_Latn", finetuning(plan, setting, values))
    tuned = [(train_on_ct, Store().root, ct.base, ct.seed, ct.expert, how) for ct in cts]
    experts = trained(f"CT-then-SFT: {name}", tuned, processes, quiet)
    return [
        Cell(*run_of(ct), ct.ct_tokens, "ct_then_sft", setting, expert, params=values)
        for ct, expert in zip(cts, experts, strict=True)
    ]


def _merged(plan: Profile, ct: Cell, sft: Cell) -> Iterator[Cell]:
    for method in filter(plan.runs, MERGED):
        setting, values = best(plan, method)
        yield merge_cell(ct, sft, method, setting, method, params=values)
    if not plan.runs("ties_sv"):
        return
    without = best(plan, "ties_sv")[1] | {"slack": 0.0}
    yield merge_cell(ct, sft, "ties_sv", "without slack", "ties_sv", params=without)


def _renamed(cell: Cell, name: str) -> Cell:
    return dataclasses.replace(cell, method=f"{name}/{cell.method}")
