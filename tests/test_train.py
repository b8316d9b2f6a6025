"""Training: what carries loss, and that a run is a function of its weights, data and recipe."""

from functools import partial

import numpy as np
import pytest
import torch

from langmerge import model, train

ARCHITECTURE = model.config(vocab_size=50, hidden=16, layers=1, heads=2, intermediate=24)
RECIPE = train.Recipe(steps=6, batch=2, learning_rate=1e-2)


def rows(steps: int = 6) -> train.Rows:
    drawn = np.random.default_rng(0).integers(1, 50, size=(2 * steps, 8), dtype=np.uint16)
    return train.Rows(drawn)


def answers(n: int = 12) -> train.Answers:
    rng = np.random.default_rng(1)
    draw = lambda low, high: rng.integers(1, 50, size=rng.integers(low, high)).tolist()  # noqa: E731
    return train.Answers([(draw(2, 6), draw(1, 4)) for _ in range(n)])


def fresh():
    return model.new(ARCHITECTURE, seed=3)


def fit(data=None, recipe=RECIPE, **options) -> model.StateDict:
    return model.state(train.fit(fresh(), data or rows(), recipe, **options))


def assert_same(one: model.StateDict, other: model.StateDict) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def differ(one: model.StateDict, other: model.StateDict) -> bool:
    return any(not torch.equal(one[name], other[name]) for name in one)


# --- what carries loss ---------------------------------------------------------------------


def test_the_answer_alone_has_labels():
    batch = train.collate_answers([([7, 8, 9], [4, 5]), ([3], [6])])
    ignored = train.IGNORED
    assert batch["input_ids"].tolist() == [[7, 8, 9, 4, 5], [3, 6, 0, 0, 0]]
    assert batch["labels"].tolist() == [
        [ignored, ignored, ignored, 4, 5],
        [ignored, 6, ignored, ignored, ignored],
    ]


def test_loss_is_the_mean_over_answer_tokens_given_what_precedes_them():
    net = fresh().eval()
    examples = [answers()[i] for i in range(5)]
    by_hand = []
    for prompt, answer in examples:
        # Without padding and neighbours: one sequence at a time.
        logits = net(input_ids=torch.tensor([prompt + answer])).logits[0]
        for offset, token in enumerate(answer):
            by_hand.append(-logits[len(prompt) + offset - 1].log_softmax(-1)[token].item())
    loss = net(**train.collate_answers(examples)).loss.item()
    assert loss == pytest.approx(np.mean(by_hand), abs=1e-5)


@pytest.mark.parametrize("kind", ["rows", "answers"])
def test_two_steps_are_two_steps_of_adamw_with_clipped_gradients(kind):
    """The Trainer does nothing beside what the recipe says."""
    recipe = train.Recipe(steps=2, batch=2, learning_rate=1e-2, weight_decay=0.1)
    data = rows(2) if kind == "rows" else answers(4)
    collate = train.collate_rows if kind == "rows" else train.collate_answers
    net = fresh().train()
    decays = lambda name: "norm" not in name  # noqa: E731
    groups = [
        {"params": [p for n, p in net.named_parameters() if decays(n)], "weight_decay": 0.1},
        {"params": [p for n, p in net.named_parameters() if not decays(n)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95), eps=1e-8)
    for step in range(2):
        batch = collate([data[2 * step], data[2 * step + 1]])
        net(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    expected, found = model.state(net), fit(data, recipe)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=2e-5, rtol=1e-4)


# --- a run is a function -------------------------------------------------------------------


@pytest.mark.parametrize("data", [rows(), answers()], ids=["rows", "answers"])
def test_the_same_run_twice_gives_the_same_bits(data):
    once = fit(data)
    assert_same(once, fit(data))
    assert differ(once, model.state(fresh()))


def test_the_order_of_the_data_is_the_order_given():
    turned = train.Rows(rows().rows[::-1].copy())
    assert differ(fit(rows()), fit(turned))


def test_weights_handed_out_are_those_of_a_run_that_stops_there():
    kept = {}
    final = fit(keep_at=lambda step, weights: kept.update({step: weights}), steps={2, 6})
    assert kept.keys() == {2, 6}
    assert_same(kept[2], fit(recipe=train.Recipe(2, RECIPE.batch, RECIPE.learning_rate)))
    assert_same(kept[6], final)
    assert differ(kept[2], kept[6])


def test_progress_counts_every_step():
    seen = []
    fit(progress=seen.append)
    assert seen == [1, 2, 3, 4, 5, 6]


# --- a killed run --------------------------------------------------------------------------


class Killed(Exception):
    pass


def kill_at(step: int, now: int) -> None:
    if now == step:
        raise Killed


COSINE = train.Recipe(6, 2, 1e-2, schedule="cosine", warmup_steps=2, weight_decay=0.1)


def interrupted(folder, at: int = 5) -> None:
    with pytest.raises(Killed):
        fit(recipe=COSINE, progress=partial(kill_at, at), resume_folder=folder, save_steps=2)


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path):
    interrupted(tmp_path)
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    seen = []
    resumed = fit(recipe=COSINE, progress=seen.append, resume_folder=tmp_path, save_steps=2)
    assert seen == [5, 6]  # it went on, and did not begin again
    assert_same(resumed, fit(recipe=COSINE))


@pytest.mark.parametrize("rest", ["nothing", "half"])
def test_a_checkpoint_that_a_kill_left_half_written_is_passed_over(tmp_path, rest):
    interrupted(tmp_path)
    state = tmp_path / "checkpoint-4" / "trainer_state.json"
    text = state.read_text()
    state.unlink() if rest == "nothing" else state.write_text(text[: len(text) // 2])
    seen = []
    resumed = fit(recipe=COSINE, progress=seen.append, resume_folder=tmp_path, save_steps=2)
    assert seen == [3, 4, 5, 6]
    assert_same(resumed, fit(recipe=COSINE))


def test_a_finished_run_is_not_trained_further(tmp_path):
    once = fit(recipe=COSINE, resume_folder=tmp_path, save_steps=2)
    seen = []
    again = fit(recipe=COSINE, progress=seen.append, resume_folder=tmp_path, save_steps=2)
    assert seen == []
    assert_same(again, once)


# --- weights in and out --------------------------------------------------------------------


def test_weights_survive_the_file_and_the_model(tmp_path):
    weights = fit()
    model.save(weights, tmp_path / "weights.safetensors")
    assert_same(model.read(tmp_path / "weights.safetensors"), weights)
    rebuilt = model.with_state(ARCHITECTURE, weights)
    assert_same(model.state(rebuilt), weights)
    ids = torch.arange(1, 9)[None]
    original = model.load_state(fresh(), weights).eval()
    assert torch.equal(rebuilt(input_ids=ids).logits, original(input_ids=ids).logits)


def test_weights_that_lack_a_parameter_are_refused():
    weights = model.state(fresh())
    del weights["model.norm.weight"]
    with pytest.raises(ValueError, match=r"model\.norm\.weight"):
        model.load_state(fresh(), weights)
