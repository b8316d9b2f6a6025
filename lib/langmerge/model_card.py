"""The model card of a base: what it is made of, and what it does before any expert.

Scores are measured, never copied: fertility of the tokenizer, bits per byte and zero-shot
accuracy, per language. Items are of the dev split, so that no test item is looked at.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import yaml

from langmerge import base as base_module
from langmerge import languages, tasks, tokenizer
from langmerge.base import Base, BaseRecipe
from langmerge.evaluate import TEXT_TASK, Evaluator, Suite, held_out_text
from langmerge.files import write_text

SEED = 0
#: Items a task, documents for bits per byte, documents for fertility.
ITEMS, TEXTS, FERTILITY_DOCUMENTS = 150, 60, 100

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

The weights are under Apache-2.0. `python -m langmerge base` makes them again.

## Recipe

```yaml
{recipe}```

## What it is made of, and what it does

Fertility is tokens a word, on {fertility_documents} held-out documents. Bits per byte are of
{texts} held-out documents. Accuracy is zero-shot, on {items} items a task of the dev split
(seed {seed}), by log-likelihood of the options: the base has never seen the instruction
format, which only fine-tuning teaches. Chance is {chance}.

{table}

## Files

{hashes}
"""


def write(folder: Path, how: BaseRecipe) -> Path:
    """Measure the base in a folder and write its card, ``README.md``, there."""
    base = base_module.load(folder)
    table = pd.DataFrame([_row(base, code, tokens) for code, tokens in how.quotas().items()])
    card = CARD.format(
        codes=", ".join(sorted({code.split("_")[0] for code in how.quotas()})),
        parameters=sum(tensor.numel() for tensor in base.weights.values()),
        vocabulary=len(base.tokenizer),
        recipe=yaml.safe_dump(how.model_dump(), sort_keys=False, allow_unicode=True),
        fertility_documents=FERTILITY_DOCUMENTS,
        texts=TEXTS,
        items=ITEMS,
        seed=SEED,
        chance=", ".join(f"{1 / options:.2f} ({task})" for task, options in tasks.TASKS.items()),
        table=_markdown(table),
        hashes=_markdown(pd.DataFrame(sorted(base.sha256.items()), columns=["file", "SHA-256"])),
    )
    write_text(folder / "README.md", card)
    return folder / "README.md"


def _row(base: Base, code: str, tokens: int) -> dict[str, str]:
    """A language's line of the table."""
    found = measure(base, code)
    return {
        "language": f"{languages.load(code).name} ({code})",
        "tokens": f"{tokens:,}",
        "fertility": f"{found['fertility']:.2f}",
        "bits per byte": f"{found[TEXT_TASK]:.3f}",
        **{task: f"{found[task]:.2f}" for task in tasks.TASKS},
    }


def measure(base: Base, code: str) -> dict[str, float]:
    """Fertility, bits per byte (``text``) and accuracy of each task in a language."""
    texts = held_out_text(Suite(code, "dev", SEED, ITEMS, FERTILITY_DOCUMENTS))
    asked = Suite(code, "dev", SEED, ITEMS, TEXTS)
    scores = Evaluator(base.architecture, base.tokenizer, asked)(base.weights).scores
    return {
        "fertility": tokenizer.fertility(base.tokenizer, texts),
        **dict(zip(scores["task"], scores["value"], strict=True)),
    }


def _markdown(table: pd.DataFrame) -> str:
    rows = [table.columns, ["---"] * len(table.columns), *table.itertuples(index=False)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
