"""Rows of results with released checkpoints: their schema, and a file that grows row by row.

The file is JSON lines. A row is whole or absent: a line that a killed run left unfinished is
dropped by the next one, which computes it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from langmerge.errors import LangmergeError
from langmerge.files import append_lines

#: The schema's version; a row says with which it was written.
VERSION = 1
#: Every column and what it holds. A row has all of them.
COLUMNS = {
    "schema": "this schema's version",
    "key": "hash of weights, method, parameters and setting; a model has it in all its rows",
    "triple": "which triple of checkpoints",
    "language": "FLORES code",
    "role": "base, ct, sft or merge",
    "method": "the merge method; empty for parts",
    "params": "its parameters",
    "slack": "the election's slack; null where there is no election",
    "variant": "which of the functions called TIES; empty where there is no election",
    "task": "lm-eval's name of the task",
    "metric": "acc, or acc_norm (by the length of an option)",
    "value": "the mean over items, from 0 to 1",
    "stderr": "its standard error, items clustered where they share a text; null for one cluster",
    "others": "the mean by lm-eval's other metrics",
    "n": "the number of items",
    "chance": "what guessing gives",
    "repositories": "the commit of each model and of the data set",
    "weights": "xxh3 of the merged tensors, or SHA-256 of each weight file of a part",
    "merge_dtype": "the type in which the merge is stored; null for parts",
    "dtype": "the type in which the model was evaluated",
    "device": "the device it was evaluated on",
    "limit": "how many items a task was cut to; null for all",
    "seconds": "how long the evaluation took",
    "tokens": "how many tokens went through the model",
    "provenance": "commit, versions and time",
}


def append(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Add rows at the end of the file, all on the disk before this returns.

    Raises LangmergeError for a row that does not have exactly the schema's columns.
    """
    for row in rows:
        if set(row) != set(COLUMNS):
            odd = ", ".join(sorted(set(row) ^ set(COLUMNS)))
            raise LangmergeError(f"a row of results lacks or has beside the schema: {odd}")
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    append_lines(path, text)


def read(path: Path) -> pd.DataFrame:
    """All whole rows, the columns in the schema's order; no rows where there is no file.

    Raises LangmergeError, naming the line, for one that is none of this schema.
    """
    rows = []
    for number, line in enumerate(_whole_lines(path), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise LangmergeError(f"{path}, line {number}: not JSON ({error}).") from None
        if not isinstance(row, dict) or row.get("schema") != VERSION or set(row) != set(COLUMNS):
            raise LangmergeError(
                f"{path}, line {number}: not a row of schema {VERSION}. Move the file away to "
                "begin a new one, or remove that line."
            )
        rows.append(row)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _whole_lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    return text[: text.rfind("\n") + 1].splitlines()
