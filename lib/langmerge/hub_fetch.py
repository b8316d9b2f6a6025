"""Repositories of the Hugging Face hub: pinned, fetched whole, and checked against their hashes.

`merging.hub` gives a recipe its models by name. Here a repository is first resolved to the commit
that it stands at, with the sizes and hashes that the hub states; then it can be planned, asked for
access, fetched through the unmodified `huggingface_hub` client, and verified. Whatever the hub
refuses is one `LangmergeError` that says what to do. Files that were fetched are not fetched
again, and nothing has its final name before it is whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from langmerge.errors import LangmergeError
from langmerge.files import sha256

#: What is read of a model beside its weights; code is never among it.
TEXTS = ("*.json", "*.txt", "*.model", "*.jinja", "LICENSE*", "README.md")
#: What a data set's files may be called; scripts are never fetched.
DATA = ("*.md", "*.json", "*.jsonl", "*.tsv", "*.csv", "*.parquet", "*.gz")
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


@dataclasses.dataclass(frozen=True)
class File:
    """A file as the hub states it: its size in bytes and its hash.

    sha256: of a large file (LFS). blob: git's SHA-1 of a small one.
    """

    size: int
    sha256: str | None = None
    blob: str | None = None

    def matches(self, path: Path) -> bool:
        """Whether a file on this disk is this one, byte for byte."""
        if path.stat().st_size != self.size:
            return False
        if self.sha256:
            return sha256(path) == self.sha256
        return self.blob is None or _git_hash(path) == self.blob


@dataclasses.dataclass(frozen=True)
class Repository:
    """A repository at one commit.

    kind: "model" or "dataset". asked: the revision that was asked for (a branch, a tag, a commit,
    or None for the default branch). gated: whether its terms have to be accepted first.
    """

    name: str
    kind: str
    asked: str | None
    commit: str
    gated: bool
    files: Mapping[str, File]

    def wanted(self) -> dict[str, File]:
        """The files that are fetched: of a model its weights in one format, never code."""
        from huggingface_hub.utils import filter_repo_objects

        return {
            name: self.files[name] for name in filter_repo_objects(self.files, **patterns(self))
        }

    def missing(self) -> dict[str, File]:
        """Those of them that the cache on this disk lacks."""
        return {name: file for name, file in self.wanted().items() if cached(self, name) is None}


def patterns(repository: Repository) -> dict[str, list[str]]:
    """What is fetched of a repository, as `snapshot_download` takes it."""
    if repository.kind == "dataset":
        return {"allow_patterns": list(DATA), "ignore_patterns": []}
    return model_patterns(repository.files)


def model_patterns(files: Iterable[str]) -> dict[str, list[str]]:
    """What is fetched of a model's files, as `snapshot_download` takes it.

    Weights are safetensors where the repository has them, else ``.bin`` shards.
    """
    weights = "*.safetensors" if any(map(_is_safe, files)) else "*.bin"
    return {
        "allow_patterns": [*TEXTS, weights],
        # Copies of the same weights in other layouts (Llama's `original/`).
        "ignore_patterns": ["*/*", "consolidated*", "training_args.bin"],
    }


def _is_safe(file: str) -> bool:
    return "/" not in file and file.endswith(".safetensors") and "consolidated" not in file


def resolve(name: str, revision: str | None = None, kind: str = "model") -> Repository:
    """Ask the hub what a repository holds at a revision, and which commit that is.

    Raises LangmergeError for a name or revision that the hub does not have, and without a network.
    """
    import huggingface_hub

    with explained(name, kind, revision):
        api = huggingface_hub.HfApi()
        ask = api.model_info if kind == "model" else api.dataset_info
        info = ask(name, revision=revision, files_metadata=True)
        files = {
            one.rfilename: File(one.size or 0, one.lfs.sha256 if one.lfs else None, one.blob_id)
            for one in info.siblings or []
        }
        return Repository(name, kind, revision, info.sha, bool(info.gated), files)


def check_access(repositories: Iterable[Repository]) -> None:
    """Ask for access to everything that is gated, before the first byte is fetched.

    Raises LangmergeError naming the page where the terms are accepted, or how to log in.
    """
    import huggingface_hub

    for one in repositories:
        if one.gated and one.missing():
            with explained(one.name, one.kind, one.asked):
                huggingface_hub.HfApi().auth_check(one.name, repo_type=one.kind)


def cached(repository: Repository, name: str) -> Path | None:
    """Where a file of a repository lies in the hub's cache; None where it is not there."""
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(
        repository.name, name, revision=repository.commit, repo_type=repository.kind
    )
    return Path(found) if isinstance(found, str) else None


def cache_folder() -> Path:
    """The folder of the hub's cache (HF_HUB_CACHE, or hub/ in HF_HOME)."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def check_disk(needed: int, folder: Path, what: str) -> None:
    """Raise LangmergeError where a disk has not so many bytes free."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise LangmergeError(
            f"{what} takes {gigabytes(needed)}, and {place} has {gigabytes(free)} free. Free some "
            "space, or set HF_HOME (what is fetched) or LANGMERGE_HOME (what is computed) to a "
            "folder on another disk. Nothing was fetched."
        )


def fetch(repository: Repository) -> Path:
    """Fetch what is missing, check every file, and return the snapshot's folder.

    A connection that breaks is taken up again where it broke; what an earlier run finished is kept.
    Raises LangmergeError as `resolve`, and for a file that is not what the hub states: it is
    removed, so that the next run fetches it anew.
    """
    import huggingface_hub

    with explained(repository.name, repository.kind, repository.asked):
        folder = huggingface_hub.snapshot_download(
            repository.name,
            repo_type=repository.kind,
            revision=repository.commit,
            **patterns(repository),
        )
    verify(repository)
    return Path(folder)


def one_file(repository: Repository, name: str) -> Path | None:
    """Fetch one file, where the repository has it: what is looked at before the weights come.

    Raises LangmergeError as `fetch`.
    """
    import huggingface_hub

    if name not in repository.files:
        return None
    with explained(repository.name, repository.kind, repository.asked):
        found = huggingface_hub.hf_hub_download(
            repository.name, name, repo_type=repository.kind, revision=repository.commit
        )
    return Path(found)


def verify(repository: Repository) -> None:
    """Compare every file with the hash that the hub states, once for each file on this disk.

    Raises LangmergeError, naming the file, where one is missing or differs; a file that differs
    is removed.
    """
    for name, stated in repository.wanted().items():
        path = cached(repository, name)
        if path is None:
            raise LangmergeError(
                f"{repository.name}: {name} is not in {cache_folder()} although it was fetched. "
                "Run the same command again."
            )
        real = path.resolve()
        note = _note_of(repository, stated, real)
        if note.is_file() and note.read_text() == _signature(real):
            continue
        if not stated.matches(path):
            path.unlink()
            real.unlink(missing_ok=True)
            raise LangmergeError(
                f"{repository.name}: {name} is not what the hub states (its size or hash differs): "
                "the copy was damaged, and is removed. Run the same command again to fetch it; if "
                "it differs again, a proxy or a mirror changes it."
            )
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(_signature(real))


def from_cache(name: str, commit: str, kind: str = "model") -> Repository:
    """A commit that was fetched before, as the cache has it, without a network.

    Its files carry no hashes: those were compared when they were fetched. Raises LangmergeError
    where it is not complete.
    """
    import huggingface_hub
    from huggingface_hub import constants

    inside = constants.REPO_ID_SEPARATOR.join([f"{kind}s", *name.split("/")])
    folder = cache_folder() / inside / "snapshots" / commit
    found = {
        path.relative_to(folder).as_posix(): File(path.stat().st_size)
        for path in folder.rglob("*")
        if path.is_file()
    }
    repository = Repository(name, kind, commit, commit, False, found)
    if kind == "model":  # of a data set only the files of one language are fetched
        with explained(name, kind, commit):
            huggingface_hub.snapshot_download(
                name, revision=commit, local_files_only=True, **patterns(repository)
            )
    return repository


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def gigabytes(size: float) -> str:
    """A number of bytes for a reader, such as ``13.5 GB``."""
    for unit, bytes_ in (("GB", 1e9), ("MB", 1e6)):
        if size >= bytes_:
            return f"{size / bytes_:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"


@contextmanager
def explained(name: str, kind: str, revision: str | None) -> Iterator[None]:
    """What the hub refuses as one message with its mend."""
    from huggingface_hub import constants, errors

    # The client's HTTP library is another one in each of its versions.
    http = next(base for base in errors.HfHubHTTPError.__bases__ if base is not OSError)
    transport = tuple(base for base in http.__mro__ if base.__module__.startswith("http"))
    try:
        yield
    except LangmergeError:
        raise
    except (OSError, ValueError, errors.RevisionResolutionError, *transport) as error:
        page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{name}"
        raise LangmergeError(_message(error, f"{kind} {name!r}", page, revision)) from None


def _message(error: Exception, what: str, page: str, revision: str | None) -> str:
    from huggingface_hub import errors, get_token

    chain = list(_causes(error))
    found = {kind: next((one for one in chain if isinstance(one, kind)), None) for kind in (
        errors.GatedRepoError, errors.RevisionNotFoundError, errors.RepositoryNotFoundError,
        errors.OfflineModeIsEnabled, errors.HfHubHTTPError,
    )}  # fmt: skip
    if found[errors.GatedRepoError]:
        if get_token() is None:
            return f"{what} is gated, and no token is known: accept its terms on {page}, {LOGIN}."
        return f"{what} is gated, and your token has no access: accept its terms on {page}."
    if found[errors.RevisionNotFoundError]:
        return f"{what} has no revision {revision!r}: {page}/commits has those that there are."
    if found[errors.RepositoryNotFoundError]:
        return f"{what} is not on the hub, or is private: check its name, and {LOGIN}."
    if found[errors.OfflineModeIsEnabled] or is_offline():
        return (
            f"{what} is not complete in {cache_folder()}, and HF_HUB_OFFLINE forbids the network: "
            "unset it and run the same command again, or copy the cache from another machine."
        )
    refused = found[errors.HfHubHTTPError]
    status = getattr(getattr(refused, "response", None), "status_code", None)
    if status in (401, 403):
        return f"the hub refuses {what} ({status}): check that your token is valid, {LOGIN}."
    return (
        f"{what} could not be had from the hub ({_first_line(chain[-1])}). What is complete is "
        "kept: run the same command again when the network is back."
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return text.rstrip(".") or type(error).__name__


def _git_hash(path: Path) -> str:
    """What git calls a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _note_of(repository: Repository, stated: File, real: Path) -> Path:
    """Where it is noted that a blob was checked; gone with the cache of its repository."""
    root = next((p for p in real.parents if p.name.startswith(("models--", "datasets--"))), None)
    return (
        (root or real.parent) / "langmerge-verified" / (stated.sha256 or stated.blob or real.name)
    )


def _signature(path: Path) -> str:
    status = os.stat(path)
    return f"{status.st_size} {status.st_mtime_ns}"
