"""The experts of the study: continual pre-training, fine-tuning, and one after the other.

Each is a stage of the store: trained once for its specification, found again afterwards.
An expert is known to later stages by the hash of its weights.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from langmerge import corpus, model, tasks, tokenizer, train
from langmerge.base import Base
from langmerge.files import sha256
from langmerge.languages import load
from langmerge.model import StateDict
from langmerge.profiles import ContinualPretraining, Finetuning
from langmerge.realize import Realizer
from langmerge.store import Store
from langmerge.world import concepts


@dataclass(frozen=True)
class Expert:
    """A trained model on disk."""

    path: Path
    sha256: str

    def weights(self) -> StateDict:
        """Its weights, fp32."""
        return model.read(self.path)


@cache
def fingerprint(language: str) -> str:
    """The hash of everything a language's text depends on: its words, templates and the concepts.

    What a file says about its words (who wrote, reviewed or attested them, which corpora there
    are beside) changes no text, and the core is told by the words that a file has.
    """
    text = load(language).spoken() + concepts().model_dump_json(exclude={"core"})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def continual_pretrain(
    store: Store,
    base: Base,
    language: str,
    seed: int,
    settings: ContinualPretraining,
    budgets: list[int],
    only_find: bool = False,
) -> dict[int, Expert] | None:
    """The CT experts of one run by their budget in tokens (checkpoints of the same run).

    A budget's expert does not depend on the other budgets: the text of a run is one stream,
    its rate is constant, and a run that lacks a budget is run again up to that budget alone.
    only_find: train nothing; None where the store lacks one.
    """
    spec = {
        "base": base.hash,
        "language": [language, fingerprint(language)],
        "english": fingerprint("eng_Latn"),
        "seed": seed,
        "settings": settings.model_dump(),
    }
    folders = {tokens: store.find("ct", spec | {"tokens": tokens}) for tokens in budgets}
    missing = [tokens for tokens, folder in folders.items() if folder is None]
    if missing and only_find:
        return None
    if missing:
        _run_ct(store, base, language, seed, settings, missing, spec)
        folders |= {tokens: store.find("ct", spec | {"tokens": tokens}) for tokens in missing}
    return {tokens: _expert(folder / "model.safetensors") for tokens, folder in folders.items()}


def _run_ct(
    store: Store,
    base: Base,
    language: str,
    seed: int,
    settings: ContinualPretraining,
    budgets: list[int],
    spec: dict[str, object],
) -> None:
    """Train up to the largest budget and store each budget's expert as soon as it is there."""
    per_step = settings.tokens_per_step

    def keep(step: int, weights: StateDict) -> None:
        found = spec | {"tokens": step * per_step}
        store.get("ct", found, lambda folder: model.save(weights, folder / "model.safetensors"))

    train.fit(
        model.with_state(base.architecture, base.weights).train(),
        train.Rows(_ct_rows(base, language, seed, settings, max(budgets))),
        train.Recipe(max(budgets) // per_step, settings.batch, settings.learning_rate),
        keep_at=keep,
        steps={tokens // per_step for tokens in budgets},
    )


def _ct_rows(
    base: Base, language: str, seed: int, settings: ContinualPretraining, tokens: int
) -> np.ndarray:
    """The first `tokens` tokens of a seed's CT text, packed.

    One endless stream of documents: the next is in the target language as long as that is
    behind its share. A larger budget continues the text of a smaller one.
    """
    streams = {
        code: tokenizer.encode_stream(base.tokenizer, corpus.documents(code, rng))
        for code, rng in (
            (language, np.random.default_rng([seed, 17, *map(ord, language)])),
            ("eng_Latn", np.random.default_rng([seed, 19, *map(ord, language)])),
        )
    }
    taken: list[np.ndarray] = []
    counts = dict.fromkeys(streams, 0)
    while (total := sum(counts.values())) < tokens:
        behind = counts[language] <= settings.target_share * total
        code = language if behind or settings.target_share == 1 else "eng_Latn"
        taken.append(next(streams[code]))
        counts[code] += len(taken[-1])
    return tokenizer.pack(taken, settings.sequence)[: tokens // settings.sequence]


def finetune(
    store: Store,
    base: Base,
    language: str,
    seed: int,
    settings: Finetuning,
    start: Expert | None = None,
    only_find: bool = False,
) -> Expert | None:
    """The model fine-tuned on instructions in a language, from the base or from a CT expert.

    only_find: train nothing; None where the store lacks it.
    """
    spec = {
        "base": base.hash,
        "start": start.sha256 if start else "base",
        "language": [language, fingerprint(language)],
        "seed": seed,
        "settings": settings.model_dump(),
    }

    def compute(folder: Path) -> None:
        say = Realizer(load(language))
        pairs = tasks.instructions(say, settings.steps * settings.batch, seed)
        net = model.with_state(base.architecture, start.weights() if start else base.weights)
        train.fit(
            net.train(),
            train.Answers(_encode(base, pairs)),
            train.Recipe(settings.steps, settings.batch, settings.learning_rate),
        )
        model.save(model.state(net), folder / "model.safetensors")

    folder = store.find("sft", spec) if only_find else store.get("sft", spec, compute)
    return None if folder is None else _expert(folder / "model.safetensors")


def _encode(base: Base, pairs: list[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
    """Prompts (begun by the end-of-text token, as evaluation does) and answers (ended by it)."""
    end = base.tokenizer.eos_token_id
    encode = base.tokenizer.backend_tokenizer.encode_batch
    prompts = encode([prompt for prompt, _ in pairs])
    answers = encode([answer for _, answer in pairs], add_special_tokens=False)
    return [(p.ids, [*a.ids, end]) for p, a in zip(prompts, answers, strict=True)]


@cache
def _expert(path: Path) -> Expert:
    return Expert(path, sha256(path))
