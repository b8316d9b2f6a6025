"""The grid: which models a study compares, from its profile.

Experts are trained first, then experts on experts; merges and controls are cells that are
merged in memory when they are evaluated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import ValidationError

from langmerge import base as base_module
from langmerge import jobs
from langmerge.cells import Cell, Election, source_of
from langmerge.errors import LangmergeError, readable
from langmerge.experts import Expert, continual_pretrain, finetune
from langmerge.profiles import Finetuning, Profile, Settings
from langmerge.store import Store

#: The study's names for merging methods: the function that computes each and what it fixes.
MERGES: dict[str, tuple[str, dict[str, object]]] = {
    "average": ("average", {}),
    "task_arithmetic": ("task_arithmetic", {}),
    "ties_mean": ("ties", {"combine": "mean"}),
    "ties_sum": ("ties", {"combine": "sum"}),
    "ties_sv": ("ties_sv", {"combine": "mean"}),
}
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
    sft = {(cell.language, cell.seed): cell for cell in found if cell.method == "sft"}
    merges: list[Cell] = []
    for cell in found:
        if cell.method == "sft":
            merges.append(_half_sft(cell))
        if cell.method == "ct":
            pair = (cell, sft[cell.language, cell.seed])
            merges += _merges(plan, *pair)
            merges += _slack_cells(plan, *pair)
            merges += _controls(plan, *pair)
            merges += _custom(plan, *pair, elections or {}, sources)
    return found + merges


# --- experts -----------------------------------------------------------------------------


def experts(plan: Profile, processes: int | None = None, quiet: bool = False) -> list[Cell]:
    """The experts' cells, trained where missing: base, SFT, CT, CT-then-SFT, SFT in the target."""
    pairs = [(language, seed) for language in plan.languages for seed in plan.seeds]
    root = Store().root
    # The long jobs first, or one core waits at the end.
    first = [(train_ct, plan, root, *pair) for pair in pairs]
    first += [(train_sft, plan, root, seed) for seed in plan.seeds]
    jobs.run("CT and SFT experts", [job for job in first if not _done(*job)], processes, quiet)
    sft = {seed: train_sft(plan, root, seed) for seed in plan.seeds}
    ct = {pair: train_ct(plan, root, *pair) for pair in pairs}
    second = [
        (train_on_ct, plan, root, seed, expert, how)
        for (language, seed), by_budget in ct.items()
        for tokens, expert in by_budget.items()
        for how in continued(plan, language, tokens)
    ]
    jobs.run("CT-then-SFT", [job for job in second if not _done(*job)], processes, quiet)
    found: list[Cell] = []
    for language, seed in pairs:
        found.append(Cell(language, seed, 0, "base", "fixed"))
        found.append(Cell(language, seed, 0, "sft", "fixed", expert=sft[seed]))
        for tokens, expert in ct[language, seed].items():
            found.append(Cell(language, seed, tokens, "ct", "fixed", expert=expert))
            for how in continued(plan, language, tokens):
                method, setting, _, settings = how
                trained = train_on_ct(plan, root, seed, expert, how)
                params = settings.model_dump()
                found.append(Cell(language, seed, tokens, method, setting, trained, params=params))
    return found


def continued(plan: Profile, language: str, tokens: int) -> list[Continued]:
    """What is fine-tuned from the CT expert of a budget; the ceiling from the largest alone."""
    found: list[Continued] = [
        ("ct_then_sft", setting, "eng_Latn", _finetuning(plan, setting, values))
        for setting, values in plan.settings("ct_then_sft").items()
    ]
    if tokens == max(plan.budgets):
        found.append(("target_sft", "fixed", language, plan.finetuning))
    return found


def _finetuning(plan: Profile, setting: str, values: Settings) -> Finetuning:
    """The profile's fine-tuning with some of its values replaced."""
    try:
        return Finetuning.model_validate(plan.finetuning.model_dump() | values)
    except ValidationError as error:
        where = f"profile {plan.name}: {setting}.ct_then_sft"
        raise LangmergeError(f"{where}: {readable(error)}") from None


def train_sft(plan: Profile, root: Path, seed: int, only_find: bool = False) -> Expert | None:
    """The English SFT expert of a seed."""
    base = base_module.load()
    return finetune(Store(root), base, "eng_Latn", seed, plan.finetuning, None, only_find=only_find)


def train_ct(
    plan: Profile, root: Path, language: str, seed: int, only_find: bool = False
) -> dict[int, Expert] | None:
    """The CT experts of a language and seed, by budget."""
    return continual_pretrain(
        Store(root),
        base_module.load(),
        language,
        seed,
        plan.continual_pretraining,
        plan.budgets,
        only_find=only_find,
    )


def train_on_ct(
    plan: Profile, root: Path, seed: int, expert: Expert, how: Continued, only_find: bool = False
) -> Expert | None:
    """A CT expert, fine-tuned."""
    _, _, language, settings = how
    base = base_module.load()
    return finetune(Store(root), base, language, seed, settings, expert, only_find=only_find)


def _done(function, *arguments: object) -> bool:
    return function(*arguments, only_find=True) is not None


# --- merges and controls -----------------------------------------------------------------


def _merge(ct: Cell, sft: Cell, method: str, setting: str, merge: str, **more: object) -> Cell:
    return Cell(
        ct.language,
        ct.seed,
        ct.ct_tokens,
        method,
        setting,
        merge=merge,
        ct=ct.expert,
        sft=sft.expert,
        **more,
    )


def best(plan: Profile, method: str) -> tuple[str, dict[str, object]]:
    """A merge's setting to build on (its name and parameters): the tuned one where there is one."""
    settings = plan.settings(method)
    if not settings:
        raise LangmergeError(
            f"profile {plan.name} has no settings of {method}: give them under `default:`"
        )
    name = "tuned" if "tuned" in settings else "default"
    return name, MERGES[method][1] | settings[name]


def _merges(plan: Profile, ct: Cell, sft: Cell) -> Iterator[Cell]:
    for method, (merge, fixed) in MERGES.items():
        for setting, values in plan.settings(method).items():
            yield _merge(ct, sft, method, setting, merge, params=fixed | values)


def _slack_cells(plan: Profile, ct: Cell, sft: Cell) -> Iterator[Cell]:
    """Slack over the profile's grid at the settings of mean-TIES, and TIES-SV without its slack."""
    _, params = best(plan, "ties_mean")
    for slack in plan.slacks:
        swept = params | {"slack": slack}
        yield _merge(ct, sft, "ties_sv", "sweep", "ties_sv", params=swept)
    _, params = best(plan, "ties_sv")
    yield _merge(ct, sft, "ties_sv", "without slack", "ties_sv", params=params | {"slack": 0.0})


def _controls(plan: Profile, ct: Cell, sft: Cell) -> Iterator[Cell]:
    yield _merge(ct, sft, "chat_vector", "fixed", "chat_vector")
    setting, params = best(plan, "ties_mean")
    for control in TIES_CONTROLS:
        drawn = {"seed": ct.seed} if control == "shuffled_ct" else {}
        yield _merge(ct, sft, control, setting, control, params=params | drawn)


def _half_sft(sft: Cell) -> Cell:
    """Half of the SFT vector and nothing of CT."""
    return Cell(sft.language, sft.seed, 0, "half_sft", "fixed", merge="half_sft", sft=sft.expert)


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
        yield _merge(
            ct,
            sft,
            f"custom:{name}",
            setting,
            "ties",
            params=params,
            election=election,
            election_source=sources[name],
        )
