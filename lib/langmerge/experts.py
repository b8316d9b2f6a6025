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
    """The hash of everything a language's text depends on: its file and the concepts."""
    text = load(language).model_dump_json() + concepts().model_dump_json()
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

    only_find: train nothing; None where the store lacks them.
    """
    spec = {
        "base": base.hash,
        "language": [language, fingerprint(language)],
        "english": fingerprint("eng_Latn"),
        "seed": seed,
        "settings": settings.model_dump(),
        "budgets": sorted(budgets),
    }

    def compute(folder: Path) -> None:
        rows = _ct_rows(base, language, seed, settings, max(budgets))
        per_step = settings.tokens_per_step
        train.fit(
            model.with_state(base.architecture, base.weights).train(),
            train.Rows(rows),
            train.Recipe(max(budgets) // per_step, settings.batch, settings.learning_rate),
            keep_at=lambda step, weights: model.save(weights, folder / _ct_name(step * per_step)),
            steps={budget // per_step for budget in budgets},
        )

    folder = store.find("ct", spec) if only_find else store.get("ct", spec, compute)
    if folder is None:
        return None
    return {budget: _expert(folder / _ct_name(budget)) for budget in budgets}


def _ct_name(tokens: int) -> str:
    return f"ct-{tokens}.safetensors"


def _ct_rows(
    base: Base, language: str, seed: int, settings: ContinualPretraining, tokens: int
) -> np.ndarray:
    """The CT text of a seed: documents of the target language and English, mixed and packed."""
    rng = np.random.default_rng([seed, 17, *map(ord, language)])
    target = round(tokens * settings.target_share)
    documents = [
        ids
        for code, quota in ((language, target), ("eng_Latn", tokens - target))
        for ids in tokenizer.take_tokens(base.tokenizer, corpus.documents(code, rng), quota)
    ]
    order = rng.permutation(len(documents))
    rows = tokenizer.pack([documents[i] for i in order], settings.sequence)
    return rows[: tokens // settings.sequence]


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
