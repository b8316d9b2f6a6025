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
from transformers import LlamaForCausalLM

from langmerge import corpus, model, tasks, tokenizer, train
from langmerge.base import Base
from langmerge.files import sha256
from langmerge.languages import load
from langmerge.model import StateDict
from langmerge.profiles import ContinualPretraining, Finetuning, MixedFinetuning
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
    start: Expert | None = None,
    only_find: bool = False,
) -> dict[int, Expert] | None:
    """The CT experts of one run by their budget in tokens (checkpoints of the same run).

    A budget's expert does not depend on the other budgets: the text of a run is one stream,
    its rate is constant, and a run that lacks a budget is run again up to that budget alone.
    start: what it starts from instead of the base.
    only_find: train nothing; None where the store lacks one.
    """
    spec = {
        "base": base.hash,
        "language": [language, fingerprint(language)],
        "english": fingerprint("eng_Latn"),
        "seed": seed,
        "settings": settings.spec(),
    }
    if start is not None:
        spec["start"] = start.sha256
    folders = {tokens: store.find("ct", spec | {"tokens": tokens}) for tokens in budgets}
    missing = [tokens for tokens, folder in folders.items() if folder is None]
    if missing and only_find:
        return None
    if missing:
        weights = start.weights() if start else base.weights
        _run_ct(store, base, language, seed, settings, missing, spec, weights)
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
    start: StateDict,
) -> None:
    """Train up to the largest budget and store each budget's expert as soon as it is there."""
    per_step = settings.tokens_per_step

    def keep(step: int, weights: StateDict) -> None:
        found = spec | {"tokens": step * per_step}
        store.get("ct", found, lambda folder: model.save(weights, folder / "model.safetensors"))

    train.fit(
        model.with_state(base.architecture, start).train(),
        train.Rows(_ct_rows(base, language, seed, settings, max(budgets))),
        train.Recipe(max(budgets) // per_step, settings.batch, settings.learning_rate),
        keep_at=keep,
        steps={tokens // per_step for tokens in budgets},
    )


def read_again(
    store: Store,
    base: Base,
    language: str,
    seed: int,
    settings: ContinualPretraining,
    tokens: int,
    start: Expert,
    steps: tuple[int, ...],
    only_find: bool = False,
) -> dict[int, Expert] | None:
    """CT experts that went on over the text they had read, by their further steps.

    start: the CT expert of the first `tokens` tokens of the seed's CT text. Its run goes on over
    the same text from the beginning, as often as `steps` ask for, at the same rate and with a new
    optimizer state; one run, of which each number of steps is a checkpoint.
    only_find: train nothing; None where the store lacks one.
    """
    spec = {
        "base": base.hash,
        "start": start.sha256,
        "language": [language, fingerprint(language)],
        "english": fingerprint("eng_Latn"),
        "seed": seed,
        "settings": settings.spec(),
        "tokens": tokens,
    }

    def keep(step: int, weights: StateDict) -> None:
        found = spec | {"again": step}
        store.get("ct", found, lambda folder: model.save(weights, folder / "model.safetensors"))

    folders = {step: store.find("ct", spec | {"again": step}) for step in steps}
    missing = {step for step, folder in folders.items() if folder is None}
    if missing and only_find:
        return None
    if missing:
        batches = _text_batches(base, language, seed, settings, tokens, max(missing))
        train.fit(
            model.with_state(base.architecture, start.weights()).train(),
            train.Batches(batches),
            train.Recipe(len(batches), 1, settings.learning_rate),
            keep_at=keep,
            steps=missing,
        )
        folders |= {step: store.find("ct", spec | {"again": step}) for step in missing}
    return {step: _expert(folder / "model.safetensors") for step, folder in folders.items()}


def _ct_rows(
    base: Base, language: str, seed: int, settings: ContinualPretraining, tokens: int
) -> np.ndarray:
    """The first `tokens` tokens of a seed's CT text, packed.

    One endless stream of documents: the next is in the target language as long as that is
    behind its share. A larger budget continues the text of a smaller one.
    """
    bilingual = settings.bilingual
    modes = {"monolingual": 1 - bilingual, "bilingual": bilingual} if bilingual else None
    streams = {
        code: tokenizer.encode_stream(base.tokenizer, corpus.documents(code, rng, modes))
        for code, rng, modes in (
            (language, np.random.default_rng([seed, 17, *map(ord, language)]), modes),
            ("eng_Latn", np.random.default_rng([seed, 19, *map(ord, language)]), None),
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
        net = _to_finetune(base, start, settings)
        train.fit(
            net,
            train.Answers(_encode(base, pairs)),
            train.Recipe(settings.steps, settings.batch, settings.learning_rate),
        )
        model.save(model.state(net), folder / "model.safetensors")

    folder = store.find("sft", spec) if only_find else store.get("sft", spec, compute)
    return None if folder is None else _expert(folder / "model.safetensors")


def finetune_on_both(
    store: Store,
    base: Base,
    language: str,
    seed: int,
    settings: MixedFinetuning,
    text: ContinualPretraining,
    tokens: int,
    start: Expert | None = None,
    only_find: bool = False,
) -> Expert | None:
    """A model trained in one run on English instructions and on a language's CT text.

    A step is of one kind; the two kinds alternate evenly. The text is the first `tokens` tokens
    of the seed's CT text, from the beginning again where `settings.replay` asks for more steps
    of it. From the base with all of the text once it is joint CT and SFT; from a CT expert it is
    fine-tuning with replay. only_find: train nothing; None where the store lacks it.
    """
    spec = {
        "base": base.hash,
        "start": start.sha256 if start else "base",
        "language": ["eng_Latn", fingerprint("eng_Latn")],
        "text": [language, fingerprint(language)],
        "tokens": tokens,
        "ct": text.spec(),
        "seed": seed,
        "settings": settings.model_dump(),
    }

    def compute(folder: Path) -> None:
        net = _to_finetune(base, start, settings)
        wanted = max(1, round(settings.replay * settings.steps))
        batches = interleaved(
            _answer_batches(base, seed, settings),
            _text_batches(base, language, seed, text, tokens, wanted),
        )
        recipe = train.Recipe(len(batches), 1, settings.learning_rate)
        train.fit(net, train.Batches(batches), recipe)
        model.save(model.state(net), folder / "model.safetensors")

    folder = store.find("sft", spec) if only_find else store.get("sft", spec, compute)
    return None if folder is None else _expert(folder / "model.safetensors")


def _to_finetune(base: Base, start: Expert | None, settings: Finetuning) -> LlamaForCausalLM:
    """The base or an expert, ready for training; where asked for, its layers alone are trained."""
    net = model.with_state(base.architecture, start.weights() if start else base.weights)
    if settings.freeze_embeddings:
        model.train_layers_alone(net)
    return net.train()


def interleaved(first: list, second: list) -> list:
    """Both lists as one, each in its order and spread evenly over the whole."""
    placed = [
        ((number + 0.5) / len(some), which, one)
        for which, some in enumerate((first, second))
        for number, one in enumerate(some)
    ]
    return [one for _, _, one in sorted(placed, key=lambda it: it[:2])]


def _answer_batches(base: Base, seed: int, settings: Finetuning) -> list[train.Batch]:
    pairs = tasks.instructions(Realizer(load("eng_Latn")), settings.steps * settings.batch, seed)
    examples = _encode(base, pairs)
    starts = range(0, len(examples), settings.batch)
    return [train.collate_answers(examples[at : at + settings.batch]) for at in starts]


def _text_batches(
    base: Base,
    language: str,
    seed: int,
    text: ContinualPretraining,
    tokens: int,
    wanted: int,
) -> list[train.Batch]:
    """As many batches of the first `tokens` tokens of a CT text, from the beginning again."""
    rows = _ct_rows(base, language, seed, text, tokens)
    batches = [
        train.collate_rows(list(rows[at : at + text.batch]))
        for at in range(0, len(rows), text.batch)
    ]
    return [batches[number % len(batches)] for number in range(wanted)]


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
