"""The lab's base model: made once by ``langmerge base``, shipped in ``data/base``.

The base is given, as Llama 2 is given to the paper: every study starts from the shipped
files. ``build`` makes them again from the recipe; killed, it goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from transformers import LlamaConfig, PreTrainedTokenizerFast

from langmerge import corpus, model, paths, tokenizer, train
from langmerge.errors import LangmergeError
from langmerge.files import sha256, write_text
from langmerge.model import StateDict

FILES = ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json")


class Trace(BaseModel):
    """How much of each language the base meets, and in which kinds of document."""

    model_config = ConfigDict(extra="forbid")
    share: float
    modes: dict[corpus.Mode, float]
    languages: list[str]


class BaseRecipe(BaseModel):
    """The recipe of the base: ``data/base_recipe.yaml``."""

    model_config = ConfigDict(extra="forbid")
    seed: int
    vocab_size: int
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

    def quotas(self) -> dict[str, int]:
        """Tokens per language, English taking what the traces leave."""
        each = int(self.tokens * self.trace.share)
        traces = {language: each for language in self.trace.languages}
        return {"eng_Latn": self.tokens - sum(traces.values())} | traces


def recipe(path: Path | None = None) -> BaseRecipe:
    """The shipped recipe, or the one in another file."""
    path = path or paths.data() / "base_recipe.yaml"
    try:
        return BaseRecipe.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (ValidationError, yaml.YAMLError) as error:
        raise LangmergeError(f"{path}: {error}") from None


def _documents(how: BaseRecipe, language: str, stream: int) -> Iterator[str]:
    rng = np.random.default_rng([how.seed, stream, *map(ord, language)])
    modes = None if language == "eng_Latn" else how.trace.modes
    return corpus.documents(language, rng, modes)


def make_tokenizer(how: BaseRecipe) -> PreTrainedTokenizerFast:
    """Train the tokenizer on a sample of the mixture (documents in the quotas' proportions)."""
    quotas = how.quotas()
    texts = (
        text
        for language, quota in quotas.items()
        for text in islice(
            _documents(how, language, stream=1),
            round(how.tokenizer_documents * quota / how.tokens),
        )
    )
    return tokenizer.train(texts, how.vocab_size)


def make_rows(how: BaseRecipe, tok: PreTrainedTokenizerFast) -> np.ndarray:
    """The base's training data: documents of all parts, shuffled and packed (rows × sequence)."""
    documents = [
        ids
        for language, quota in how.quotas().items()
        for ids in tokenizer.take_tokens(tok, _documents(how, language, stream=2), quota)
    ]
    order = np.random.default_rng([how.seed, 3]).permutation(len(documents))
    return tokenizer.pack([documents[i] for i in order], how.sequence)


def build(
    out: Path | None = None,
    recipe_file: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Train the base from its recipe and put it into `out` (default: ``data/base``).

    Deterministic on one machine and resumable: training state is kept beside the store and
    removed when the base is finished. progress is called with (step, steps).
    """
    how = recipe(recipe_file)
    out = out or paths.data() / "base"
    digest = hashlib.sha256(how.model_dump_json().encode()).hexdigest()[:12]
    work = paths.home() / "base" / digest
    work.mkdir(parents=True, exist_ok=True)
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
    train.fit(net, train.Rows(rows), settings, progress=report, resume_folder=work)
    finished = work / "finished"
    shutil.rmtree(finished, ignore_errors=True)
    tok.save_pretrained(finished)
    net.save_pretrained(finished)
    publish(finished, out, how)
    shutil.rmtree(work)
    return out


def publish(folder: Path, out: Path, how: BaseRecipe) -> None:
    """Move a finished base's files into place and write its manifest with their hashes."""
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        os.replace(folder / name, out / name)
    manifest = {
        "recipe": how.model_dump(),
        "tokens": how.quotas(),
        "sha256": {name: sha256(out / name) for name in FILES},
    }
    write_text(out / "base.json", json.dumps(manifest, indent=1) + "\n")


@dataclass(frozen=True)
class Base:
    """A base that a study starts from: weights, tokenizer and what it has met."""

    folder: Path
    hash: str
    languages: tuple[str, ...]
    architecture: LlamaConfig
    weights: StateDict
    tokenizer: PreTrainedTokenizerFast

    def require(self, language: str) -> None:
        """Raise LangmergeError where this base has not met the language."""
        if language not in self.languages:
            raise LangmergeError(
                f"the base has not met {language}: it holds a trace of "
                f"{', '.join(self.languages)}. Experts trained from it would start from bytes. "
                "Add the language to data/base_recipe.yaml and run `python -m langmerge base`."
            )


@cache
def load(folder: Path | None = None) -> Base:
    """The shipped base (or the one in another folder), its files checked against their hashes."""
    folder = folder or paths.data() / "base"
    if not (folder / "base.json").is_file():
        raise LangmergeError(f"no base in {folder}: make it with `python -m langmerge base`")
    manifest = json.loads((folder / "base.json").read_text(encoding="utf-8"))
    for name, expected in manifest["sha256"].items():
        if not (folder / name).is_file():
            raise LangmergeError(
                f"{folder / name} is missing: restore it with git or run `python -m langmerge base`"
            )
        if (found := sha256(folder / name)) != expected:
            raise LangmergeError(
                f"{folder / name} is corrupted: its SHA-256 is {found[:12]}…, the manifest says "
                f"{expected[:12]}…. Restore it with git or run `python -m langmerge base`."
            )
    net, tok = model.load_pretrained(folder)
    digest = hashlib.sha256(json.dumps(manifest["sha256"], sort_keys=True).encode()).hexdigest()
    return Base(
        folder=folder,
        hash=digest[:12],
        languages=tuple(manifest["recipe"]["trace"]["languages"]),
        architecture=net.config,
        weights=model.state(net),
        tokenizer=tok,
    )
