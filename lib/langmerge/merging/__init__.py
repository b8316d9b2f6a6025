"""Merging a CT and an SFT model of one base in weight space, without training.

The rooms in the order in which data flows: ``task_vectors`` (the algebra), ``sparsify`` (trim),
``election`` (signs, variants, slack), ``combine`` (mean or sum of what agrees), ``ties`` (the
three steps), ``methods`` (the table), ``diagnostics`` (what a merge throws away).
"""

from langmerge.merging.diagnostics import diagnose, diagnose_vectors, summarize
from langmerge.merging.election import VARIANTS
from langmerge.merging.methods import METHODS, Method, describe, merge, merge_vectors
from langmerge.merging.task_vectors import StateDict, TaskVectors

__all__ = [
    "METHODS",
    "VARIANTS",
    "Method",
    "StateDict",
    "TaskVectors",
    "describe",
    "diagnose",
    "diagnose_vectors",
    "merge",
    "merge_vectors",
    "summarize",
]
