"""The model card of a base: what it is made of, and what it does before any expert.

Scores are measured, never copied, per language: fertility of the tokenizer, bits per byte, and
how far English fine-tuning carries over. Items are of the dev split, so that no test item is
looked at.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd
import yaml

from langmerge import base as base_module
from langmerge import languages, paths, readiness, tasks, tokenizer
from langmerge.base import Base, BaseRecipe
from langmerge.evaluate import TEXT_TASK, Evaluator, Suite, held_out_text
from langmerge.files import write_text
from langmerge.world import concepts

SEED = 0
#: Documents for bits per byte, documents for fertility.
TEXTS, FERTILITY_DOCUMENTS = 60, 100

CARD = """\
---
license: apache-2.0
language: [{codes}]
library_name: transformers
---

# The base model of langmerge's lab

A Llama of {parameters:,} parameters with a byte-level BPE tokenizer of {vocabulary:,} tokens,
trained from scratch on text that `langmerge` generates from its concepts and language files:
mostly English, with a trace of every other language, partly bilingual and partly code-switched.

It is made for one purpose: to be the base from which the experts of langmerge's study are
trained and merged. It speaks of the lab's small world alone and is of no use beyond it.

The weights are under Apache-2.0. `{command}` makes them again.

## Recipe

```yaml
{recipe}```

## What it is made of, and what it does

Tokens are those of the language's part of the training text; a share of {bilingual:.0%} of a
trace's documents is bilingual or code-switched, and a concept is one of {concepts}. Fertility is
tokens a word, on {fertility_documents} held-out documents. Bits per byte are of {texts}
held-out documents. Accuracy is that of the base after English fine-tuning alone (profile
`{profile}`, seed {seed}), zero-shot in the language, on {items} items a task of the dev split: what
a study of the language starts from. Chance is {chance}; a task counts as *between* where the
95 % interval is above chance and below English.

{table}

## Files

{hashes}
"""


def write(folder: Path, how: BaseRecipe) -> Path:
    """Measure the base in a folder and write its card, ``README.md``, there.

    How each language stands after English fine-tuning is kept beside it, in ``readiness.csv``.
    """
    base = base_module.load(folder)
    met = how.quotas() | base.extended.get("tokens", {})
    standing = readiness.check(base, list(met))
    write_text(folder / base_module.READINESS, standing.to_csv(index=False))
    rows = [
        _row(base, code, tokens, standing[standing["language"] == code])
        for code, tokens in met.items()
    ]
    table = pd.DataFrame(rows)
    card = CARD.format(
        command=command(base, how),
        codes=", ".join(sorted({code.split("_")[0] for code in met})),
        parameters=sum(tensor.numel() for tensor in base.weights.values()),
        vocabulary=len(base.tokenizer),
        recipe=yaml.safe_dump(how.model_dump(), sort_keys=False, allow_unicode=True),
        fertility_documents=FERTILITY_DOCUMENTS,
        texts=TEXTS,
        items=int(standing["n"].iloc[0]),
        seed=readiness.SEED,
        profile=readiness.PROFILE,
        bilingual=1 - how.trace.modes["monolingual"] / sum(how.trace.modes.values()),
        concepts=_concepts(),
        chance=", ".join(f"{1 / options:.2f} ({task})" for task, options in tasks.TASKS.items()),
        table=_markdown(table),
        hashes=_markdown(pd.DataFrame(sorted(base.sha256.items()), columns=["file", "SHA-256"])),
    )
    write_text(folder / "README.md", card)
    return folder / "README.md"


def command(base: Base, how: BaseRecipe) -> str:
    """What makes a base again (FILE: its recipe, which the card has)."""
    made = "python -m langmerge base"
    if base.folder == paths.base():
        return made
    if base.extended:
        named = (f"--language {code}" for code in base.extended["languages"])
        return " ".join([made, "extend", *named])
    usual = base_module.recipe().model_copy(update={"seed": how.seed})
    differs = f"--seed {how.seed}" if how == usual else "--recipe FILE"
    return f"{made} --name {base.folder.name} {differs}"


def _row(base: Base, code: str, tokens: int, standing: pd.DataFrame) -> dict[str, str]:
    """A language's line of the table."""
    found = measure(base, code)
    # A language of the core tier has not all tasks.
    scores = {row.task: f"{row.value:.2f}" for row in standing.itertuples()}
    return {
        "language": f"{languages.load(code).name} ({code})",
        "tokens": f"{tokens:,}",
        "a concept": f"{tokens / _concepts():,.0f}",
        "fertility": f"{found['fertility']:.2f}",
        "bits per byte": f"{found['text']:.3f}",
        **{task: scores.get(task, "–") for task in tasks.TASKS},
        "between": ", ".join(standing.query("standing == 'between'")["task"]) or "none",
    }


def _concepts() -> int:
    return sum(map(len, concepts().by_kind().values()))


def measure(base: Base, code: str) -> dict[str, float]:
    """Fertility, and the base's bits per byte of running text (``text``), in a language.

    Measured once a process: an extension's card and its losses ask for the same.
    """
    return dict(_measured(base, code, TEXTS, FERTILITY_DOCUMENTS))


@cache
def _measured(base: Base, code: str, documents: int, for_fertility: int) -> dict[str, float]:
    texts = held_out_text(Suite(code, "dev", SEED, 1, for_fertility))
    asked = Suite(code, "dev", SEED, 1, documents)
    evaluator = Evaluator(base.architecture, base.tokenizer, asked, only=TEXT_TASK)
    scores = evaluator(base.weights).scores
    separator = languages.load(code).word_separator
    return {
        "fertility": tokenizer.fertility(base.tokenizer, texts, separator),
        "text": float(scores.set_index("task").loc[TEXT_TASK, "value"]),
    }


def _markdown(table: pd.DataFrame) -> str:
    rows = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
