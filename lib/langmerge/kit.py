"""The class kit: one file with all that a study of a language trained; a class trains nothing.

A kit is a zip of entries of the store: the experts of every seed and budget, and what was
evaluated and diagnosed of them and of their merges. Beside them lies the base that they started
from, and a manifest with the SHA-256 of every file and with what the entries' keys were made of.
Equal entries give equal bytes: files are stored as they are, in order, without dates.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from langmerge import __version__, experts, paths, profiles, store, study
from langmerge import base as base_module
from langmerge.cells import Cell, diagnostics_spec, evaluation_spec
from langmerge.errors import LangmergeError, readable
from langmerge.files import sha256, write_text
from langmerge.profiles import Profile
from langmerge.store import Store
from langmerge.study import Results

FORMAT = 1
MANIFEST = "kit.json"
#: The one date that a zip's entries have: they have none of their own.
_DATE = (1980, 1, 1, 0, 0, 0)
_BLOCK = 2**20


class Manifest(BaseModel):
    """What a kit is of, and the hash of every file in it."""

    model_config = ConfigDict(extra="forbid")
    format: int
    langmerge: str
    language: str
    profile: str
    seeds: list[int]
    plan: dict[str, Any]  # the profile's keys, as they were
    bases: dict[str, str]  # the hash of every base, by its folder's name
    texts: dict[str, str]  # the fingerprint of each language's text
    stages: dict[str, int]  # the version of what each stage computes
    files: dict[str, str]  # the SHA-256 of every other file, by its name in the kit


@dataclass(frozen=True)
class Kit:
    """A kit on disk. `digest` is the SHA-256 of the whole file, `size` its bytes."""

    path: Path
    manifest: Manifest
    digest: str
    size: int

    @property
    def experts(self) -> int:
        """How many trained models it holds."""
        return len(_entries(self.manifest, ("ct", "sft")))

    @property
    def results(self) -> int:
        """How many evaluations and diagnoses it holds."""
        return len(_entries(self.manifest, ("evaluation", "diagnostics")))


def build(
    language: str = "tam_Taml",
    profile: str = "lab",
    seeds: Sequence[int] | None = None,
    out: Path | None = None,
    processes: int | None = None,
    quiet: bool = False,
) -> Kit:
    """Compute what the study of a language lacks, and write its kit, with its hash beside it.

    out: the file (default: ``kit-<language>-<profile>.zip`` in the home folder's ``kits``).
    Raises LangmergeError as `study.run`.
    """
    results = study.run(
        language=language,
        profile=profile,
        seeds=list(seeds) if seeds else None,
        processes=processes,
        quiet=quiet,
    )
    found = _sources(results)
    manifest = _manifest(language, profile, results, found)
    target = out or _folder() / f"kit-{language}-{profile}.zip"
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        _write(temporary, manifest, found)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    digest = sha256(target)
    write_text(_note(target), f"{digest}  {target.name}\n")
    return Kit(target, manifest, digest, target.stat().st_size)


def use(path: Path, expected: str | None = None) -> Kit:
    """Unpack a kit into the home folder, once its hashes and what it was made of are right.

    expected: the SHA-256 that the file should have (default: what the file ``<kit>.sha256``
    beside it says, if there is one). Entries that are there already stay.
    Raises LangmergeError, before anything is unpacked, where the file is no kit, is damaged, or
    is of another base, language file, profile or version than are here; and names which.
    """
    digest = _digest_of(path, expected)
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = _read_manifest(archive, path)
            _require_same(manifest, path)
            scratch = paths.store() / "unfinished" / f"kit-{uuid.uuid4().hex[:8]}"
            try:
                _unpack(archive, manifest, scratch, path)
                _install(scratch)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except zipfile.BadZipFile:
        raise LangmergeError(
            f"{path} is no kit, or was cut off: it is not a whole zip. Fetch it again."
        ) from None
    return Kit(path, manifest, digest, path.stat().st_size)


# --- making ------------------------------------------------------------------------------


def _sources(results: Results) -> dict[str, Path]:
    """The files of a kit by their names in it."""
    folders = {*_expert_folders(results.cells), *_result_folders(results)}
    places = {f"store/{folder.parent.name}/{folder.name}": folder for folder in folders}
    for folder in {cell.base for cell in results.cells}:
        places[f"bases/{_base_name(folder)}"] = folder
    return {
        f"{place}/{path.name}": path
        for place, folder in sorted(places.items())
        for path in sorted(folder.iterdir())
        if path.is_file()
    }


def _base_name(folder: Path) -> str:
    """What a base is called in the kit; the one that studies start from has no name of its own."""
    return "kit" if folder == paths.base() else folder.name


def _expert_folders(cells: list[Cell]) -> set[Path]:
    used = (expert for cell in cells for expert in (cell.expert, cell.ct, cell.sft))
    return {expert.path.parent for expert in used if expert is not None}


def _result_folders(results: Results) -> Iterator[Path]:
    """The evaluations and diagnoses of the study, and all others of the same experts."""
    there, plan = Store(), results.plan
    for cell in results.cells:
        suites = [study.suite(plan, cell.language, cell.seed)]
        if cell.method == "sft":
            suites.append(study.english_suite(plan, cell.seed))
        for suite in suites:
            yield _require(there.find("evaluation", evaluation_spec(cell, suite)))
        if cell.method in study.DIAGNOSED:
            yield _require(there.find("diagnostics", diagnostics_spec(cell)))
    bases = {cell.load_base().hash for cell in results.cells}
    known = {"base"} | {
        expert.sha256
        for cell in results.cells
        for expert in (cell.expert, cell.ct, cell.sft)
        if expert is not None
    }
    for entry in there.entries():
        weights = entry.spec.get("weights")
        if weights is None or entry.spec["base"] not in bases:
            continue
        # A reader's own elections, and what the exercises' solutions merge.
        if {weights[part] for part in ("expert", "ct", "sft") if part in weights} <= known:
            yield there.root / entry.stage / entry.key


def _require(folder: Path | None) -> Path:
    if folder is None:
        raise LangmergeError(
            "an entry of the study disappeared from the store while the kit was made: is another "
            "program cleaning it? Run the same command again."
        )
    return folder


def _manifest(language: str, profile: str, results: Results, found: dict[str, Path]) -> Manifest:
    return Manifest(
        format=FORMAT,
        langmerge=__version__,
        language=language,
        profile=profile,
        seeds=results.seeds,
        plan=_stated(results.plan),
        bases={_base_name(cell.base): cell.load_base().hash for cell in results.cells},
        texts={code: experts.fingerprint(code) for code in (language, "eng_Latn")},
        stages=store.VERSIONS,
        files={name: sha256(path) for name, path in found.items()},
    )


def _stated(plan: Profile) -> dict[str, Any]:
    """A profile's keys as JSON can hold them, without its seeds, languages, name and note."""
    return json.loads(plan.model_dump_json(exclude={"languages", "seeds", "name", "note"}))


def _write(target: Path, manifest: Manifest, found: dict[str, Path]) -> None:
    """The zip. Its files are not compressed: weights hardly shrink, and zlibs differ."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        text = json.dumps(manifest.model_dump(), indent=1, sort_keys=True)
        archive.writestr(_member(MANIFEST), text + "\n")
        for name, path in sorted(found.items()):
            with path.open("rb") as source, archive.open(_member(name), "w") as into:
                shutil.copyfileobj(source, into, _BLOCK)


def _member(name: str) -> zipfile.ZipInfo:
    """A member without a date and with the same permissions on every system."""
    member = zipfile.ZipInfo(name, _DATE)
    member.external_attr = 0o100644 << 16
    member.create_system = 3
    return member


# --- using -------------------------------------------------------------------------------


def _note(path: Path) -> Path:
    """The file beside a kit that holds its hash, in the format of sha256sum."""
    return path.with_name(f"{path.name}.sha256")


def _folder() -> Path:
    """Where kits lie."""
    return paths.home() / "kits"


def _digest_of(path: Path, expected: str | None) -> str:
    """The file's SHA-256, once it is the expected one."""
    if not path.is_file():
        raise LangmergeError(
            f"no kit at {path}: give the file that `langmerge kit` wrote (into {_folder()}, "
            "unless it was told otherwise)"
        )
    if expected is None and _note(path).is_file():
        expected = (_note(path).read_text(encoding="utf-8").split() or [""])[0]
    digest = sha256(path)
    if expected is not None and digest != expected.lower():
        raise LangmergeError(
            f"{path} has SHA-256 {digest[:16]}…, not {expected[:16]}…: it was cut off or changed. "
            "Fetch it again."
        )
    return digest


def _read_manifest(archive: zipfile.ZipFile, path: Path) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(archive.read(MANIFEST))
    except KeyError:
        raise LangmergeError(f"{path} is no kit: it has no {MANIFEST}") from None
    except ValidationError as error:
        raise LangmergeError(f"{path} is no kit of this version: {readable(error)}") from None
    if manifest.format != FORMAT:
        raise LangmergeError(
            f"{path} has the format {manifest.format}, and {FORMAT} is read here: take the kit "
            f"that was made with langmerge {__version__}"
        )
    names = archive.namelist()
    if sorted(names) != sorted([MANIFEST, *manifest.files]):
        raise LangmergeError(
            f"{path} does not hold exactly the files that it lists: fetch it again"
        )
    for name in names:
        if not _is_safe(name):
            raise LangmergeError(f"{path} has a file named {name!r}, which is no part of a kit")
    return manifest


def _is_safe(name: str) -> bool:
    """Whether a name stays where a kit's files go: ``store/<stage>/<key>/x`` or ``bases/x/y``."""
    parts = PurePosixPath(name).parts
    if name == MANIFEST:
        return True
    plain = "\\" not in name and ":" not in name and not {"..", "."} & set(name.split("/"))
    in_store = len(parts) == 4 and parts[0] == "store" and parts[1] in store.VERSIONS
    return plain and (in_store or (len(parts) == 3 and parts[0] == "bases"))


def _require_same(manifest: Manifest, path: Path) -> None:
    """Raise LangmergeError where the kit's entries would not be found: all their keys differ."""
    differs = [what for what, (theirs, ours) in _here(manifest).items() if theirs != ours]
    if differs:
        raise LangmergeError(
            f"{path} was made with another {' and another '.join(differs)} than there is here "
            f"(langmerge {manifest.langmerge} there, {__version__} here), so that nothing in it "
            "would be found: take the kit of this version, or the version of this kit"
        )


def _here(manifest: Manifest) -> dict[str, tuple[object, object]]:
    """What the keys of the entries depend on: the kit's, and what is here."""
    plan = profiles.load(manifest.profile, languages=[manifest.language], seeds=manifest.seeds)
    base = base_module.load().hash
    return {
        "version of its stages": (manifest.stages, store.VERSIONS),
        f"profile {manifest.profile}": (manifest.plan, _stated(plan)),
        **{
            f"language file {code}": (text, experts.fingerprint(code))
            for code, text in manifest.texts.items()
        },
        "base": (manifest.bases.get("kit", base), base),
    }


def _unpack(archive: zipfile.ZipFile, manifest: Manifest, scratch: Path, path: Path) -> None:
    """Write every file under `scratch`, comparing its hash."""
    for name, expected in manifest.files.items():
        target = scratch / name
        target.parent.mkdir(parents=True, exist_ok=True)
        sha = hashlib.sha256()
        with archive.open(name) as source, target.open("wb") as into:
            while block := source.read(_BLOCK):
                sha.update(block)
                into.write(block)
        if sha.hexdigest() != expected:
            raise LangmergeError(f"{path}: {name} is damaged. Fetch the kit again.")


def _install(scratch: Path) -> None:
    """Give every entry and base its place, unless it has a whole one already."""
    for folder in sorted([*scratch.glob("store/*/*"), *scratch.glob("bases/*")]):
        place = paths.home() / folder.relative_to(scratch)
        if folder.parent.name == "bases":
            whole = (place / "base.json").is_file()
        else:
            whole = place.is_dir() and store.damage_of(place) is None
        if whole or place.name == "kit":
            continue
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(folder, place)


def _entries(manifest: Manifest, stages: tuple[str, ...]) -> set[str]:
    names = (PurePosixPath(name) for name in manifest.files)
    return {
        str(name.parent) for name in names if name.parts[0] == "store" and name.parts[1] in stages
    }
