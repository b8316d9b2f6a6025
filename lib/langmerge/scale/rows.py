"""Training rows on disk: streams are tokenized and packed once, and read at any position.

A row is `sequence` tokens of four bytes each: the token's id, a bit that says whether it carries
loss, and a bit that says whether an example begins that sees nothing before it. Because rows lie
in the order of training, the position in the data is the number of the step, the same for one
process and for many, and a run that goes on reads the very rows that are next.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from langmerge.errors import LangmergeError
from langmerge.files import write_text
from langmerge.scale import sources
from langmerge.scale.settings import Instructions, Run, Source
from langmerge.train import IGNORED

LOSS = np.uint32(1 << 31)
START = np.uint32(1 << 30)
_ID = np.uint32(START - 1)
#: Documents that are tokenized at once: the tokenizer spreads them over the cores.
_AT_ONCE = 256
#: Tokens between two saves of the position.
_SAVE_EVERY = 4_000_000


class Rows(Dataset):
    """Packed rows as examples of a causal model: input_ids, labels and, for SFT, position_ids."""

    def __init__(self, folder: Path) -> None:
        self.manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        flat = np.memmap(folder / "rows.bin", dtype=np.uint32, mode="r")
        self.rows = flat.reshape(-1, self.manifest["sequence"])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = np.asarray(self.rows[index])
        ids = torch.from_numpy((row & _ID).astype(np.int64))
        labels = torch.where(torch.from_numpy((row & LOSS) != 0), ids, IGNORED)
        if not self.manifest["blind"]:
            return {"input_ids": ids, "labels": labels}
        # transformers keeps examples apart where positions begin anew.
        place = np.arange(len(row))
        begun = np.maximum.accumulate(np.where(row & START, place, 0))
        return {
            "input_ids": ids,
            "labels": labels,
            "position_ids": torch.from_numpy((place - begun).astype(np.int64)),
        }


@dataclass
class _Position:
    """How far packing has come: rows written, what waits for the next row, and what was read."""

    rows: int
    waiting: list[int]
    tokens: list[int]  # by source
    read: list[int]  # examples, by source
    too_long: int = 0


def prepare(
    run: Run,
    tokenizer: PreTrainedTokenizerBase,
    progress: Callable[[int, int], None] | None = None,
) -> Rows:
    """Tokenize and pack a run's rows into ``<out>/data``, or find them there.

    Sources are mixed by their shares of tokens: the next example is the source's that is most
    behind. Killed, it goes on where it was. progress: called with rows done and in all. Raises
    LangmergeError where the folder holds other data, where data are used up (unless they
    repeat), and where the disk is too small.
    """
    folder = run.out / "data"
    spec = _spec(run, tokenizer)
    if (folder / "manifest.json").is_file():
        rows = Rows(folder)
        _check_same(folder, rows.manifest["spec"], spec)
        return rows
    folder.mkdir(parents=True, exist_ok=True)
    wanted = run.steps * run.rows_per_step
    _check_disk(folder, wanted * run.sequence * 4)
    position = _resume(folder, spec, len(run.data), run.sequence)
    with (folder / "rows.bin").open("r+b") as file:
        file.truncate(position.rows * run.sequence * 4)
        file.seek(0, 2)
        for block in _blocks(run, tokenizer, position, wanted):
            file.write(block.tobytes())
            file.flush()
            _save(folder, spec, position)
            if progress:
                progress(position.rows, wanted)
    _finish(folder, run, spec, position)
    return Rows(folder)


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """The hash of a vocabulary: models with the same one read the same rows."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(vocabulary.encode()).hexdigest()[:16]


def _spec(run: Run, tokenizer: PreTrainedTokenizerBase) -> dict[str, object]:
    keys = {"sequence", "tokens", "tokens_per_step", "seed", "repeat", "shuffle_buffer", "data"}
    return run.model_dump(mode="json", include=keys) | {"tokenizer": fingerprint(tokenizer)}


def _check_same(folder: Path, there: dict[str, object], spec: dict[str, object]) -> None:
    other = sorted(key for key in spec if there.get(key) != spec[key])
    if other:
        raise LangmergeError(
            f"{folder}: it holds rows of other settings ({', '.join(other)} differ). Choose "
            "another `out:`, or remove that folder."
        )


def _check_disk(folder: Path, size: int) -> None:
    there = (folder / "rows.bin").stat().st_size if (folder / "rows.bin").exists() else 0
    free = shutil.disk_usage(folder).free
    if size - there > free:
        raise LangmergeError(
            f"{folder}: the rows take {size / 1e9:,.1f} GB and the disk has {free / 1e9:,.1f} GB "
            "left. Make room, choose another `out:`, or fewer tokens."
        )


def _resume(folder: Path, spec: dict[str, object], sources_: int, sequence: int) -> _Position:
    path, data = folder / "position.json", folder / "rows.bin"
    if path.is_file() and data.is_file():
        saved = json.loads(path.read_text(encoding="utf-8"))
        _check_same(folder, saved.pop("spec"), spec)
        position = _Position(**saved)
        if data.stat().st_size >= position.rows * sequence * 4:
            return position
    data.write_bytes(b"")
    return _Position(0, [], [0] * sources_, [0] * sources_)


def _save(folder: Path, spec: dict[str, object], position: _Position) -> None:
    write_text(folder / "position.json", json.dumps(vars(position) | {"spec": spec}))


def _finish(folder: Path, run: Run, spec: dict[str, object], position: _Position) -> None:
    manifest = {
        "spec": spec,
        "sequence": run.sequence,
        "blind": isinstance(run.data[0], Instructions),
        "rows": position.rows,
        "tokens": dict(zip((one.name for one in run.data), position.tokens, strict=True)),
        "examples": dict(zip((one.name for one in run.data), position.read, strict=True)),
        "too_long": position.too_long,
    }
    write_text(folder / "manifest.json", json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    (folder / "position.json").unlink(missing_ok=True)


def _blocks(
    run: Run, tokenizer: PreTrainedTokenizerBase, position: _Position, wanted: int
) -> Iterator[np.ndarray]:
    """Whole rows, some at a time; `position` is as after the block when it is given out."""
    streams = [
        _encoded(one, run, tokenizer, skip)
        for one, skip in zip(run.data, position.read, strict=True)
    ]
    shares = np.array([one.share for one in run.data]) / sum(one.share for one in run.data)
    ready: list[np.ndarray] = []
    while position.rows < wanted:
        behind = shares * (sum(position.tokens) + 1) - position.tokens
        number = int(np.argmax(behind))
        tokens = next(streams[number], None)
        if tokens is None:
            raise _used_up(run.data[number], position, number, run, wanted)
        position.tokens[number] += len(tokens)
        position.read[number] += 1
        _place(tokens, run, position, ready, wanted)
        if sum(map(len, ready)) * run.sequence >= _SAVE_EVERY:
            yield np.concatenate(ready)
            ready.clear()
    if ready:
        yield np.concatenate(ready)


def _place(
    tokens: list[int], run: Run, position: _Position, ready: list[np.ndarray], wanted: int
) -> None:
    """Append an example to what waits, and cut whole rows off it."""
    width, waiting = run.sequence, position.waiting
    if isinstance(run.data[0], Instructions):
        # An example is never cut in two: what does not fit begins the next row.
        if len(tokens) > width:
            position.too_long += 1
            if position.too_long == sum(position.read) >= _AT_ONCE:
                raise LangmergeError(
                    f"{run.data[0].name}: all of the first {position.too_long} examples are longer "
                    f"than the sequence of {width} tokens, and none is cut. Raise `sequence:`."
                )
            return
        if len(waiting) + len(tokens) > width:
            padding = [int(START)] * (width - len(waiting))
            ready.append(np.array([waiting + padding], dtype=np.uint32))
            waiting.clear()
            position.rows += 1
        waiting += tokens
        return
    waiting += tokens
    rows = min(len(waiting) // width, wanted - position.rows)
    if rows:
        ready.append(np.array(waiting[: rows * width], dtype=np.uint32).reshape(rows, width))
        del waiting[: rows * width]
        position.rows += rows


def _encoded(
    source: Source, run: Run, tokenizer: PreTrainedTokenizerBase, skip: int
) -> Iterator[list[int]]:
    """A source's examples as tokens with their bits, without the first `skip`."""
    stream = sources.examples(source, run.seed, run.shuffle_buffer, run.repeat)
    stream = islice(stream, skip, None)
    encode = _instructions if isinstance(source, Instructions) else _documents
    while batch := list(islice(stream, _AT_ONCE)):
        yield from encode(source, batch, tokenizer)


def _documents(source: Source, batch: list[dict], tokenizer: PreTrainedTokenizerBase) -> Iterator:
    loss, begin, end = int(LOSS), _begin(tokenizer), [tokenizer.eos_token_id]
    texts = [str(example[source.column] or "") for example in batch]
    for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
        yield [token | loss for token in (*begin, *ids, *end)]


def _instructions(
    source: Source, batch: list[dict], tokenizer: PreTrainedTokenizerBase
) -> Iterator:
    loss, start, begin = int(LOSS), int(START), _begin(tokenizer)
    prompts = [sources.filled(source.prompt, example) for example in batch]
    answers = [sources.filled(source.answer, example) for example in batch]
    encode = [tokenizer(texts, add_special_tokens=False) for texts in (prompts, answers)]
    for prompt, answer in zip(*(one["input_ids"] for one in encode), strict=True):
        first, *rest = (*begin, *prompt, *answer, tokenizer.eos_token_id)
        tokens = [first | start, *rest]
        for place in range(max(1, len(begin) + len(prompt)), len(tokens)):
            tokens[place] |= loss
        yield tokens


def _begin(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token that the tokenizer itself puts before a text, as evaluation does."""
    first = tokenizer("a")["input_ids"][:1]
    return first if first == [tokenizer.bos_token_id] else []


def _used_up(
    source: Source, position: _Position, number: int, run: Run, wanted: int
) -> LangmergeError:
    return LangmergeError(
        f"{source.name}: its {position.read[number]:,} examples are used up at "
        f"{sum(position.tokens):,} of {wanted * run.sequence:,} tokens "
        f"({position.tokens[number]:,} of them are its own). Lower `tokens:` or its `share:`, or "
        "say `repeat: true` to read it again."
    )
