"""Evaluation: the numbers are those of plain torch, of stock lm-eval, and of the stated rule."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from langmerge import evaluate, model, tasks
from langmerge.evaluate import Evaluator, Suite, option_scores
from langmerge.harness import SharedPromptLM

SUITE = Suite("zzz_0000", "test", seed=3, items=6, text_documents=4)


@pytest.fixture(scope="module")
def evaluator(tiny_base):
    return Evaluator(tiny_base.architecture, tiny_base.tokenizer, SUITE, batch_size=5)


@pytest.fixture(scope="module")
def found(evaluator, tiny_base):
    return evaluator(tiny_base.weights)


def score_of(evaluation, task: str):
    return evaluation.scores.set_index("task").loc[task]


def another(weights: model.StateDict) -> model.StateDict:
    generator = torch.Generator().manual_seed(5)
    return {
        name: tensor + 0.05 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in weights.items()
    }


# --- the harness against the stock one -----------------------------------------------------


def harnesses(base) -> list[HFLM]:
    net = model.with_state(base.architecture, base.weights)
    options = {"tokenizer": base.tokenizer, "batch_size": 4, "add_bos_token": True}
    return [kind(pretrained=net, **options) for kind in (HFLM, SharedPromptLM)]


def requests(pairs: list[tuple[str, str]]) -> list[Instance]:
    return [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=number)
        for number, pair in enumerate(pairs)
    ]


SINGLE = [" a", " b", " c", " d"]
SEVERAL = [" the mother cooks", " a", " somebody else", " rice and a fish"]


@pytest.mark.parametrize(
    "pairs",
    [
        [(prompt, option) for prompt in ("> one\n=", "> a longer one\n=") for option in SINGLE],
        [(prompt, option) for prompt in ("> one\n=", "> a longer one\n=") for option in SEVERAL],
        [("> what?\n=", option) for option in SINGLE] + [("> who?\n=", SEVERAL[0])],
        # Of a prompt longer than the model takes, both see the same end.
        [("> " + "many words " * 300 + "\n=", option) for option in SEVERAL],
    ],
    ids=["single tokens", "several tokens", "both", "cut"],
)
def test_options_behind_a_shared_prompt_score_as_in_the_stock_harness(tiny_base, pairs):
    stock, shared = harnesses(tiny_base)
    expected = stock.loglikelihood(requests(pairs), disable_tqdm=True)
    measured = shared.loglikelihood(requests(pairs), disable_tqdm=True)
    assert [greedy for _, greedy in measured] == [greedy for _, greedy in expected]
    np.testing.assert_allclose(
        [score for score, _ in measured], [score for score, _ in expected], atol=1e-4
    )


def test_an_item_takes_one_forward_pass(tiny_base):
    _, shared = harnesses(tiny_base)
    shapes = []
    shared.model.register_forward_hook(lambda *_: shapes.append("whole model"))
    inner = lambda _, __, given, ___: shapes.append(tuple(given["input_ids"].shape))  # noqa: E731
    shared.model.model.register_forward_hook(inner, with_kwargs=True)
    pairs = [(f"> {prompt}\n=", option) for prompt in "abc" for option in SEVERAL]
    shared.loglikelihood(requests(pairs), disable_tqdm=True)
    assert len(shapes) == 1
    assert shapes[0][0] == 3  # three prompts, twelve options


# --- bits per byte -------------------------------------------------------------------------


def nats(net, ids: list[int]) -> float:
    """The negative log-probability of ids[1:], each given what precedes it."""
    with torch.inference_mode():
        logits = net(input_ids=torch.tensor([ids])).logits[0]
    chosen = logits[:-1].log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])
    return -chosen.double().sum().item()


def test_bits_per_byte_are_those_of_plain_torch(found, tiny_base):
    net = model.with_state(tiny_base.architecture, tiny_base.weights)
    texts = evaluate.held_out_text(SUITE)
    encoded = [tiny_base.tokenizer.encode(text) for text in texts]
    # One end-of-text token begins a document, as in training, and is not itself scored.
    assert all(ids[0] == 0 and 0 not in ids[1:] for ids in encoded)
    assert max(map(len, encoded)) <= tiny_base.architecture.max_position_embeddings
    bits = np.array([nats(net, ids) for ids in encoded]) / np.log(2)
    size = np.array([len(text.encode()) for text in texts])
    text = score_of(found, "text")
    assert text["value"] == pytest.approx(bits.sum() / size.sum(), rel=1e-4)
    spread = (bits - text["value"] * size).std(ddof=1) / size.mean() / np.sqrt(len(texts))
    assert text["stderr"] == pytest.approx(spread, rel=1e-3)
    assert (text["metric"], text["n"]) == ("bits_per_byte", 4)
    assert np.isnan(text["chance"])


def test_held_out_text_differs_by_seed_split_and_language():
    suites = [SUITE, replace(SUITE, seed=4), replace(SUITE, split="dev")]
    suites.append(replace(SUITE, language="zzz_0001"))
    texts = [tuple(evaluate.held_out_text(suite)) for suite in suites]
    assert len(set(texts)) == 4
    assert texts[0] == tuple(evaluate.held_out_text(SUITE))


# --- accuracy and the scoring rule ---------------------------------------------------------


def test_the_score_is_the_log_probability_or_that_per_byte():
    document = {"choices": [" a", " அம்மா"], "per_byte": False}
    assert option_scores(document, [-2.0, -8.0]).tolist() == [-2.0, -8.0]
    document["per_byte"] = True
    assert option_scores(document, [-2.0, -8.0]).tolist() == [-2.0 / 2, -8.0 / 16]


def test_the_rule_is_per_byte_unless_every_option_of_the_task_is_one_token(tiny_base):
    class Whole:
        """A tokenizer to which everything is one token, except what it was told."""

        def __init__(self, split: set[str]):
            self.split = split

        def encode(self, text: str, add_special_tokens: bool) -> list[int]:
            assert not add_special_tokens
            return [1, 2] if text in self.split else [1]

    documents = evaluate.item_documents(SUITE, "kind", Whole(set()))
    assert {document["per_byte"] for document in documents} == {False}
    one = documents[2]["choices"][1]
    documents = evaluate.item_documents(SUITE, "kind", Whole({one}))
    assert {document["per_byte"] for document in documents} == {True}


@pytest.mark.parametrize(("per_byte", "right"), [(False, 0), (True, 1)])
def test_the_rule_decides_what_is_answered(per_byte, right):
    """A long option has the lower probability and the higher one per byte."""
    document = {"choices": [" a", " abcdefg"], "per_byte": per_byte}
    results = [(-4.0, False), (-8.0, False)]
    for answer in (0, 1):
        scored = evaluate.process_results(document | {"answer": answer}, results)
        assert scored == {"accuracy": float(answer == right)}


def test_accuracy_is_the_share_of_right_argmaxes(found):
    items = found.items
    assert len(items) == 6 * len(tasks.TASKS)
    best = [int(np.argmax(scores)) for scores in items["scores"]]
    assert best == items["prediction"].tolist()
    assert (items["prediction"] == items["answer"]).tolist() == items["correct"].tolist()
    for task, options in tasks.TASKS.items():
        of_task, score = items[items["task"] == task], score_of(found, task)
        share = of_task["correct"].mean()
        assert score["value"] == share
        assert score["stderr"] == pytest.approx(np.sqrt(share * (1 - share) / 6))
        assert (score["n"], score["chance"], score["metric"]) == (6, 1 / options, "accuracy")
        assert of_task["scores"].map(len).eq(options).all()


def test_the_margin_is_positive_for_right_answers_alone(found):
    items = found.items
    assert ((items["margin"] > 0) == items["correct"]).all()
    for row in items.itertuples():
        wrong = [score for number, score in enumerate(row.scores) if number != row.answer]
        # The scores shown are rounded to four decimals.
        assert row.margin == pytest.approx(row.scores[row.answer] - max(wrong), abs=2e-4)


def test_items_are_those_of_the_suite_in_their_order(found):
    for task in tasks.TASKS:
        drawn = tasks.draw(task, SUITE.split, SUITE.items, SUITE.seed)
        shown = found.items[found.items["task"] == task]
        assert shown["item"].tolist() == [item.id for item in drawn]
        assert shown["concept"].tolist() == [item.concept for item in drawn]
        assert shown["answer"].tolist() == [item.answer for item in drawn]


def test_every_score_is_the_likelihood_in_plain_torch(found, evaluator, tiny_base):
    net = model.with_state(tiny_base.architecture, tiny_base.weights)
    encode = tiny_base.tokenizer.encode
    for document in evaluator.documents["thing"][:3]:
        prompt = encode(document["prompt"])
        options = [encode(choice, add_special_tokens=False) for choice in document["choices"]]
        likelihoods = [nats(net, prompt) - nats(net, prompt + option) for option in options]
        items = found.items.set_index("item")
        np.testing.assert_allclose(
            items.loc[document["id"], "scores"], option_scores(document, likelihoods), atol=2e-4
        )


def test_a_model_that_knows_the_answers_gets_all_of_them(evaluator, tiny_base, monkeypatch):
    right = {
        (document["prompt"], document["choices"][document["answer"]])
        for documents in evaluator.documents.values()
        for document in documents
    }

    def knowing(self, requests, **_):
        return [(0.0 if request.args in right else -50.0, False) for request in requests]

    monkeypatch.setattr(SharedPromptLM, "loglikelihood", knowing)
    answered = evaluator(tiny_base.weights)
    accuracy = answered.scores.query("metric == 'accuracy'")
    assert accuracy["value"].tolist() == [1.0] * len(tasks.TASKS)
    assert answered.items["correct"].all()


def test_one_evaluator_for_two_models_is_as_good_as_two(evaluator, found, tiny_base):
    other = another(tiny_base.weights)
    reused = evaluator(other)
    alone = Evaluator(tiny_base.architecture, tiny_base.tokenizer, SUITE, batch_size=5)(other)
    assert reused.scores.equals(alone.scores)
    assert reused.items.equals(alone.items)
    assert not reused.items["scores"].equals(found.items["scores"])
    assert evaluator(tiny_base.weights).items.equals(found.items)


@pytest.mark.parametrize("task", ["topic", "action"])
def test_a_task_asked_alone_is_answered_as_among_the_others(found, tiny_base, task):
    alone = Evaluator(tiny_base.architecture, tiny_base.tokenizer, SUITE, batch_size=5, only=task)(
        tiny_base.weights
    )
    assert alone.scores["task"].tolist() == [task]
    assert alone.scores["value"].tolist() == [score_of(found, task)["value"]]
    among = found.items[found.items["task"] == task]
    for column in ("item", "prediction", "correct", "answer"):
        assert alone.items[column].tolist() == among[column].tolist()
    np.testing.assert_allclose(alone.items["margin"], among["margin"], atol=2e-4)


def test_the_text_asked_alone_is_measured_as_among_the_tasks(found, tiny_base):
    ask = Evaluator(tiny_base.architecture, tiny_base.tokenizer, SUITE, batch_size=5, only="text")
    alone = ask(tiny_base.weights)
    assert alone.items.empty
    (score,) = alone.scores.to_dict("records")
    among = score_of(found, "text")
    assert score["n"] == among["n"]
    assert score["value"] == pytest.approx(among["value"], abs=1e-6)
