"""The lab's base model: made once by ``langmerge base``, shipped in ``data/base``.

The base is given, as Llama 2 is given to the paper: every study starts from the shipped
files. ``build`` makes them again from the recipe; killed, it goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from transformers import LlamaConfig, PreTrainedTokenizerFast

from langmerge import allocator, corpus, languages, model, paths, tokenizer, train
from langmerge.errors import LangmergeError, nearest, readable
from langmerge.files import read_yaml, sha256, write_text
from langmerge.model import StateDict
from langmerge.world import concepts

FILES = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")
#: Beside a base: how each language stands after English fine-tuning alone (`readiness.check`).
READINESS = "readiness.csv"
#: Tasks on which a language has to start between chance and ceiling to be worth a study.
NEEDED = 2


class Trace(BaseModel):
    """How much of each language the base meets, and in which kinds of document."""

    model_config = ConfigDict(extra="forbid")
    share: float = Field(gt=0, lt=1)
    modes: dict[corpus.Mode, float]
    languages: list[str]

    @field_validator("languages")
    @classmethod
    def _known_and_once(cls, codes: list[str]) -> list[str]:
        for code in codes:
            if code == "eng_Latn" or codes.count(code) > 1:
                raise ValueError(f"{code} is in the mixture twice (eng_Latn takes what is left)")
            languages.load(code)
        return codes


class BaseRecipe(BaseModel):
    """The recipe of the base: ``data/base_recipe.yaml``."""

    model_config = ConfigDict(extra="forbid")
    seed: int
    vocab_size: int = Field(le=2**16)  # tokens are kept as uint16
    architecture: dict[str, int]
    tokens: int
    sequence: int
    batch: int
    learning_rate: float
    schedule: str
    warmup_steps: int
    weight_decay: float
    tokenizer_documents: int
    trace: Trace

    @model_validator(mode="after")
    def _leaves_room_for_english(self) -> BaseRecipe:
        if self.quotas()["eng_Latn"] <= 0:
            raise ValueError(
                f"a share of {self.trace.share} for each of {len(self.trace.languages)} "
                "languages leaves nothing for English"
            )
        return self

    def quotas(self) -> dict[str, int]:
        """Tokens per language, English taking what the traces leave."""
        each = int(self.tokens * self.trace.share)
        traces = {language: each for language in self.trace.languages}
        return {"eng_Latn": self.tokens - sum(traces.values())} | traces


def recipe(path: Path | None = None) -> BaseRecipe:
    """The shipped recipe, or the one in another file.

    Raises LangmergeError, naming the file and the key, where it is missing or makes no sense.
    """
    path = path or paths.data() / "base_recipe.yaml"
    if not path.is_file():
        raise LangmergeError(f"no recipe of a base in {path}")
    raw = read_yaml(path)
    try:
        return BaseRecipe.model_validate(raw)
    except ValidationError as error:
        raise LangmergeError(f"{path}: {readable(error)}") from None
    except LangmergeError as error:  # a language that is unknown or not valid
        raise LangmergeError(f"{path}: {error}") from None


def documents(how: BaseRecipe, language: str, stream: int) -> Iterator[str]:
    """A language's endless documents in the base's mixture; streams differ, languages do not."""
    return spoken(how, languages.load(language), stream)


def spoken(how: BaseRecipe, language: languages.Language, stream: int) -> Iterator[str]:
    """`documents` in a language that need not be in its place yet."""
    rng = np.random.default_rng([how.seed, stream, *map(ord, language.code)])
    modes = None if language.code == "eng_Latn" else how.trace.modes
    return corpus.spoken(language, rng, modes)


def make_tokenizer(how: BaseRecipe) -> PreTrainedTokenizerFast:
    """Train the tokenizer on a sample of the mixture (documents in the quotas' proportions)."""
    quotas = how.quotas()
    texts = (
        text
        for language, quota in quotas.items()
        for text in islice(
            documents(how, language, stream=1),
            round(how.tokenizer_documents * quota / how.tokens),
        )
    )
    return tokenizer.train(texts, how.vocab_size)


def make_rows(how: BaseRecipe, tok: PreTrainedTokenizerFast) -> np.ndarray:
    """The base's training data: documents of all parts, shuffled and packed (rows × sequence)."""
    parts = [
        ids
        for language, quota in how.quotas().items()
        for ids in tokenizer.take_tokens(tok, documents(how, language, stream=2), quota)
    ]
    return shuffle(how, parts, stream=3)


def shuffle(how: BaseRecipe, documents: list[np.ndarray], stream: int) -> np.ndarray:
    """Tokenized documents in random order, packed (rows × sequence)."""
    order = np.random.default_rng([how.seed, stream]).permutation(len(documents))
    return tokenizer.pack([documents[i] for i in order], how.sequence)


def build(
    out: Path | None = None,
    recipe_file: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    seed: int | None = None,
) -> Path:
    """Train the base from its recipe and put it into `out` (default: ``paths.base()``).

    Deterministic on one machine and resumable: training state is kept beside the store and
    removed when the base is finished. progress is called with (step, steps). seed: in place of
    the recipe's, for another base of the same kind.
    """
    how = recipe(recipe_file)
    if seed is not None:
        how = how.model_copy(update={"seed": seed})
    return _build(how, out or paths.base(), progress)


def rebuild(name: str, progress: Callable[[int, int], None] | None = None) -> Path:
    """Train a base that does not ship by the recipe that is known of it, as one of the user's own.

    Other cores than its first ones (a GPU) give another base, known by another hash. Raises
    LangmergeError where nothing is known of it.
    """
    return _build(known(name).recipe, new_folder(name), progress)


def _build(how: BaseRecipe, out: Path, progress: Callable[[int, int], None] | None) -> Path:
    """Train a base, or go on with it, and put it into place with its card."""
    # The card measures the finished base, and so imports this module.
    from langmerge import model_card

    work = paths.home() / "base" / _digest(how)
    work.mkdir(parents=True, exist_ok=True)
    finished = work / "finished"
    if not finished.exists():
        _train(how, work, progress).rename(finished)
    publish(finished, out, how)
    model_card.write(out, how)
    shutil.rmtree(work)
    return out


def _digest(how: BaseRecipe) -> str:
    """Names the unfinished training state: what is trained, and on which language files."""
    parts = [how.model_dump_json(), concepts().model_dump_json(exclude={"core"})]
    parts += [json.dumps(languages.load(code).spoken()) for code in how.quotas()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _train(how: BaseRecipe, work: Path, progress: Callable[[int, int], None] | None) -> Path:
    """Train in `work`; the folder of the model and its tokenizer there."""
    tok = make_tokenizer(how)
    rows = make_rows(how, tok)
    settings = train.Recipe(
        steps=len(rows) // how.batch,
        batch=how.batch,
        learning_rate=how.learning_rate,
        schedule=how.schedule,
        warmup_steps=how.warmup_steps,
        weight_decay=how.weight_decay,
    )
    report = (lambda step: progress(step, settings.steps)) if progress else None
    net = model.new(model.config(vocab_size=len(tok), **how.architecture), how.seed)
    allocator.keep_freed()
    train.fit(net, train.Rows(rows), settings, progress=report, resume_folder=work)
    trained = work / "trained"
    tok.save_pretrained(trained)
    net.save_pretrained(trained)
    return trained


def publish(
    folder: Path, out: Path, how: BaseRecipe, extended: dict[str, Any] | None = None
) -> None:
    """Put a finished base's files into place and write its manifest with their hashes.

    extended: for a base that went on from another, that one's hash (``parent``), what was met
        since (``languages``, ``tokens`` by language), and which of it may be studied (``ready``).
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        # Copied, because `out` may be on another disk; under another name, to be whole or absent.
        shutil.copyfile(folder / name, out / f"{name}.tmp")
        (out / f"{name}.tmp").chmod(0o644)  # safetensors leaves its files to their owner alone
        os.replace(out / f"{name}.tmp", out / name)
    manifest = {
        "recipe": how.model_dump(),
        "tokens": how.quotas(),
        "sha256": {name: sha256(out / name) for name in FILES},
    }
    if extended:
        manifest["extended"] = extended
    write_text(out / "base.json", json.dumps(manifest, indent=1) + "\n")
    _load.cache_clear()


@dataclass(frozen=True, eq=False)
class Base:
    """A base that a study starts from: weights, tokenizer and what it has met."""

    folder: Path
    hash: str
    sha256: dict[str, str]  # of every file, by name
    languages: tuple[str, ...]  # the targets that it has met
    recipe: BaseRecipe
    extended: dict[str, Any]  # as `publish` writes it; empty for a base from scratch
    architecture: LlamaConfig
    weights: StateDict
    tokenizer: PreTrainedTokenizerFast

    def require(self, language: str) -> None:
        """Raise LangmergeError where this base has not met the language as a target."""
        if language == "eng_Latn":
            raise LangmergeError(
                "eng_Latn is the language of the instructions, no target to merge for: choose "
                f"one of {', '.join(self.languages)}"
            )
        if language not in self.languages:
            raise NotMet(
                f"the base has not met {language}: it holds a trace of "
                f"{', '.join(self.languages)}. Experts trained from it would start from bytes. "
                f"Let it meet the language first, which takes some ten minutes: "
                f"`langmerge base extend --language {language}`."
            )

    def between(self, language: str) -> list[str] | None:
        """The tasks on which a language starts between chance and ceiling; None if not measured."""
        its = self.standing(language)
        return None if its is None else list(its.loc[its["standing"] == "between", "task"])

    def standing(self, language: str) -> pd.DataFrame | None:
        """How English SFT alone does in a language, as `readiness.check` gives; None as above."""
        path = self.folder / READINESS
        if not path.is_file():
            return None
        table = pd.read_csv(path)
        its = table[table["language"] == language]
        return its if len(its) else None

    def require_ready(self, language: str) -> None:
        """Raise LangmergeError where an extension did not bring its language above chance."""
        if language not in self.extended.get("ready", []):
            raise LangmergeError(
                f"{self.folder.name} has met {language}, but English fine-tuning alone is between "
                f"chance and the ceiling there on fewer than {NEEDED} tasks "
                f"({self.folder / READINESS}): a study would be one of noise, or have nothing to "
                "gain. Where it is at chance, give the extension more tokens in "
                f"{paths.data() / 'base_extension.yaml'} and extend again, or put the language "
                "into the base's own trace. To study it all the same, name the base in a "
                f"profile: `bases: [{self.folder.name}]`."
            )


class NotMet(LangmergeError):
    """A language that a base has not met, and no extension of it either."""


def folder_of(name: str) -> Path:
    """The folder of a base by its name: ``base`` is the one that studies start from by default.

    Others lie under ``bases/``: the reader's own (another base seed, an extension) in the home
    folder, which comes first, and those of the reference runs in the data.
    """
    if name == "base":
        return paths.base()
    folder = new_folder(name)
    if not folder.is_dir():
        shipped = _shipped(name)
        if (shipped / "model.safetensors").is_file():
            return shipped
        if is_known_alone(name):
            raise LangmergeError(
                f"the base {name} does not ship, only what is known of it ({shipped}) and "
                "results of it. One like it: "
                f"`langmerge base --name {name} --recipe FILE`, where README.md there has the "
                "recipe, or `langmerge reference --train-bases` for all of a profile; results of "
                "that one will not be pooled with the shipped ones."
            )
        if (recipe_of_it := paths.data() / f"base_recipe_{name}.yaml").is_file():
            raise LangmergeError(
                f"the base {name} has not been trained here: `langmerge base --name {name} "
                f"--recipe {recipe_of_it}` does so, in about half an hour."
            )
        there = [path.name for path in (paths.home() / "bases").glob("*")]
        there += [path.parent.name for path in _further().glob("*/base.json")]
        raise LangmergeError(
            f"no base {name!r}: {nearest(name, ['base', *there])}. `langmerge base --name {name}` "
            "trains a new one, from the seed and recipe that you give."
        )
    return folder


def new_folder(name: str) -> Path:
    """Where a base of the user's own lies, or will. Raises LangmergeError for a name that is none.

    ``base`` is the shipped one's, and ``+`` is for what an extension has met since.
    """
    if not re.fullmatch(r"[\w+-]+", name) or name == "base":
        raise LangmergeError(f"{name!r} cannot name a base: letters, digits, - and _ can.")
    return paths.home() / "bases" / name


def _further() -> Path:
    """Where the bases of the reference runs ship beside the one that studies start from."""
    return paths.data() / "bases"


def _shipped(name: str) -> Path:
    """Where what ships of a further base lies: all of it, or the manifest of a too large one."""
    return _further() / name


@dataclass(frozen=True)
class Known:
    """What is known of a base without its weights: its folder, hash and recipe."""

    folder: Path
    hash: str
    recipe: BaseRecipe


def known(name: str) -> Known:
    """What is known of a base by its name, of one too whose manifest alone ships.

    Raises LangmergeError where there is neither.
    """
    if is_known_alone(name):
        told = json.loads((_shipped(name) / "base.json").read_text(encoding="utf-8"))
        recipe_of_it = BaseRecipe.model_validate(told["recipe"])
        return Known(_shipped(name), _digest_of(told["sha256"]), recipe_of_it)
    found = load(folder_of(name))
    return Known(found.folder, found.hash, found.recipe)


def hash_of(name: str, language: str) -> str:
    """The hash of the base that `meeting` gives, which results are known by."""
    if not is_known_alone(name):
        return meeting(name, language).hash
    its = known(name)
    if language not in its.recipe.trace.languages:
        raise NotMet(f"the base {name} has not met {language}")
    return its.hash


def is_known_alone(name: str) -> bool:
    """Whether of a base a manifest alone is there, and none of the user's own of that name."""
    if name == "base" or new_folder(name).is_dir():
        return False
    folder = _shipped(name)
    return (folder / "base.json").is_file() and not (folder / "model.safetensors").is_file()


def _digest_of(hashes: dict[str, str]) -> str:
    """What a base is known by: the hashes of its files as one."""
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:12]


def meeting(name: str, language: str) -> Base:
    """The base of that name, or its extension that has met the language.

    Raises LangmergeError where there is none, naming the command that makes one.
    """
    base = load(folder_of(name))
    if language in base.languages:
        return base
    for folder in sorted((paths.home() / "bases").glob(f"{name}+*")):
        found = load(folder)
        if found.extended.get("parent") == base.hash and language in found.languages:
            found.require_ready(language)
            return found
    base.require(language)
    raise AssertionError(language)


_MEND = "Restore it with git or make the base again with `python -m langmerge base`."


def load(folder: Path | None = None) -> Base:
    """The base that studies start from (or the one in a folder), checked against its hashes.

    Read once per process. Raises LangmergeError where a file is missing or damaged.
    """
    return _load(folder or paths.base())


@cache
def _load(folder: Path) -> Base:
    manifest = _manifest(folder)
    net, tok = model.load_pretrained(folder)
    extended = manifest.get("extended", {})
    languages_met = (*manifest["recipe"]["trace"]["languages"], *extended.get("languages", []))
    return Base(
        folder=folder,
        hash=_digest_of(manifest["sha256"]),
        sha256=manifest["sha256"],
        languages=languages_met,
        recipe=BaseRecipe.model_validate(manifest["recipe"]),
        extended=extended,
        architecture=net.config,
        weights=model.state(net),
        tokenizer=tok,
    )


def _manifest(folder: Path) -> dict:
    """The manifest ``base.json``, after a check of every file that it names."""
    path = folder / "base.json"
    if not path.is_file():
        raise LangmergeError(f"no base in {folder}: make it with `python -m langmerge base`")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        hashes = dict(manifest["sha256"])
    except (ValueError, KeyError, TypeError):
        raise LangmergeError(f"{path} is corrupted: it is no manifest of a base. {_MEND}") from None
    for name, expected in hashes.items():
        if not (folder / name).is_file():
            raise LangmergeError(f"{folder / name} is missing. {_MEND}")
        if (found := sha256(folder / name)) != expected:
            raise LangmergeError(
                f"{folder / name} is corrupted: its SHA-256 is {found[:12]}…, the manifest says "
                f"{expected[:12]}…. {_MEND}"
            )
    return manifest
