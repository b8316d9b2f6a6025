"""Merging a CT and an SFT model of one base in weight space, without training.

The rooms in the order in which data flows: ``task_vectors`` (the algebra), ``tensors`` (what a
method sees), ``sparsify`` (trim), ``election`` (signs, variants, slack), ``combine`` (mean or sum
of what agrees), ``ties`` (the three steps), ``averages`` and ``widen`` (merges without an
election), ``methods`` (the table), ``diagnostics`` (what a merge throws away); and for
checkpoints on disk ``parameters``, ``hub`` and ``recipe`` (what is to be done), ``job`` (the same,
ready to run), ``kernels``, ``magnitudes``, ``fused`` and ``sweep`` (compiled loops), ``shards``,
``output``, ``stream`` and ``stream_diagnostics`` (tensor by tensor).
"""

from langmerge.merging.diagnostics import diagnose, diagnose_vectors, summarize
from langmerge.merging.election import VARIANTS
from langmerge.merging.methods import (
    METHODS,
    Method,
    describe,
    merge,
    merge_models,
    merge_vectors,
    method_named,
)
from langmerge.merging.task_vectors import StateDict, TaskVectors
from langmerge.merging.tensors import Settings, Tensors

__all__ = [
    "METHODS",
    "VARIANTS",
    "Method",
    "Settings",
    "StateDict",
    "TaskVectors",
    "Tensors",
    "describe",
    "diagnose",
    "diagnose_vectors",
    "merge",
    "merge_models",
    "merge_vectors",
    "method_named",
    "summarize",
]
