"""What scores on a task without understanding it: chance and four shortcuts, per language.

A study of transfer is worth what its items are worth. Each shortcut answers dev items of a
task in the target language; where it is above chance, its way around the language is open to
a model too, and the table says so.

- ``majority``: the concept that is right most often in English training items, where offered.
- ``overlap``: the option that shares most character trigrams with the prompt.
- ``length``: the longest or the shortest option, whichever is right more often in English.
- ``characters``: a classifier of option and shared character n-grams, trained on English items
  and asked in the target language: what spelling alone carries over.
- ``options only``: the same classifier trained on target items and shown no prompt: what gives
  the right option away in the language itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, hstack, vstack
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression

from langmerge import languages, paths, tasks
from langmerge.errors import LangmergeError
from langmerge.files import write_text
from langmerge.languages import load
from langmerge.realize import Realizer
from langmerge.statistics import wilson
from langmerge.tasks import Item

SEED = 1000  # no run seed of a profile
TRAIN, DEV = 400, 400
CONTROLS = ("zzz_0000", "zzz_0001", "zzz_0002", "zzz_0003")
Scorer = Callable[[Item, str, list[str]], np.ndarray]  # item, prompt, options -> a score an option


FILE = "shortcuts.csv"


def measure() -> pd.DataFrame:
    """The table of all languages with a whole file and of four controls, saved into ``data/``."""
    found = table([code for code in languages.codes() if code != "eng_Latn"] + list(CONTROLS))
    rounded = found.round({"value": 4, "low": 4, "high": 4, "chance": 4})
    write_text(paths.data() / FILE, rounded.to_csv(index=False))
    return found


def measured() -> pd.DataFrame:
    """The saved table; raises LangmergeError where there is none."""
    path = paths.data() / FILE
    if not path.is_file():
        raise LangmergeError(f"no {path}: `langmerge shortcuts` makes it")
    return pd.read_csv(path)


def table(codes: list[str]) -> pd.DataFrame:
    """Accuracy of every shortcut: columns language, task, shortcut, value, low, high, n, chance.

    low and high are the 95 % Wilson interval.
    """
    rows = []
    for task, options in tasks.TASKS.items():
        train = tasks.draw(task, "train", TRAIN, SEED)
        english = Realizer(load("eng_Latn"))
        shared = {
            "majority": _majority(train),
            "overlap": _overlap,
            "length": _length(train, english),
            "characters": _characters(train, english, prompts=True),
        }
        for code in codes:
            inventory = load(code).inventory()
            if task not in tasks.possible(inventory):
                continue
            say = Realizer(load(code))
            theirs = tasks.draw(task, "train", TRAIN, SEED, inventory)
            dev = tasks.draw(task, "dev", DEV, SEED, inventory)
            scorers = shared | {"options only": _characters(theirs, say, prompts=False)}
            for name, scorer in scorers.items():
                correct = sum(_right(item, say, scorer) for item in dev)
                low, high = wilson(correct, len(dev))
                rows.append(
                    {
                        "language": code,
                        "task": task,
                        "shortcut": name,
                        "value": correct / len(dev),
                        "low": low,
                        "high": high,
                        "n": len(dev),
                        "chance": 1 / options,
                    }
                )
    return pd.DataFrame(rows)


def _right(item: Item, say: Realizer, scorer: Scorer) -> bool:
    """Whether the best-scored option is the right one; the first of equals is taken."""
    return int(np.argmax(scorer(item, item.prompt(say), item.choices(say)))) == item.answer


def _majority(train: list[Item]) -> Scorer:
    counts = Counter(item.options[item.answer] for item in train)
    return lambda item, prompt, options: np.array([counts[option] for option in item.options])


def _trigrams(text: str) -> set[str]:
    return {text[i : i + 3] for i in range(len(text) - 2)}


def _overlap(item: Item, prompt: str, options: list[str]) -> np.ndarray:
    seen = _trigrams(prompt)
    return np.array([len(_trigrams(o) & seen) / max(len(_trigrams(o)), 1) for o in options])


def _length(train: list[Item], say: Realizer) -> Scorer:
    def by(sign: int) -> Scorer:
        return lambda item, prompt, options: np.array([sign * len(option) for option in options])

    return max((by(1), by(-1)), key=lambda scorer: sum(_right(i, say, scorer) for i in train))


def _characters(train: list[Item], say: Realizer, prompts: bool) -> Scorer:
    """Is this option the right one? Of its n-grams and, with prompts, those that it shares."""
    vectorizer = HashingVectorizer(
        analyzer="char", ngram_range=(1, 3), n_features=2**12, alternate_sign=False, norm=None
    )

    def features(prompt: str, options: list[str]) -> csr_matrix:
        own = vectorizer.transform(options)
        if not prompts:
            return own
        return hstack([own, own.multiply(vectorizer.transform([prompt]).toarray())]).tocsr()

    x = vstack([features(item.prompt(say), item.choices(say)) for item in train])
    y = np.concatenate([np.arange(len(item.options)) == item.answer for item in train])
    # Regularized: with more n-grams than items the weights would not come to rest.
    model = LogisticRegression(C=0.1, solver="liblinear").fit(x, y)
    return lambda item, prompt, options: model.decision_function(features(prompt, options))
