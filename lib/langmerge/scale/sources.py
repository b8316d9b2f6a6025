"""Examples as a stream, from the hub or from files, with the reader's mistakes named."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from langmerge.errors import LangmergeError, nearest
from langmerge.scale.settings import PLACE, Source

_FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}


def examples(source: Source, seed: int, shuffle_buffer: int, repeat: bool) -> Iterator[dict]:
    """A source's examples in an order that the seed decides, without end where they repeat.

    shuffle_buffer: examples among which the next is drawn at random (0: in their order), for a
    stream cannot be shuffled as a whole. Raises LangmergeError for a data set, configuration,
    split, file or column that is not there.
    """
    for passed in count():
        stream = _open(source)
        if shuffle_buffer:
            stream = stream.shuffle(seed=seed + passed, buffer_size=shuffle_buffer)
        found = 0
        for example in _read(source, stream):
            if not found:
                _check_columns(source, example)
            found += 1
            yield example
        if not found:
            raise LangmergeError(f"{source.name}: its split {source.split!r} has no example.")
        if not repeat:
            return


def filled(template: str, example: Mapping[str, Any]) -> str:
    """A template with the example's columns in it; what is None is nothing."""

    def text(place: re.Match) -> str:
        value = example[place[1]]
        return "" if value is None else str(value)

    return PLACE.sub(text, template)


def _open(source: Source) -> Any:
    import datasets
    from datasets.exceptions import DatasetNotFoundError

    if source.files is not None:
        files = _files(source.files)
        kind = _FORMATS[Path(files[0]).suffix]
        return datasets.load_dataset(kind, data_files=files, split="train", streaming=True)
    try:
        return datasets.load_dataset(
            source.dataset,
            source.config,
            data_dir=source.data_dir,
            revision=source.revision,
            split=source.split,
            streaming=True,
        )
    except DatasetNotFoundError as error:
        raise LangmergeError(
            f"data set {source.dataset!r}: {_first_line(error)} Check the id; for a gated data "
            "set accept its terms on its page and log in with `hf auth login`."
        ) from None
    except (ValueError, FileNotFoundError) as error:
        # An unknown configuration or split; the library's message lists the known ones.
        raise LangmergeError(
            f"data set {source.dataset!r}, config {source.config!r}, split {source.split!r}: "
            f"{_first_line(error)}"
        ) from None
    except (ConnectionError, OSError) as error:
        raise LangmergeError(
            f"data set {source.dataset!r} could not be reached: {_first_line(error)} Check the "
            "network, and run the same command again; what is prepared is kept."
        ) from None


def _read(source: Source, stream: Any) -> Iterator[dict]:
    from datasets.exceptions import DatasetGenerationError
    from huggingface_hub.errors import HfHubHTTPError

    # The base of the hub's errors is its HTTP library's, which is another one in each version.
    http = next(base for base in HfHubHTTPError.__bases__ if base is not OSError)
    try:
        yield from stream
    except (http, ConnectionError, TimeoutError) as error:
        raise LangmergeError(
            f"{source.name}: the connection was cut ({_first_line(error)}). Run the same command "
            "again: it goes on where it was."
        ) from None
    except (DatasetGenerationError, ValueError, UnicodeDecodeError) as error:
        cause = error.__cause__ or error
        raise LangmergeError(
            f"{source.name}: it cannot be read ({_first_line(cause)}). A .jsonl file has one JSON "
            "object a line, all with the same columns."
        ) from None


def _files(patterns: list[str]) -> list[str]:
    found = []
    for pattern in patterns:
        matching = sorted(glob.glob(str(Path(pattern).expanduser())))
        if not matching:
            raise LangmergeError(f"files: {pattern!r} matches nothing (from {Path.cwd()}).")
        found += matching
    kinds = {Path(file).suffix for file in found}
    if len(kinds) != 1 or not kinds <= set(_FORMATS):
        raise LangmergeError(
            f"files: they end in {', '.join(sorted(kinds))}; one source's files are all .jsonl, "
            "all .json or all .parquet."
        )
    return found


def _check_columns(source: Source, example: Mapping[str, Any]) -> None:
    for column in source.columns():
        if column not in example:
            raise LangmergeError(
                f"{source.name}: it has no column {column!r}: {nearest(column, example)}"
            )


def _first_line(error: BaseException) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return text or type(error).__name__
