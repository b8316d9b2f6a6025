"""Live items: chosen by the stated rule, with what each model makes of them."""

import math
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from langmerge import live, study, tasks
from langmerge.errors import LangmergeError
from langmerge.evaluate import Evaluator
from langmerge.languages import load
from langmerge.realize import Realizer

MODELS = ["base", "sft", "ct", "ct_then_sft", "ties_mean"]


@pytest.fixture(scope="module")
def results(tiny_lab):
    return study.run(profile="tiny", budgets=[512], items=20, processes=1, quiet=True)


@pytest.fixture(scope="module")
def shown(results):
    return live.examples(results, ct_tokens=512, task="kind")


def answered(results, method: str, task: str, setting: str) -> pd.DataFrame:
    items = results.items
    chosen = (items["method"] == method) & (items["task"] == task) & (items["setting"] == setting)
    return items[chosen].sort_values("item")


# --- the rule ------------------------------------------------------------------------------


@pytest.mark.parametrize("task", list(tasks.TASKS))
@pytest.mark.parametrize("merged", ["ties_mean", "chat_vector"])
def test_the_first_right_and_the_first_wrong_item_are_shown(results, task, merged):
    setting = "default" if merged == "ties_mean" else "fixed"
    items = answered(results, merged, task, setting)
    expected = []
    for rightly in (True, False):
        expected += [(item, rightly) for item in items[items["correct"] == rightly]["item"][:1]]
    found = live.examples(results, 512, task=task, merged=merged)
    assert [(item.item, item.answered_rightly) for item in found] == expected
    assert {(item.task, item.ct_tokens, item.language) for item in found} == {
        (task, 512, "tam_Taml")
    }


def test_both_kinds_are_there(shown):
    assert [item.answered_rightly for item in shown] == [True, False]


def test_where_all_are_right_only_a_right_one_is_shown(results, monkeypatch):
    evaluate = Evaluator.__call__

    def knowing(self, weights):
        found = evaluate(self, weights)
        return replace(found, items=found.items.assign(correct=True))

    monkeypatch.setattr(Evaluator, "__call__", knowing)
    (only,) = live.examples(results, 512)
    assert (only.item, only.answered_rightly) == ("topic-0000", True)


# --- what is shown -------------------------------------------------------------------------


def test_every_model_has_probabilities_over_the_options(shown):
    for item in shown:
        assert list(item.table["method"].unique()) == MODELS
        for _, of_model in item.table.groupby("method"):
            assert len(of_model) == tasks.TASKS["kind"]
            assert of_model["probability"].sum() == pytest.approx(1)
            assert (of_model["probability"] > 0).all()
            assert of_model["correct"].sum() == 1


def test_probabilities_are_those_of_the_stored_answers(results, shown):
    """Right is who gives the right option the highest probability, by its stored margin."""
    settings = {"ties_mean": "default", "ct_then_sft": "default"}
    for item in shown:
        for method, of_model in item.table.groupby("method"):
            stored = answered(results, method, "kind", settings.get(method, "fixed"))
            stored = stored.set_index("item").loc[item.item]
            right = of_model.loc[of_model["correct"], "probability"].iloc[0]
            best_wrong = of_model.loc[~of_model["correct"], "probability"].max()
            assert math.log(right / best_wrong) == pytest.approx(stored["margin"], abs=3e-4)


def test_the_item_is_said_in_the_target_script_with_its_gloss(results, shown):
    say, english = Realizer(load("tam_Taml")), Realizer(load("eng_Latn"))
    drawn = {item.id: item for item in tasks.draw("kind", "test", 20, results.seeds[0])}
    for item in shown:
        source = drawn[item.item]
        sentences = (*source.context, source.question)
        assert item.prompt == " ".join(map(say, sentences))
        assert item.gloss == " ".join(map(english, sentences))
        options = item.table[item.table["method"] == "base"]
        assert options["option"].tolist() == [say(option) for option in source.options]
        assert options["gloss"].tolist() == [english(option) for option in source.options]
        assert np.flatnonzero(options["correct"]).tolist() == [source.answer]


# --- as a page -----------------------------------------------------------------------------

HOSTILE = '<script>alert("1")</script>&amp;'


class Page(HTMLParser):
    """The text inside elements, and what carries a language."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.texts, self.marks = [], [], []
        self.open: list[str] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.tags.append(tag)
        if "lang" in dict(attributes):
            self.marks.append(dict(attributes) | {"tag": tag})

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_names_the_language_and_direction_of_the_target_text(shown):
    page = Page(live.html(shown[0]))
    assert {(mark["lang"], mark["dir"]) for mark in page.marks} == {("ta-Taml", "ltr")}
    # The prompt and each of four options.
    assert [mark["tag"] for mark in page.marks] == ["p", *["span"] * 4]
    assert page.tags.count("b") == 1
    assert shown[0].prompt in page.texts
    assert shown[0].gloss in page.texts


def test_a_right_to_left_language_is_marked_so(shown, monkeypatch):
    turned = load("tam_Taml").model_copy(update={"direction": "rtl"})
    monkeypatch.setattr(live, "load", lambda code: turned)
    page = Page(live.html(shown[0]))
    assert {mark["dir"] for mark in page.marks} == {"rtl"}


def test_hostile_text_stays_text(shown):
    item = shown[0]
    table = item.table.assign(option=item.table["option"] + HOSTILE, gloss=HOSTILE)
    page = Page(live.html(replace(item, prompt=HOSTILE, gloss=HOSTILE, item=HOSTILE, table=table)))
    assert set(page.tags) == {"p", "b", "span", "blockquote"}
    assert "".join(page.texts).count(HOSTILE) == 3 + 2 * 4


def test_the_page_says_how_the_merge_did(shown):
    right, wrong = (live.html(item) for item in shown)
    assert "not answered rightly" not in right
    assert "not answered rightly" in wrong
    assert "512 CT tokens" in right


# --- bad input -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"task": "topics"}, "topic"),
        ({"merged": "ties_means"}, "did you mean ties_mean"),
        ({"ct_tokens": 513}, r"513 CT tokens.*\[512\]"),
        ({"setting": "tuned"}, "'tuned'"),
    ],
)
def test_what_the_results_lack_is_named(results, options, told):
    with pytest.raises(LangmergeError, match=told):
        live.examples(results, **{"ct_tokens": 512} | options)


def test_the_first_model_of_a_method_is_found(results):
    ct, sft = results.model("ct", 512), results.model("sft")
    assert (ct.method, ct.ct_tokens, ct.seed) == ("ct", 512, results.seeds[0])
    assert (sft.method, sft.ct_tokens, sft.seed) == ("sft", 0, results.seeds[0])
    with pytest.raises(LangmergeError, match="did you mean ct"):
        results.model("ctt")
    with pytest.raises(LangmergeError, match="513 CT tokens: it has"):
        results.model("ct", 513)


def test_an_items_figure_says_how_the_merge_did(shown):
    captions = [item.figure("fig-x")["caption"] for item in shown]
    assert "answers rightly" in captions[0] and "does not answer rightly" in captions[1]
