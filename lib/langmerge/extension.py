"""A language that the base has never met: `langmerge base extend`.

The base's training goes on for a short while, on the language's trace and on a rehearsal of
the whole mixture, so that the others are not forgotten. The tokenizer stays, and so the new
language pays the full tokenization tax; its exposure is therefore counted in documents, as
many as a shipped language's trace has, whatever they cost in tokens.
The result is a base of its own hash, from which both experts are trained anew.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from langmerge import base as base_module
from langmerge import languages, model, model_card, paths, readiness, tokenizer, train
from langmerge.base import Base
from langmerge.errors import LangmergeError
from langmerge.files import read_yaml_as, write_text

# The base itself is made of streams 1 and 2.
STREAM = 5


class Extension(BaseModel):
    """The recipe of an extension: ``data/base_extension.yaml``."""

    model_config = ConfigDict(extra="forbid")
    tokens: int = Field(gt=0)
    learning_rate: float = Field(gt=0)


def recipe() -> Extension:
    """The shipped recipe; raises LangmergeError where it makes no sense."""
    return read_yaml_as(Extension, paths.data() / "base_extension.yaml")


def extend(
    codes: list[str],
    name: str = "base",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Path, pd.DataFrame]:
    """Let a base meet more languages: the new base's folder, and how it does in them.

    The folder is ``bases/<name>+<codes>`` in the home folder; studies of these languages find
    it there. How English fine-tuning carries over to them is measured (`readiness.check`).

    codes: FLORES codes that the base has not met. name: the base to extend (`base.folder_of`).
    Deterministic on one machine, and resumable. Raises LangmergeError for a language that the
    base has met, and where the language's documents would leave no room for the rehearsal.
    """
    parent = base_module.load(base_module.folder_of(name))
    _check(parent, codes)
    new = f"{name}+{'+'.join(codes)}"
    work = paths.home() / "base" / f"{new}-{parent.hash}"
    work.mkdir(parents=True, exist_ok=True)
    finished = work / "finished"
    if not finished.exists():
        _train(parent, codes, work, progress).rename(finished)
    out = paths.home() / "bases" / new
    tokens = {code: sum(map(len, trace(parent, code))) for code in codes}
    extended = {"parent": parent.hash, "languages": codes, "tokens": tokens}
    base_module.publish(finished, out, parent.recipe, extended)
    standing = readiness.check(base_module.load(out), codes)
    by_language = standing.groupby("language")
    ready = [code for code in codes if readiness.is_ready(by_language.get_group(code))]
    write_text(out / "readiness.csv", standing.to_csv(index=False))
    base_module.publish(finished, out, parent.recipe, extended | {"ready": ready})
    model_card.write(out, parent.recipe)
    shutil.rmtree(work)
    return out, standing


def _check(parent: Base, codes: list[str]) -> None:
    if parent.extended:
        raise LangmergeError(
            f"{parent.folder.name} is an extension already: extend the base it came from, with all "
            "the languages at once."
        )
    if not codes:
        raise LangmergeError("no language to extend the base with: name one with --language")
    for code in codes:
        languages.load(code)
        if code == "eng_Latn" or code in parent.languages or codes.count(code) > 1:
            raise LangmergeError(
                f"{code}: the base has met it already; its targets are "
                f"{', '.join(parent.languages)}"
            )


@cache
def exposure(parent: Base) -> int:
    """Documents that a base met of one of its trace languages (the median over them)."""
    how = parent.recipe
    quotas = how.quotas()
    return round(
        statistics.median(
            len(
                tokenizer.take_tokens(
                    parent.tokenizer, base_module.documents(how, code, stream=2), quotas[code]
                )
            )
            for code in how.trace.languages
        )
    )


def trace(parent: Base, code: str) -> list[np.ndarray]:
    """The tokenized documents of a new language's trace."""
    texts = islice(base_module.documents(parent.recipe, code, STREAM), exposure(parent))
    return list(tokenizer.encode_stream(parent.tokenizer, texts))


def make_rows(parent: Base, codes: list[str]) -> np.ndarray:
    """The new languages' traces among the rehearsed mixture, shuffled and packed."""
    how, tok = parent.recipe, parent.tokenizer
    parts = [ids for code in codes for ids in trace(parent, code)]
    taken = sum(map(len, parts))
    asked = recipe().tokens
    left = asked - taken
    if left < asked / 4:
        raise LangmergeError(
            f"{', '.join(codes)}: {taken:,} tokens of new text leave too little of the "
            f"{asked:,} of an extension for rehearsal: extend with fewer "
            "languages at once."
        )
    for code, quota in how.quotas().items():
        texts = base_module.documents(how, code, STREAM)
        parts += tokenizer.take_tokens(tok, texts, int(left * quota / how.tokens))
    return base_module.shuffle(how, parts, STREAM)


def _train(
    parent: Base, codes: list[str], work: Path, progress: Callable[[int, int], None] | None
) -> Path:
    """Train in `work`; the folder of the model and its tokenizer there."""
    how = parent.recipe
    rows = make_rows(parent, codes)
    steps = len(rows) // how.batch
    settings = train.Recipe(
        steps=steps,
        batch=how.batch,
        learning_rate=recipe().learning_rate,
        schedule=how.schedule,
        warmup_steps=min(how.warmup_steps, steps // 10),
        weight_decay=how.weight_decay,
    )
    report = (lambda step: progress(step, steps)) if progress else None
    net = model.with_state(parent.architecture, parent.weights).train()
    train.fit(net, train.Rows(rows), settings, progress=report, resume_folder=work)
    trained = work / "trained"
    parent.tokenizer.save_pretrained(trained)
    net.save_pretrained(trained)
    return trained
