"""Models by name: a folder on this disk, or an id on the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from langmerge.errors import LangmergeError
from langmerge.hub_fetch import model_patterns

_ID = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")


def is_local(reference: str) -> bool:
    """Whether a model's name is a folder here, or can be nothing else."""
    return Path(reference).expanduser().is_dir() or not _ID.fullmatch(reference.partition("@")[0])


def folder_of(reference: str) -> Path:
    """The folder of a model; fetched where it is a hub id, ``org/name`` or ``org/name@revision``.

    Weights are taken as safetensors where the repository has them, else as pickled ``.bin``
    shards (which the engine reads without running code). Raises LangmergeError for a folder that
    is not there, and where the hub does not give the model.
    """
    if is_local(reference):
        folder = Path(reference).expanduser()
        if not folder.is_dir():
            raise LangmergeError(
                f"model {reference!r}: there is no such folder (from {Path.cwd()}), and a hub id "
                "looks like org/name or org/name@revision."
            )
        return folder.resolve()
    import huggingface_hub

    with _explained(reference):
        wanted = model_patterns(_files(reference))
        name, revision = _at(reference)
        return Path(huggingface_hub.snapshot_download(name, revision=revision, **wanted))


def is_here(reference: str) -> bool:
    """Whether a model needs no fetching: a folder, or complete in the hub's cache."""
    if is_local(reference):
        return True
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    name, revision = _at(reference)
    names = _cached(reference)
    try:
        # Complete: its revision was fetched with weights, by these very patterns.
        huggingface_hub.snapshot_download(
            name, revision=revision, local_files_only=True, **model_patterns(names)
        )
    except LocalEntryNotFoundError:
        return False
    return any(file.endswith((".safetensors", ".bin")) for file in names)


def bytes_to_fetch(reference: str) -> int:
    """How much `folder_of` would fetch of a hub model; LangmergeError as there."""
    from huggingface_hub.utils import filter_repo_objects

    with _explained(reference):
        files = _files(reference)
        return sum(files[name] for name in filter_repo_objects(files, **model_patterns(files)))


def _at(reference: str) -> tuple[str, str | None]:
    name, _, revision = reference.partition("@")
    return name, revision or None


def _files(reference: str) -> dict[str, int]:
    """The repository's files and their sizes; without a network, those that are cached."""
    import huggingface_hub
    from huggingface_hub import constants

    name, revision = _at(reference)
    if constants.HF_HUB_OFFLINE:
        return _cached(reference)
    info = huggingface_hub.HfApi().model_info(name, revision=revision, files_metadata=True)
    return {file.rfilename: file.size or 0 for file in info.siblings}


def _cached(reference: str) -> dict[str, int]:
    """The files of a revision that lie in the hub's cache, and their sizes; none where none do."""
    import huggingface_hub

    name, revision = _at(reference)
    found = huggingface_hub.try_to_load_from_cache(name, "config.json", revision=revision)
    if not isinstance(found, str):
        return {}
    return {p.name: p.stat().st_size for p in Path(found).parent.iterdir() if p.is_file()}


@contextmanager
def _explained(reference: str) -> Iterator[None]:
    """What the hub refuses as one message."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # The base of the hub's own errors is its HTTP library's, which is another one in each of
    # its versions.
    http = next(base for base in HfHubHTTPError.__bases__ if base is not OSError)
    try:
        yield
    except (http, HFValidationError, OSError) as error:
        raise LangmergeError(
            f"model {reference!r} is no folder here, and the hub does not give it: "
            f"{_first_line(error)}. Check the id and the network; for a gated model accept its "
            "terms on its page and log in with `hf auth login`."
        ) from None


def _first_line(error: Exception) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return text.rstrip(".") or type(error).__name__
