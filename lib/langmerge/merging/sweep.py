"""Many merges of one triple in memory: what does not depend on the settings is done once.

A `Sweep` is the `TaskVectors` of three models, laid out in three flat arrays. It remembers the
sorted magnitudes of each tensor, which give every threshold by a look-up, so that a merge is one
compiled pass: a few milliseconds for a model of five million parameters. Methods that have no
compiled form merge as ever.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np

from langmerge.later import torch
from langmerge.merging import kernels, magnitudes
from langmerge.merging import methods as table
from langmerge.merging.fused import (
    WEIGHTED_MODELS,
    FusedTies,
    Slab,
    as_arrays,
    fused_for,
    scalars_of,
)
from langmerge.merging.magnitudes import EVERYTHING, NOTHING, Cut, Whole, cut_in
from langmerge.merging.sparsify import check_density
from langmerge.merging.task_vectors import StateDict, TaskVectors
from langmerge.merging.ties import Ties


class Sweep:
    """The task vectors of (base, CT, SFT), for merges with many settings.

    vectors: the models and their differences, views of the flat arrays. Not for several threads
    at once.
    """

    def __init__(self, theta_base: StateDict, theta_ct: StateDict, theta_sft: StateDict) -> None:
        """Raise LangmergeError as `TaskVectors.of`."""
        self._prepare(TaskVectors.of(theta_base, theta_ct, theta_sft))

    @classmethod
    def of(cls, vectors: TaskVectors) -> Sweep:
        """The sweep of task vectors that are there already."""
        sweep = cls.__new__(cls)
        sweep._prepare(vectors)
        return sweep

    def _prepare(self, vectors: TaskVectors) -> None:
        self._shapes = {name: tensor.shape for name, tensor in vectors.theta_base.items()}
        sizes = [shape.numel() for shape in self._shapes.values()]
        ends = list(itertools.accumulate(sizes))
        names_and_ends = zip(self._shapes, sizes, ends, strict=True)
        self._places = {name: slice(end - size, end) for name, size, end in names_and_ends}
        self._flat = {
            part: self._flatten(getattr(vectors, part))
            for part in ("theta_base", "theta_ct", "theta_sft", "tau_ct", "tau_sft")
        }
        # What is read only is compiled once, for checkpoints and for sweeps.
        self._read = {part: flat.view() for part, flat in self._flat.items()}
        for flat in self._read.values():
            flat.flags.writeable = False
        self.vectors = TaskVectors(**{part: self._views(flat) for part, flat in self._flat.items()})
        self._sorted: dict[tuple[str, str], np.ndarray] = {}
        self._known: dict[tuple[str, str, float, int], Cut] = {}
        self._all_known: dict[tuple[object, ...], dict[str, tuple[Cut, ...]]] = {}
        # A merge of small tensors would spend a good part of its time on making views of them.
        self._pieces = {
            name: (self._slab(place, "tau_ct", "tau_sft"), self._whole(name))
            for name, place in self._places.items()
        }
        self._thresholds: dict[tuple[str, float], float] = {}

    def merge(
        self, method: str, *, dtype: torch.dtype | None = None, **params: object
    ) -> StateDict:
        """The merge of `merge_vectors`, equal to it, by the compiled loops where there are any."""
        row = table.method_named(method)
        settings = table.settings_from(row.parameters(params))
        fused = fused_for(row, settings)
        if fused is None:
            return table.merge_vectors(method, self.vectors, dtype=dtype, **params)
        if isinstance(fused, FusedTies):
            fused = FusedTies(dataclasses.replace(fused.ties, **self._survey(fused.ties)))
        out = np.empty_like(self._flat["theta_base"])
        if isinstance(fused, FusedTies):
            for name, cuts in self._all_cuts(fused.ties).items():
                slab, whole = self._pieces[name]
                fused.merger(cuts, whole, True)(slab, out[self._places[name]])
        else:
            vectors = "theta" if row.tensor in WEIGHTED_MODELS else "tau"
            slab = self._slab(slice(None), f"{vectors}_ct", f"{vectors}_sft")
            fused.prepare(Whole(*slab[:3]), len(out))(slab, out)
        merged = self._views(out)
        if dtype in (None, torch.float32):
            return merged
        return {name: tensor.to(dtype) for name, tensor in merged.items()}

    def _flatten(self, state: StateDict) -> np.ndarray:
        flat = np.empty(sum(shape.numel() for shape in self._shapes.values()), np.float32)
        for name, place in self._places.items():
            flat[place] = state[name].detach().float().reshape(-1).numpy()
        return flat

    def _views(self, flat: np.ndarray) -> StateDict:
        parts = torch.from_numpy(flat).split([shape.numel() for shape in self._shapes.values()])
        named = zip(self._shapes.items(), parts, strict=True)
        return {name: part.view(shape) for (name, shape), part in named}

    def _slab(self, place: slice, ct: str, sft: str) -> Slab:
        flat = self._read
        return Slab(flat["theta_base"][place], flat[ct][place], flat[sft][place], None)

    def _whole(self, name: str) -> Whole:
        place = self._places[name]
        return Whole(None, self._read["tau_ct"][place], self._read["tau_sft"][place])

    def _all_cuts(self, ties: Ties) -> Mapping[str, tuple[Cut, ...]]:
        """The cuts of every tensor, made once for all merges that differ in other settings."""
        asked = (ties.row.trim, ties.row.at_least, ties.density, ties.thresholds)
        if asked not in self._all_known:
            self._all_known[asked] = {name: self._cuts(name, ties) for name in self._places}
        return self._all_known[asked]

    def _cuts(self, name: str, ties: Ties) -> tuple[Cut, ...]:
        if ties.row.trim != "per-tensor":
            return FusedTies(ties).cuts(self._whole(name), 0)
        models = zip(("tau_ct", "tau_sft"), ties.density, strict=True)
        return tuple(self._cut(name, tau, density, ties.row.at_least) for tau, density in models)

    def _cut(self, name: str, tau: str, density: float, at_least: int) -> Cut:
        """As `magnitudes.tensor_cuts`, by looking it up."""
        check_density(density)
        if (name, tau, density, at_least) not in self._known:
            self._known[name, tau, density, at_least] = self._look_up(name, tau, density, at_least)
        return self._known[name, tau, density, at_least]

    def _look_up(self, name: str, tau: str, density: float, at_least: int) -> Cut:
        place = self._places[name]
        n = place.stop - place.start
        if density == 1 or n == 0:
            return EVERYTHING
        k = max(at_least, int(density * n))
        if k == 0:
            return NOTHING
        if (name, tau) not in self._sorted:
            self._sorted[name, tau] = np.sort(self._flat[tau][place].view(np.int32) & 0x7FFFFFFF)
        return cut_in(self._sorted[name, tau], k)

    def _survey(self, ties: Ties) -> dict[str, object]:
        """What `ties.survey` finds; thresholds are remembered."""
        found: dict[str, object] = {}
        if ties.row.trim != "per-tensor":
            models = zip(("tau_ct", "tau_sft"), ties.density, strict=True)
            found["thresholds"] = tuple(self._threshold(tau, density) for tau, density in models)
        if ties.row.tie == "majority":
            ties = dataclasses.replace(ties, **found, majority=1)
            found["majority"] = int(np.sign(sum(self._leaning(n, ties) for n in self._places)))
        return found

    def _threshold(self, tau: str, density: float) -> float:
        check_density(density)
        if density == 1:
            return 0.0
        if (tau, density) not in self._thresholds:
            whole = Whole(None, self._read[tau], self._read[tau])
            counts = magnitudes.count(whole, (True, False))[0]
            search = magnitudes.model_cut(counts, len(self._flat[tau]), density)
            magnitudes.refine(whole, (search, None))
            key = np.uint32(search.cut().key)
            self._thresholds[tau, density] = float(key.view(np.float32))
        return self._thresholds[tau, density]

    def _leaning(self, name: str, ties: Ties) -> int:
        cuts, whole = self._all_cuts(ties)[name], self._pieces[name][1]
        scalars, bonus = scalars_of(ties), FusedTies(ties).bonus(cuts, whole)
        return kernels.majority(whole.ct, whole.sft, None, *as_arrays(cuts), scalars, bonus)
