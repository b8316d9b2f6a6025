"""Interventions: merges that change one thing of another, to see what it is that acts.

Not methods to merge with, but answers to a question. Of TIES, with its settings: is it the entries
that the election discards, their number, or the size of the CT update? Of task arithmetic: is it
the embeddings of an update, or its layers? Each is a pure function of one tensor of a CT and an SFT
model, as all methods are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from langmerge.later import torch
from langmerge.merging import averages
from langmerge.merging import ties as ties_steps
from langmerge.merging.combine import weigh
from langmerge.merging.task_vectors import check_numbers
from langmerge.merging.tensors import Passes, Settings, Tensors, generator, layer_of
from langmerge.merging.ties import Elected, Ties


def restored_sft(tensors: Tensors, settings: Settings) -> torch.Tensor:
    """TIES, and the SFT entries that its election out-voted added where they were lost.

    An entry comes back as it would stand alone; what CT contributes there stays.
    """
    ties = Ties.of(settings)
    elected = ties_steps.elect(tensors, ties)
    back = lone(elected, 1, ties) * out_voted(elected)
    return tensors.base + ties_steps.merge_elected(elected, ties) + back


def random_drop(tensors: Tensors, settings: Settings) -> torch.Tensor:
    """As `restored_sft`, and as many SFT entries lost at random as the election out-votes.

    They are drawn among those that survive trim, tensor by tensor; where one is lost, CT stands
    alone. With the out-voted entries in place of the drawn ones this is TIES.
    """
    ties = Ties.of(settings)
    elected = ties_steps.elect(tensors, ties)
    lost = out_voted(elected)
    whole = ties_steps.merge_elected(elected, ties) + lone(elected, 1, ties) * lost
    drawn = as_many(elected.votes[1] != 0, int(lost.sum()), settings["seed"], tensors.name)
    return tensors.base + torch.where(drawn, lone(elected, 0, ties), whole)


def rescaled_ct(tensors: Tensors, settings: Settings) -> torch.Tensor:
    """TIES with tau_ct times `scale_ct`, before trim and election and ever after."""
    check_numbers(scale_ct=settings["scale_ct"])
    return ties_steps.merge(scaled(tensors, settings["scale_ct"]), settings)


def survey_rescaled(passes: Passes) -> Mapping[str, object]:
    """TIES' survey of the scaled vectors."""

    def scaled_passes() -> Iterable[tuple[Tensors, Settings]]:
        for tensors, settings in passes():
            yield scaled(tensors, settings["scale_ct"]), settings

    return ties_steps.survey(scaled_passes)


def arithmetic_by_part(tensors: Tensors, settings: Settings) -> torch.Tensor:
    """Task arithmetic with the embeddings of each update weighted apart from its layers.

    Settings: ``ct_embeddings``, ``ct_layers``, ``sft_embeddings`` and ``sft_layers``, what each of
    them is multiplied by; at 1 each this is task arithmetic. The embeddings are all that is outside
    the layers: final norm and output matrix belong to them.
    """
    part = "embeddings" if layer_of(tensors.name) is None else "layers"
    weights = {f"{model}_{part}": settings[f"{model}_{part}"] for model in ("ct", "sft")}
    check_numbers(**weights)
    return averages.task_arithmetic(tensors, {"weight": (*weights.values(),), "lambda_": 1.0})


def scaled(tensors: Tensors, factor: float) -> Tensors:
    """The same tensors with tau_ct times a factor."""
    tau_ct, tau_sft = tensors.task_vectors()
    return tensors._replace(deltas=(weigh(tau_ct, factor), tau_sft))


def out_voted(elected: Elected) -> torch.Tensor:
    """Where an SFT entry survives trim and the elected sign is not its own: a mask."""
    return elected.votes[1] * elected.sign < 0


def lone(elected: Elected, model: int, ties: Ties) -> torch.Tensor:
    """What one model alone (0 is CT, 1 is SFT) would put into the merge, times lambda."""
    vote = elected.votes[model]
    silent = torch.zeros_like(vote)
    votes = (vote, silent) if model == 0 else (silent, vote)
    return ties_steps.merge_elected(Elected(elected.name, votes, vote.sign()), ties)


def as_many(among: torch.Tensor, count: int, seed: int, name: str) -> torch.Tensor:
    """A mask of `count` places drawn at random from those that `among` is true for."""
    places = torch.nonzero(among.flatten()).flatten()
    order = torch.randperm(len(places), generator=generator(seed, "drop", name))
    mask = torch.zeros(among.numel(), dtype=torch.bool)
    mask[places[order[:count]]] = True
    return mask.view(among.shape)
