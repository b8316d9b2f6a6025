"""Live items: one test item asked of loaded checkpoints, in its script and with its gloss.

The rule that chooses them is fixed: the first item, in the order of their numbers, that
the merged model answers rightly, and the first that it answers wrongly. So a failure is
always shown where there is one, and nobody picks.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd

from langmerge import plotting, tasks
from langmerge.cells import Cell
from langmerge.data_card import tag
from langmerge.errors import LangmergeError, nearest
from langmerge.evaluate import Evaluator, Suite
from langmerge.languages import english_beside, load
from langmerge.realize import Realizer
from langmerge.study import Results, suite


@dataclass(frozen=True)
class LiveItem:
    """A test item and what several models make of it.

    table: one row per option and method: option (target script), gloss (English), correct,
        method (the study's name) and probability (sums to 1 over the options).
    """

    language: str
    seed: int
    ct_tokens: int
    task: str
    item: str
    prompt: str
    gloss: str
    answered_rightly: bool
    table: pd.DataFrame

    def figure(self, name: str) -> dict[str, object]:
        """What each model makes of the options, as `notebook.figure` takes it."""
        fig = plotting.option_probabilities(self.table)
        how = "answers rightly" if self.answered_rightly else "does not answer rightly"
        caption = (
            f"The item that the merged model {how}: each model's probability of each option, "
            "renormalised over the options. The right one is marked."
        )
        return {"fig": fig, "name": name, "caption": caption, "alt": plotting.alt(fig)}


def examples(
    results: Results,
    ct_tokens: int,
    task: str | None = None,
    merged: str = "ties_mean",
    setting: str | None = None,
) -> list[LiveItem]:
    """The first item of a task that the merged model answers rightly and the first it does not.

    Asked of the first language and seed of the results, with the experts of one CT budget. Each
    option's probability is renormalised over the item's options.
    task: the first that the language can say where None (a core file cannot say all).
    setting: of the methods that have several, which ("tuned", else "default" where None).
    Raises LangmergeError where the results have no such task, method, setting or budget.
    """
    known = tasks.possible(load(results.languages[0]).inventory())
    task = task or known[0]
    if task not in known:
        raise LangmergeError(f"no task {task!r}: {nearest(task, known)}")
    language, seed = results.languages[0], results.seeds[0]
    models = _models(results, language, seed, ct_tokens, merged, setting)
    asked = suite(results.plan, language, seed)
    base = models["base"].load_base()
    weights = {name: cell.weights() for name, cell in models.items()}
    evaluator = Evaluator(base.architecture, base.tokenizer, asked, only=task)
    answers = {name: evaluator(state).items for name, state in weights.items()}
    chosen = []
    for rightly in (True, False):
        matching = answers[merged][answers[merged]["correct"] == rightly]
        if len(matching):
            chosen.append(matching["item"].iloc[0])
    return [_live(results, asked, ct_tokens, task, item, answers, merged) for item in chosen]


def _models(
    results: Results, language: str, seed: int, ct_tokens: int, merged: str, setting: str | None
) -> dict[str, Cell]:
    """The cells of base, SFT, CT, CT-then-SFT and the merge, in this order."""
    wanted = {"base": 0, "sft": 0, "ct": ct_tokens, "ct_then_sft": ct_tokens, merged: ct_tokens}
    cells = [cell for cell in results.cells if (cell.language, cell.seed) == (language, seed)]
    if merged not in (known := {cell.method for cell in cells}):
        raise LangmergeError(f"no method {merged!r} in the results: {nearest(merged, known)}")
    return {
        method: _choose([cell for cell in cells if cell.method == method], method, tokens, setting)
        for method, tokens in wanted.items()
    }


def _choose(cells: list[Cell], method: str, tokens: int, setting: str | None) -> Cell:
    """The cell of a method at a budget in the setting asked for, if the method has settings."""
    by_setting = {cell.setting: cell for cell in cells if cell.ct_tokens == tokens}
    if not by_setting:
        budgets = sorted({cell.ct_tokens for cell in cells})
        raise LangmergeError(f"no {method} with {tokens} CT tokens in the results: has {budgets}")
    for name in ("fixed", setting) if setting else ("fixed", "tuned", "default"):
        if name in by_setting:
            return by_setting[name]
    raise LangmergeError(
        f"{method} has no setting {setting or 'tuned'!r} in the results: "
        f"{nearest(setting or 'tuned', by_setting)}"
    )


def _live(
    results: Results,
    asked: Suite,
    ct_tokens: int,
    task: str,
    item_id: str,
    answers: dict[str, pd.DataFrame],
    merged: str,
) -> LiveItem:
    language = load(asked.language)
    drawn = tasks.draw(task, asked.split, asked.items, asked.seed, language.inventory())
    item = next(item for item in drawn if item.id == item_id)
    say, english = Realizer(language), Realizer(english_beside(language))
    options = [option.strip() for option in item.choices(say)]
    glosses = [option.strip() for option in item.choices(english)]
    rows = []
    correct = False
    for model, frame in answers.items():
        row = frame[frame["item"] == item_id].iloc[0]
        if model == merged:
            correct = bool(row["correct"])
        for number, probability in enumerate(_softmax(np.array(row["scores"]))):
            rows.append(
                {
                    "option": options[number],
                    "gloss": glosses[number],
                    "correct": number == item.answer,
                    "method": model,
                    "probability": float(probability),
                }
            )
    return LiveItem(
        language=asked.language,
        seed=asked.seed,
        ct_tokens=ct_tokens,
        task=task,
        item=item_id,
        prompt=_bare(item.prompt(say)),
        gloss=_bare(item.prompt(english)),
        answered_rightly=correct,
        table=pd.DataFrame(rows),
    )


def _bare(prompt: str) -> str:
    """The prompt without the instruction wrapper's signs."""
    return prompt.removeprefix("> ").removesuffix("\n=")


def _softmax(scores: np.ndarray) -> np.ndarray:
    exponentials = np.exp(scores - scores.max())
    return exponentials / exponentials.sum()


def html(item: LiveItem) -> str:
    """The item for a page: its text in the target script, its gloss, and how the merge did."""
    target = load(item.language)
    mark = f'lang="{tag(target.code)}" dir="{escape(target.direction)}"'
    answered = "answered rightly" if item.answered_rightly else "not answered rightly"
    listed = ", ".join(
        _option(mark, row.option, row.gloss, row.correct)
        for row in item.table.drop_duplicates("option").itertuples()
    )
    return (
        f"<p>Item {escape(item.item)}, {answered} by the merged model "
        f"(seed {item.seed}, {item.ct_tokens:,} CT tokens).</p>"
        f"<blockquote><p {mark}>{escape(item.prompt)}</p><p>{escape(item.gloss)}</p>"
        f"<p>{listed}</p></blockquote>"
    )


def _option(mark: str, option: str, gloss: str, correct: bool) -> str:
    """An option with its gloss, the right one in bold."""
    said = f"<span {mark}>{escape(option)}</span>"
    return f"{f'<b>{said}</b>' if correct else said} ({escape(gloss)})"
