"""A language that the base has never met: `langmerge base extend`.

The tokenizer gets tokens for the language behind those that it has, each of which starts as
the mean of the tokens it is made of. Then the base's training goes on for a short while, on the
language's trace, some times as many documents as a shipped language's has, and on a rehearsal of
the whole mixture, so that the others are not forgotten; how much they lose is measured.
The result is a base of its own hash, from which both experts are trained anew.
"""

from __future__ import annotations

import copy
import hashlib
import shutil
import statistics
from collections.abc import Callable
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict, Field
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from langmerge import allocator, languages, model, model_card, paths, readiness, tokenizer, train
from langmerge import base as base_module
from langmerge.base import Base
from langmerge.errors import LangmergeError
from langmerge.files import read_yaml_as, write_text
from langmerge.languages import Language

# The base itself is made of streams 1 and 2.
STREAM = 5
#: Steps between two saves: a killed extension loses half a minute of work.
SAVE_STEPS = 100


class Extension(BaseModel):
    """The recipe of an extension: ``data/base_extension.yaml``.

    vocabulary: new tokens for each language. exposure: how many times the documents that the base
    met of a shipped language it meets of a new one, all of them new; there is less time to learn
    from them. rehearsal: the power to which the mixture's shares are raised in the rehearsal, as
    in the sampling of multilingual text (Conneau and Lample, 2019): below 1 it is less of English,
    which forgets the least. tolerance: how much a language that the base had met may lose, as a
    share of its bits per byte.
    """

    model_config = ConfigDict(extra="forbid")
    tokens: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    vocabulary: int = Field(ge=0)
    exposure: int = Field(gt=0)
    rehearsal: float = Field(ge=0, le=1)
    tolerance: float = Field(ge=0)


def recipe() -> Extension:
    """The shipped recipe; raises LangmergeError where it makes no sense."""
    return read_yaml_as(Extension, paths.data() / "base_extension.yaml")


def extend(
    codes: list[str],
    name: str = "base",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Path, pd.DataFrame, pd.DataFrame]:
    """Let a base meet more languages: the new base's folder, how it does in them and in others.

    The folder is ``bases/<name>+<codes>`` in the home folder; studies of these languages find
    it there. How English fine-tuning carries over to them is measured (`readiness.check`), and
    what the rehearsed languages lose (`losses`).

    codes: FLORES codes that the base has not met. name: the base to extend (`base.folder_of`).
    Deterministic on one machine, and resumable. Raises LangmergeError for a language that the
    base has met, and where the language's documents would leave no room for the rehearsal.
    """
    parent = base_module.load(base_module.folder_of(name))
    _check(parent, codes)
    new = f"{name}+{'+'.join(codes)}"
    work = paths.home() / "base" / f"{new}-{_digest(parent, codes)}"
    work.mkdir(parents=True, exist_ok=True)
    finished = work / "finished"
    if not finished.exists():
        _train(parent, codes, work, progress).rename(finished)
    out = paths.home() / "bases" / new
    tok, _ = grown_tokenizer(parent, [languages.load(code) for code in codes])
    tokens = {code: sum(map(len, trace(parent, tok, code))) for code in codes}
    extended = {"parent": parent.hash, "languages": codes, "tokens": tokens}
    base_module.publish(finished, out, parent.recipe, extended)
    standing = readiness.check(base_module.load(out), codes)
    by_language = standing.groupby("language")
    ready = [code for code in codes if readiness.is_ready(by_language.get_group(code))]
    base_module.publish(finished, out, parent.recipe, extended | {"ready": ready})
    model_card.write(out, parent.recipe)
    lost = losses(parent, base_module.load(out))
    write_text(out / "losses.csv", lost.to_csv(index=False))
    shutil.rmtree(work)
    return out, standing, lost


def _digest(parent: Base, codes: list[str]) -> str:
    """Names the unfinished training state: another recipe or text must not go on from it."""
    parts = [parent.hash, recipe().model_dump_json()]
    parts += [languages.load(code).spoken() for code in codes]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def losses(parent: Base, extended: Base) -> pd.DataFrame:
    """What the languages that a base had met lose by its extension, one row each.

    Columns: language, before and after (bits per byte of held-out text), loss (their ratio less
    one) and within (whether that is within the recipe's tolerance).
    """
    rows = []
    for code in parent.recipe.quotas():
        before, after = (model_card.measure(base, code)["text"] for base in (parent, extended))
        rows.append({"language": code, "before": before, "after": after})
    found = pd.DataFrame(rows)
    found["loss"] = found["after"] / found["before"] - 1
    found["within"] = found["loss"] <= recipe().tolerance
    return found


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
        if codes.count(code) > 1:
            raise LangmergeError(f"{code} is named twice: name each language once")
        if code == "eng_Latn" or code in parent.languages:
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


def grown_tokenizer(
    parent: Base, new: list[Language]
) -> tuple[PreTrainedTokenizerFast, list[list[int]]]:
    """A base's tokenizer with tokens for new languages, and what each of those is made of."""
    texts = [text for language in new for text in _texts(parent, language)]
    more = recipe().vocabulary * len(new)
    tok = parent.tokenizer
    for language in new:
        if language.word_separator != " ":
            tok = tokenizer.without_space_before(tok, language.letters())
    return tokenizer.grow(tok, texts, min(more, 2**16 - len(tok)))


def trace(parent: Base, tok: PreTrainedTokenizerFast, code: str) -> list[np.ndarray]:
    """The tokenized documents of a new language's trace."""
    return list(tokenizer.encode_stream(tok, _texts(parent, languages.load(code))))


def _texts(parent: Base, language: Language) -> list[str]:
    documents = exposure(parent) * recipe().exposure
    return list(islice(base_module.spoken(parent.recipe, language, STREAM), documents))


def make_rows(parent: Base, tok: PreTrainedTokenizerFast, codes: list[str]) -> np.ndarray:
    """The new languages' traces among the rehearsed mixture, shuffled and packed."""
    how = parent.recipe
    parts = [ids for code in codes for ids in trace(parent, tok, code)]
    taken = sum(map(len, parts))
    asked = recipe().tokens
    left = asked - taken
    if left < asked / 4:
        raise LangmergeError(
            f"{', '.join(codes)}: {taken:,} tokens of new text leave too little of the "
            f"{asked:,} of an extension for rehearsal: extend with fewer "
            "languages at once."
        )
    shares = {code: quota ** recipe().rehearsal for code, quota in how.quotas().items()}
    for code, share in shares.items():
        texts = base_module.documents(how, code, STREAM)
        parts += tokenizer.take_tokens(tok, texts, int(left * share / sum(shares.values())))
    return base_module.shuffle(how, parts, STREAM)


def _train(
    parent: Base, codes: list[str], work: Path, progress: Callable[[int, int], None] | None
) -> Path:
    """Train in `work`; the folder of the model and its tokenizer there."""
    how = parent.recipe
    tok, pieces = grown_tokenizer(parent, [languages.load(code) for code in codes])
    rows = make_rows(parent, tok, codes)
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
    net = _grown_model(parent, pieces).train()
    data = train.Rows(rows)
    allocator.keep_freed()
    train.fit(net, data, settings, progress=report, resume_folder=work, save_steps=SAVE_STEPS)
    trained = work / "trained"
    tok.save_pretrained(trained)
    net.save_pretrained(trained)
    return trained


def _grown_model(parent: Base, pieces: list[list[int]]) -> LlamaForCausalLM:
    """The parent with a row of the embedding for each new token: the mean of its pieces'."""
    net = model.with_state(copy.deepcopy(parent.architecture), parent.weights)
    if pieces:
        old = parent.weights["model.embed_tokens.weight"]
        net.resize_token_embeddings(len(old) + len(pieces), mean_resizing=False)
        with torch.no_grad():
            rows = torch.stack([old[its].mean(dim=0) for its in pieces])
            net.get_input_embeddings().weight[len(old) :] = rows
    return net
