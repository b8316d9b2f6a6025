"""Evaluation through lm-eval, with task definitions of our own (prefix ``langmerge_``).

Options are scored by log-likelihood. Where every option of every item of a task is one
token, an item takes one forward pass and the score is the log-probability; otherwise the
score is the log-probability per UTF-8 byte. The rule is fixed per task, language and
tokenizer, and stated with every result. Beside the tasks stands the target language's
bits per byte on held-out text: merging is about the balance of the two.
"""

from __future__ import annotations

import contextlib
import io
import os
from dataclasses import dataclass
from itertools import islice

os.environ.setdefault("LMEVAL_LOG_LEVEL", "ERROR")

import lm_eval
import numpy as np
import pandas as pd
from datasets import Dataset
from lm_eval.tasks import TaskManager
from transformers import LlamaConfig, PreTrainedTokenizerFast

from langmerge import corpus, device, model, tasks
from langmerge.harness import SharedPromptLM
from langmerge.languages import load
from langmerge.model import StateDict
from langmerge.realize import Realizer

TEXT_TASK = "text"


@dataclass(frozen=True)
class Suite:
    """What a model is asked: items of each task and held-out text, in one language."""

    language: str
    split: tasks.Split
    seed: int
    items: int  # per task
    text_documents: int


@dataclass(frozen=True)
class Evaluation:
    """What a model answered.

    scores: one row per task (and ``text``): task, metric, value, stderr, n, chance, scoring
        ("one token" or "per byte": the rule by which options were scored).
    items: one row per item: task, item, concept, answer, prediction, correct, margin (the
        right option's score minus the best wrong one's) and every option's score.
    """

    scores: pd.DataFrame
    items: pd.DataFrame


class Evaluator:
    """Evaluates many weights of one architecture on one suite.

    The harness and its tasks are built once; weights are loaded into one model in place.
    only: a task of the suite, or `TEXT_TASK`, that is asked alone.
    """

    def __init__(
        self,
        architecture: LlamaConfig,
        tokenizer: PreTrainedTokenizerFast,
        suite: Suite,
        batch_size: int = 64,
        only: str | None = None,
    ) -> None:
        self.suite = suite
        possible = (*tasks.possible(load(suite.language).inventory()), TEXT_TASK)
        asked = [only] if only else possible
        self.documents = {
            task: item_documents(suite, task, tokenizer) for task in asked if task != TEXT_TASK
        }
        self._texts = held_out_text(suite) if TEXT_TASK in asked else []
        self._model = model.new(architecture, seed=0).eval().to(device.chosen())
        with _quiet():
            self._harness = SharedPromptLM(
                pretrained=self._model,
                tokenizer=tokenizer,
                batch_size=batch_size,
                add_bos_token=True,
                max_length=architecture.max_position_embeddings,
            )
            manager = TaskManager(include_defaults=False)
            self._tasks = manager.load(
                [_task(suite, name, documents) for name, documents in self.documents.items()]
                + ([_text_task(suite, self._texts)] if self._texts else [])
            )

    def __call__(self, weights: StateDict) -> Evaluation:
        """Evaluate weights (fp32, the names of the architecture's parameters)."""
        model.load_state(self._model, weights)
        with _quiet():
            found = lm_eval.evaluate(
                lm=self._harness, task_dict=self._tasks, bootstrap_iters=0, log_samples=True
            )
        answers = [
            _items(task, found["samples"][_name(self.suite, task)]) for task in self.documents
        ]
        items = pd.concat(answers, ignore_index=True) if answers else pd.DataFrame()
        scores = _scores(items) if answers else []
        if self._texts:
            scores.append(_text_score(found, _name(self.suite, TEXT_TASK), self._texts))
        return Evaluation(pd.DataFrame(scores), items)


def _name(suite: Suite, task: str) -> str:
    return f"langmerge_{task}_{suite.language}"


def item_documents(suite: Suite, task: str, tokenizer: PreTrainedTokenizerFast) -> list[dict]:
    """A task's items as the documents lm-eval works on, with the scoring rule decided."""
    language = load(suite.language)
    say, inventory = Realizer(language), language.inventory()
    documents = [
        {
            "id": item.id,
            "concept": item.concept,
            "prompt": item.prompt(say),
            "choices": item.choices(say),
            "answer": item.answer,
        }
        for item in tasks.draw(task, suite.split, suite.items, suite.seed, inventory)
    ]
    choices = {choice for document in documents for choice in document["choices"]}
    single = all(len(tokenizer.encode(c, add_special_tokens=False)) == 1 for c in choices)
    return [document | {"per_byte": not single} for document in documents]


def held_out_text(suite: Suite) -> list[str]:
    """Monolingual documents from a random stream of their own.

    Training text comes from other streams; a short document may still occur in both, for the
    world is small.
    """
    rng = np.random.default_rng([suite.seed, 41, *map(ord, suite.language + suite.split)])
    return list(islice(corpus.documents(suite.language, rng), suite.text_documents))


def _task(suite: Suite, task: str, documents: list[dict]) -> dict:
    return {
        "task": _name(suite, task),
        "custom_dataset": lambda **_: {"test": Dataset.from_list(documents)},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": lambda document: document["prompt"],
        "doc_to_choice": lambda document: document["choices"],
        "doc_to_target": lambda document: document["answer"],
        "target_delimiter": "",
        "process_results": process_results,
        "metric_list": [{"metric": "accuracy", "aggregation": "mean", "higher_is_better": True}],
    }


def process_results(document: dict, results: list[tuple[float, bool]]) -> dict[str, float]:
    """Score one item: whether the right option has the highest score."""
    scores = option_scores(document, [log_likelihood for log_likelihood, _ in results])
    return {"accuracy": float(np.argmax(scores) == document["answer"])}


def option_scores(document: dict, log_likelihoods: list[float]) -> np.ndarray:
    """The options' log-probabilities in nats, per UTF-8 byte where the task's rule says so."""
    scores = np.array(log_likelihoods, dtype=np.float64)
    if document["per_byte"]:
        scores /= [len(choice.encode()) for choice in document["choices"]]
    return scores


def _items(task: str, samples: list[dict]) -> pd.DataFrame:
    rows = []
    for sample in samples:
        document = sample["doc"]
        scores = option_scores(document, [float(r[0][0]) for r in sample["resps"]])
        answer = document["answer"]
        rows.append(
            {
                "task": task,
                "item": document["id"],
                "concept": document["concept"],
                "scoring": "per byte" if document["per_byte"] else "one token",
                "answer": answer,
                "prediction": int(np.argmax(scores)),
                "correct": bool(np.argmax(scores) == answer),
                "margin": float(scores[answer] - np.delete(scores, answer).max()),
                "scores": scores.round(4).tolist(),
            }
        )
    return pd.DataFrame(rows)


def _scores(items: pd.DataFrame) -> list[dict]:
    return [
        {
            "task": task,
            "metric": "accuracy",
            "value": correct.mean(),
            "stderr": np.sqrt(correct.mean() * (1 - correct.mean()) / len(correct)),
            "n": len(correct),
            "chance": 1 / tasks.TASKS[task],
            "scoring": scoring,
        }
        for (task, scoring), correct in items.groupby(["task", "scoring"], sort=False)["correct"]
    ]


def _text_task(suite: Suite, texts: list[str]) -> dict:
    return {
        "task": _name(suite, TEXT_TASK),
        "custom_dataset": lambda **_: {"test": Dataset.from_list([{"text": t} for t in texts])},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": lambda document: "",
        "doc_to_target": lambda document: document["text"],
        "metric_list": [{"metric": "bits_per_byte"}],
    }


def _text_score(found: dict, name: str, texts: list[str]) -> dict:
    """Bits per byte over all text, its standard error that of a ratio over documents."""
    bits = np.array([-float(np.ravel(s["resps"])[0]) / np.log(2) for s in found["samples"][name]])
    order = [s["doc"]["text"] for s in found["samples"][name]]
    size = np.array([len(text.encode()) for text in order])
    value = found["results"][name]["bits_per_byte,none"]
    residuals = bits - value * size
    stderr = residuals.std(ddof=1) / size.mean() / np.sqrt(len(texts))
    return {
        "task": TEXT_TASK,
        "metric": "bits_per_byte",
        "value": value,
        "stderr": stderr,
        "n": len(texts),
        "chance": float("nan"),
        "scoring": "running text",
    }


@contextlib.contextmanager
def _quiet():
    """Without the harness's progress bars, one set per evaluated model."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield
