"""Checkpoints on disk: what tensors a folder has and where their bytes lie, without loading them.

safetensors files, single or sharded by an index, are mapped into memory; ``.bin`` shards are read
by ``torch.load(weights_only=True, mmap=True)`` only, so that no pickle runs code. Pages that were
read can be given back (`Entry.drop`), so that a process keeps what it works on and no more.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import mmap
import os
import pickle
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from safetensors import SafetensorError, safe_open

from langmerge.dtypes import Dtype
from langmerge.errors import LangmergeError, nearest
from langmerge.later import torch

#: The files that may hold a model, in the order in which they are looked for.
WEIGHTS = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
#: Output embeddings, each with the input embedding that it is where weights are tied.
_HEADS = {
    "lm_head.weight": ("model.embed_tokens.weight", "transformer.wte.weight"),
    "embed_out.weight": ("gpt_neox.embed_in.weight",),
}
#: Buffers that older libraries wrote beside the weights; models make them anew.
_BUFFERS = ("rotary_emb.inv_freq", ".attn.masked_bias", ".attn.bias")
_PAGE = mmap.PAGESIZE


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint: its bytes are read when they are asked for.

    data: the bytes as uint8. mapped: whether they are pages of the file.
    """

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    file: Path
    data: np.ndarray
    mapped: bool = True

    @property
    def numel(self) -> int:
        """The number of entries."""
        return int(np.prod(self.shape, dtype=np.int64))

    def tensor(self) -> torch.Tensor:
        """The tensor in fp32, in memory of its own."""
        if not self.numel:
            return torch.empty(self.shape)
        # A copy first: torch wants memory that it may write to.
        raw = torch.from_numpy(self.data.copy()).view(self.dtype.in_torch).reshape(self.shape)
        return raw.float()

    def values(self, start: int, stop: int) -> np.ndarray:
        """Entries start to stop as numpy: bf16 as uint16, other types as they are."""
        size = self.dtype.itemsize
        raw = self.data[start * size : stop * size]
        if raw.ctypes.data % size:  # a file may put a tensor anywhere
            raw = raw.copy()
        values = raw.view(self.dtype.in_numpy)
        values.flags.writeable = False
        return values

    def drop(self, start: int = 0, stop: int | None = None) -> None:
        """Give the pages of the bytes start to stop back; they are read again where needed."""
        # Memory that is no file's would be lost, not read again.
        if self.mapped:
            drop_pages(self.data[start:stop])


class Checkpoint:
    """The tensors of one model's folder, by name; raises LangmergeError for one that is broken.

    ignored: buffers that are no weights. config: what config.json says ({} without one).
    """

    def __init__(self, folder: Path, label: str = "") -> None:
        self.folder = folder
        self.label = label or str(folder)
        if not folder.is_dir():
            raise LangmergeError(f"{self.label}: {folder} is not a folder.")
        self.config = _config(folder)
        self.files = _files(folder)
        self.entries: dict[str, Entry] = {}
        for file in self.files:
            for entry in _read(file):
                if entry.name in self.entries:
                    raise LangmergeError(
                        f"{file}: it has {entry.name!r}, which "
                        f"{self.entries[entry.name].file.name} has as well. Remove the file that "
                        "does not belong to the model."
                    )
                self.entries[entry.name] = entry
        _check_index(folder, self.entries)
        self.ignored = [name for name in self.entries if name.endswith(_BUFFERS)]
        for name in self.ignored:
            del self.entries[name]

    def head(self) -> tuple[str, str] | None:
        """The output embedding's name and that of the input embedding; None without the latter."""
        for head, embeddings in _HEADS.items():
            for embedding in embeddings:
                if embedding in self.entries:
                    return head, embedding
        return None

    def is_tied(self) -> bool:
        """Whether the output embedding is the input embedding, and not a tensor of its own."""
        names = self.head()
        if names is None:
            return False
        said = self.config.get("tie_word_embeddings")
        if names[0] not in self.entries:
            if said is False:
                raise LangmergeError(
                    f"{self.label}: {names[0]} is missing, and config.json says that it is not "
                    "tied to the embedding. The checkpoint is incomplete; download it again."
                )
            return True
        return said is True

    def bytes(self) -> int:
        """The size of all tensors that are merged."""
        return sum(len(entry.data) for entry in self.entries.values())


def align(checkpoints: Iterable[Checkpoint]) -> tuple[dict[str, tuple[Entry, ...]], bool]:
    """The tensors of models that are to be merged: name to one entry a model, and tied or not.

    In the order in which the first model stores them. Where all models tie their output embedding
    to the input embedding it is merged once, as the latter; where only some do, it is a tensor of
    its own and theirs is the embedding. Raises LangmergeError where names or shapes differ,
    naming the tensor, the models and the mend.
    """
    checkpoints = list(checkpoints)
    tables = [dict(one.entries) for one in checkpoints]
    ties = [one.is_tied() for one in checkpoints]
    for one, table, tied in zip(checkpoints, tables, ties, strict=True):
        if not tied:
            continue
        head, embedding = one.head()
        table.pop(head, None)
        if not all(ties):
            table[head] = dataclasses.replace(table[embedding], name=head)
    first, *others = zip(checkpoints, tables, strict=True)
    for other, table in others:
        _check_alike(*first, other, table)
    return {name: tuple(table[name] for table in tables) for name in tables[0]}, all(ties)


def _check_alike(
    one: Checkpoint, table: Mapping[str, Entry], other: Checkpoint, others: Mapping[str, Entry]
) -> None:
    missing = [name for name in table if name not in others]
    extra = [name for name in others if name not in table]
    if missing or extra:
        name = (missing or extra)[0]
        has, lacks = (one, other) if missing else (other, one)
        raise LangmergeError(
            f"{has.label} has a tensor {name!r} that {lacks.label} lacks ({len(missing)} missing "
            f"from {other.label}, {len(extra)} extra in it); {nearest(name, lacks.entries)} Only "
            "models of one architecture can be merged."
        )
    for name, entry in table.items():
        if entry.shape != others[name].shape:
            raise LangmergeError(_other_shape(name, one, entry, other, others[name]))


def _other_shape(name: str, one: Checkpoint, entry: Entry, other: Checkpoint, its: Entry) -> str:
    shapes = f"{one.label} has shape {entry.shape}, {other.label} {its.shape}"
    names = {embedding for pair in _HEADS.values() for embedding in pair} | set(_HEADS)
    if name in names and entry.shape[1:] == its.shape[1:]:
        return (
            f"{name}: {shapes}: the vocabularies differ, of {entry.shape[0]} and {its.shape[0]} "
            "tokens. If the longer one only adds tokens at its end, cut or pad the embeddings "
            "with transformers' resize_token_embeddings and save the model; else the same row "
            "means different tokens, and the models cannot be merged."
        )
    return f"{name}: {shapes}. Only models of one architecture and one size can be merged."


def _config(folder: Path) -> dict[str, object]:
    path = folder / "config.json"
    if not path.is_file():
        return {}
    config = _json(path)
    if not isinstance(config, dict):
        raise LangmergeError(f"{path}: it has to be an object, not {type(config).__name__}.")
    return config


def _json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise LangmergeError(f"{path}: it is not readable as JSON ({error}).") from None


def _files(folder: Path) -> list[Path]:
    """The files that hold the model; the index says which, where there is one."""
    for name in WEIGHTS:
        path = folder / name
        if not path.is_file():
            continue
        if not name.endswith(".index.json"):
            return [path]
        return [_shard(path, shard) for shard in sorted(set(_weight_map(path).values()))]
    raise LangmergeError(
        f"{folder}: no model in it; one of {', '.join(WEIGHTS)} has to be there. Give the folder "
        "of a checkpoint as transformers' save_pretrained writes it."
    )


def _weight_map(index: Path) -> dict[str, str]:
    content = _json(index)
    weights = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise LangmergeError(f"{index}: it has no `weight_map` that says which tensor is where.")
    for name, shard in weights.items():
        if not isinstance(shard, str):
            raise LangmergeError(f"{index}: {name!r} lies in {shard!r}, which is no file name.")
    return weights


def _shard(index: Path, name: str) -> Path:
    # By its name alone: in the hub's cache files are links that do lead out of the folder.
    posix = PurePosixPath(name.replace("\\", "/"))
    if posix.is_absolute() or ".." in posix.parts or Path(name).drive or not posix.parts:
        raise LangmergeError(
            f"{index}: it names a shard {name!r} outside its folder, which no honest index does. "
            "Do not use this checkpoint."
        )
    path = index.parent / name
    if not path.is_file():
        raise LangmergeError(f"{index}: the shard {name} is not there. Download it again.")
    if path.suffix not in (".safetensors", ".bin"):
        raise LangmergeError(f"{index}: {name} is neither .safetensors nor .bin.")
    return path


def _check_index(folder: Path, entries: Mapping[str, Entry]) -> None:
    index = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if index is None or not index.name.endswith(".index.json"):
        return
    for name, shard in _weight_map(index).items():
        if name not in entries:
            raise LangmergeError(
                f"{index}: {name!r} has to be in {shard}, and is not. The index and the shards "
                "are of different checkpoints; download both again."
            )


def _read(file: Path) -> Iterator[Entry]:
    return _read_bin(file) if file.suffix == ".bin" else _read_safetensors(file)


def _read_safetensors(file: Path) -> Iterator[Entry]:
    damaged = f"{file}: it is truncated or damaged ({{}}). Download it again."
    try:
        # The library checks the header: lengths, order, no gap and no overlap.
        with safe_open(file, framework="np"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise LangmergeError(damaged.format(error)) from None
    with file.open("rb") as opened:
        length = struct.unpack("<Q", opened.read(8))[0]
        header = json.loads(opened.read(length))
        mapped = np.frombuffer(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    header.pop("__metadata__", None)
    for name, about in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        if about["dtype"] not in Dtype.__members__:
            raise LangmergeError(
                f"{file}: {name} stores {about['dtype']}; only floating-point weights can be "
                "merged. Dequantize the model before merging."
            )
        start, stop = (8 + length + offset for offset in about["data_offsets"])
        shape = tuple(about["shape"])
        yield Entry(name, Dtype[about["dtype"]], shape, file, mapped[start:stop])


def _read_bin(file: Path) -> Iterator[Entry]:
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        first = str(error).strip().splitlines()[0]
        raise LangmergeError(
            f"{file}: it holds more than tensors and could run code when loaded, so it is not "
            f"({first}). Use a safetensors version of the model."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise LangmergeError(
            f"{file}: it is truncated or damaged, or written by a torch older than 1.6 ({first}). "
            "Download it again, or save it as safetensors."
        ) from None
    if not isinstance(state, dict):
        raise LangmergeError(f"{file}: it holds a {type(state).__name__}, not a state dict.")
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor) or tensor.is_sparse or tensor.is_quantized:
            raise LangmergeError(f"{file}: {name!r} is no dense tensor.")
        dtype = Dtype.of(tensor.dtype)
        if dtype is None:
            raise LangmergeError(f"{file}: {name} stores {tensor.dtype}; it cannot be merged.")
        plain = tensor.detach().contiguous()
        data = plain.reshape(-1).view(torch.uint8).numpy() if plain.numel() else np.empty(0, "u1")
        mapped = plain.data_ptr() == tensor.data_ptr()
        yield Entry(name, dtype, tuple(tensor.shape), file, data, mapped)


def _madvise():
    if not sys.platform.startswith(("linux", "darwin")):
        return None
    function = ctypes.CDLL(None, use_errno=True).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    function.restype = ctypes.c_int
    return function


_MADVISE = _madvise()
_DONTNEED = 4


def drop_pages(data: np.ndarray) -> None:
    """Give back the whole pages of a mapped array; they stay in the system's page cache."""
    start = -(-data.ctypes.data // _PAGE) * _PAGE
    stop = (data.ctypes.data + data.nbytes) // _PAGE * _PAGE
    if _MADVISE is not None and stop > start:
        _MADVISE(start, stop - start, _DONTNEED)


def fingerprint(checkpoint: Checkpoint) -> list[tuple[str, int, int]]:
    """Names, sizes and times of a checkpoint's files: whether it is still the same one."""
    found = []
    for file in checkpoint.files:
        status = os.stat(file)
        found.append((file.name, status.st_size, status.st_mtime_ns))
    return found
