"""Families of further models, for real on toy models: what they are, and that nothing mixes."""

import itertools

import pytest
import torch
from conftest import write_profile

from langmerge import arms, base, experts, families, grid, oracle, profiles, reference, study
from langmerge.errors import LangmergeError
from langmerge.merging.task_vectors import norm, task_vector
from langmerge.profiles import BASELINES, BEYOND, FROZEN, REPEATED

BUDGETS = [512, 1024]
SETTINGS = {
    "ct_then_sft_slow": {"learning_rate": 5e-4, "steps": 2},
    "ct_then_sft_replay": {"learning_rate": 1e-3, "steps": 3, "replay": 1.0},
    "joint": {"learning_rate": 1e-3, "steps": 3},
    **{method: {"repeat_steps": 2} for method in REPEATED},
    "ties_mean_repeated": {"repeat_steps": 5},
    "ct_then_sft_frozen": {"learning_rate": 1e-3, "steps": 3},
    "task_arithmetic_frozen": {"w_ct": 0.5, "w_sft": 2.0},
    "ties_mean_frozen": {"density_ct": 0.6, "density_sft": 0.6},
    "layer_swapping_frozen": {"bottom": 0, "top": 1, "transition": 0},
}
TUNED = {"widen": {"t": 0.5, "s": 1.0}}


@pytest.fixture(scope="module")
def plan(tiny_lab):
    default = profiles.load("tiny").default | SETTINGS
    every = {"families": ["beyond", "untuned"], "default": default, "tuned": TUNED}
    write_profile(tiny_lab.home, "full", items=2, tasks=["kind"], **every)
    return profiles.load("full")


@pytest.fixture(scope="module")
def starts(plan):
    return grid.starts(plan, processes=1, quiet=True)


def made(family, plan, starts):
    return families.cells(family, plan, starts, processes=1, quiet=True)


def keyed(cells):
    found = {(cell.method, cell.setting, cell.ct_tokens): cell for cell in cells}
    assert len(found) == len(cells)
    return found


def length(cell):
    return norm(task_vector(cell.expert.weights(), cell.load_base().weights))


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


# --- merges --------------------------------------------------------------------------------


def test_every_remedy_is_there_as_tuned_and_untuned(plan, starts):
    found = keyed(made("beyond", plan, starts))
    wanted = {(m, "default", b) for m in BEYOND for b in BUDGETS if m != "scaled_sft"}
    wanted |= {("widen", "tuned", budget) for budget in BUDGETS} | {("scaled_sft", "default", 0)}
    assert found.keys() == wanted
    without = plan.model_copy(update={"families": ["beyond"]})
    assert found.keys() - keyed(made("beyond", without, starts)).keys() == {
        ("widen", "default", budget) for budget in BUDGETS
    }
    assert {found[m, "default", 512].params["seed"] for m in families.RANDOM} == {0}


def test_updates_get_the_length_of_the_other_end(plan, starts):
    found = keyed(made("mechanism", plan, starts))
    lengths = {cell.ct_tokens: length(cell) for cell in starts if cell.method == "ct"}
    early, late = (found["rescaled_ct", f"{end} norm", budget]
                   for end, budget in (("early", 1024), ("late", 512)))  # fmt: skip
    assert early.params["scale_ct"] * lengths[1024] == pytest.approx(lengths[512])
    assert late.params["scale_ct"] * lengths[512] == pytest.approx(lengths[1024])
    assert ("rescaled_ct", "early norm", 512) not in found
    draws = [cell for key, cell in found.items() if key[0] == "random_drop" and key[2] == 512]
    assert len({cell.params["seed"] for cell in draws}) == len(draws) == families.DRAWS


def test_the_trimmed_sft_vector_has_nothing_of_ct(plan, starts):
    alone = keyed(made("mechanism", plan, starts))["trimmed_sft", "default", 0]
    sft = next(cell for cell in starts if cell.method == "sft")
    start = alone.load_base().weights
    tau, whole = (task_vector(cell.weights(), start) for cell in (alone, sft))
    for name in start:
        kept = tau[name] != 0
        torch.testing.assert_close(tau[name][kept], whole[name][kept], atol=1e-5, rtol=1e-4)
        assert kept.float().mean() <= 0.7 + 1 / kept.numel()


def test_a_sweep_changes_one_setting_of_its_method(plan, starts):
    for cell in made("sensitivity", plan, starts):
        sweep = cell.method.removeprefix("sensitivity/")
        merge, what, values = families.SWEEPS[sweep]
        rest = families.around(plan, sweep, merge)
        changed = {k for k, v in cell.params.items() if rest.get(k) != v} | {what}
        assert changed == {what} and cell.params[what] in values
    assert {cell.method for cell in made("sensitivity", plan, starts)} == {
        f"sensitivity/{sweep}" for sweep in families.SWEEPS
    }


def test_parts_of_the_updates_stand_beside_the_layers_of_sft(plan, starts):
    """With the SFT model and task arithmetic they are every choice of the three other parts."""
    found = keyed(made("parts", plan, starts))
    at = {method: {key[2] for key in found if key[0] == method} for method in families.PARTS}
    assert at.pop("parts/none") == {0} and all(its == set(BUDGETS) for its in at.values())
    choices = {frozenset(its) for its in families.PARTS.values()}
    every = ("ct_embeddings", "ct_layers", "sft_embeddings")
    known = {frozenset(["sft_embeddings"]), frozenset(every)}
    assert len(choices) == 6 and not choices & known
    sft = next(cell for cell in starts if cell.method == "sft")
    ct = next(cell for cell in starts if cell.method == "ct" and cell.ct_tokens == 512)
    tau_ct, tau_sft = (task_vector(it.weights(), sft.load_base().weights) for it in (ct, sft))
    for method, there in families.PARTS.items():
        cell = found[method, "fixed", 512 if method != "parts/none" else 0]
        tau = task_vector(cell.weights(), cell.load_base().weights)
        for name in tau:
            part = "layers" if ".layers." in name else "embeddings"
            wanted = tau_ct[name] * (f"ct_{part}" in there)
            wanted = wanted + tau_sft[name] * (part == "layers" or "sft_embeddings" in there)
            torch.testing.assert_close(tau[name], wanted, atol=1e-5, rtol=1e-4)


# --- training ------------------------------------------------------------------------------


def test_baselines_are_trained_from_where_their_names_say(plan, starts):
    found = keyed(made("baselines", plan, starts))
    assert found.keys() == {(m, "default", b) for m, b in itertools.product(BASELINES, BUDGETS)}
    weights = {key: cell.weights() for key, cell in found.items()}
    for one, other in itertools.combinations(weights, 2):
        assert not same(weights[one], weights[other]), (one, other)
    base_of = base.load(starts[0].base)
    for budget in BUDGETS:
        entry = found["joint", "default", budget].expert.path.parent / "entry.json"
        assert '"start": "base"' in entry.read_text()
    # A smaller budget of SFT-then-CT is the beginning of the same run.
    alone = plan.model_copy(update={"budgets": [512]})
    first = arms.baselines(alone, [c for c in starts if c.ct_tokens in (0, 512)], 1, True)
    again = keyed(first)["sft_then_ct", "default", 512]
    assert again.expert.sha256 == found["sft_then_ct", "default", 512].expert.sha256
    assert base_of.hash == again.load_base().hash


def test_steps_of_both_kinds_alternate_evenly_and_keep_their_order():
    mixed = experts.interleaved(list(range(6)), ["a", "b"])
    assert [x for x in mixed if isinstance(x, int)] == list(range(6))
    assert mixed == [0, 1, "a", 2, 3, 4, "b", 5] or mixed == [0, "a", 1, 2, 3, 4, "b", 5]
    assert experts.interleaved([], [1, 2]) == [1, 2]


def test_replay_reads_the_text_of_its_budget_again_and_no_more(plan, tiny_base):
    text = plan.continual_pretraining
    batches = experts._text_batches(tiny_base, "tam_Taml", 0, text, 512, 5)
    assert len(batches) == 5
    assert torch.equal(batches[0]["input_ids"], batches[2]["input_ids"])
    assert not torch.equal(batches[0]["input_ids"], batches[1]["input_ids"])
    rows = experts._ct_rows(tiny_base, "tam_Taml", 0, text, 512)
    assert batches[0]["input_ids"].tolist() == rows[:4].tolist()


def test_repeated_text_changes_the_ct_expert_of_a_method_and_nothing_else(plan, starts):
    found = keyed(made("repeated", plan, starts))
    read = {("ct_repeated", f"{n} steps", b) for n, b in itertools.product((2, 5), BUDGETS)}
    named = {(m, "default", b) for m, b in itertools.product(REPEATED, BUDGETS)}
    assert found.keys() == read | named
    plain = {cell.ct_tokens: cell for cell in starts if cell.method == "ct"}
    for budget in BUDGETS:
        two, five = (found["ct_repeated", f"{n} steps", budget] for n in (2, 5))
        assert 0 < length(plain[budget]) < length(two) < length(five)
        for method, merge in REPEATED.items():
            cell = found[method, "default", budget]
            if merge == "ct_then_sft":
                assert cell.params["repeat_steps"] == 2 and cell.params["steps"]
                continue
            assert cell.ct == (five if method == "ties_mean_repeated" else two).expert
            assert (cell.merge, cell.params) == (merge, grid.best(plan, merge)[1])
            assert study.is_diagnosed(cell) == (method == "ties_mean_repeated")


def test_reading_again_goes_on_over_the_text_of_the_budget(plan, starts, tiny_base):
    """Two steps of a run of five are those of a run of two; the store has both afterwards."""
    ct = next(cell for cell in starts if cell.ct_tokens == 512 and cell.method == "ct")
    text = plan.continual_pretraining
    on = (study.Store(), tiny_base, "tam_Taml", 0, text, 512, ct.expert)
    alone = experts.read_again(*on, (3,))
    assert experts.read_again(*on, (3, 4), only_find=True) is None
    both = experts.read_again(*on, (3, 4))
    assert both[3].sha256 == alone[3].sha256 != both[4].sha256
    net = experts.model.with_state(tiny_base.architecture, ct.weights())
    rows = experts._ct_rows(tiny_base, "tam_Taml", 0, text, 512)
    again = experts.train.Rows(rows[[n % len(rows) for n in range(3 * text.batch)]])
    experts.train.fit(net.train(), again, experts.train.Recipe(3, text.batch, text.learning_rate))
    assert same(experts.model.state(net), alone[3].weights())


def test_a_profile_names_the_baselines_that_it_runs(plan, starts):
    few = plan.model_copy(update={"only": ["joint", "average_repeated", "ties_mean_frozen"]})
    assert {cell.method for cell in made("baselines", few, starts)} == {"joint"}
    assert {cell.method for cell in made("frozen", few, starts)} == {
        "sft_frozen",
        "ties_mean_frozen",
    }
    assert {cell.method for cell in made("repeated", few, starts)} == {
        "ct_repeated",
        "average_repeated",
    }


@pytest.mark.parametrize(
    ("family", "method", "key"),
    [
        ("baselines", "joint", "step"),
        ("repeated", "average_repeated", "steps"),
        ("frozen", "ct_then_sft_frozen", "step"),
    ],
)
def test_a_setting_that_no_training_has_is_named(plan, starts, family, method, key):
    wrong = plan.model_copy(update={"default": plan.default | {method: {key: 3}}})
    with pytest.raises(LangmergeError, match=rf"default\.{method}.*{key}"):
        made(family, wrong, starts)


def test_frozen_embeddings_are_those_that_sft_started_from(plan, starts):
    found = keyed(made("frozen", plan, starts))
    named = {(m, "default", b) for m, b in itertools.product(FROZEN, BUDGETS)}
    assert found.keys() == named | {("sft_frozen", "fixed", 0)}
    sft = found["sft_frozen", "fixed", 0]
    plain = next(cell for cell in starts if cell.method == "sft")
    cts = {cell.ct_tokens: cell for cell in starts if cell.method == "ct"}

    def moved(cell, start):
        there, before = cell.weights(), start
        return {name for name in before if not torch.equal(there[name], before[name])}

    layers = {name for name in sft.load_base().weights if ".layers." in name}
    assert moved(sft, sft.load_base().weights) == layers
    assert moved(plain, sft.load_base().weights) > layers
    for budget in BUDGETS:
        tuned = found["ct_then_sft_frozen", "default", budget]
        assert moved(tuned, cts[budget].expert.weights()) == layers
        assert tuned.params["freeze_embeddings"] and tuned.params["steps"] == 3
        for method, like in FROZEN.items():
            cell = found[method, "default", budget]
            if like != "ct_then_sft":
                assert (cell.merge, cell.params) == (like, SETTINGS[method])
                assert (cell.ct, cell.sft) == (cts[budget].expert, sft.expert)


def test_sft_that_trains_everything_is_known_as_it_was(plan):
    """Older runs have no word on frozen embeddings in their keys."""
    usual = plan.finetuning
    assert set(usual.model_dump()) == {"learning_rate", "steps", "batch"}
    assert "freeze_embeddings" not in plan.identity()["finetuning"]
    frozen = usual.model_copy(update={"freeze_embeddings": True})
    assert frozen.model_dump() == usual.model_dump() | {"freeze_embeddings": True}


def test_an_arm_changes_ct_alone_and_its_models_have_names_of_their_own(plan, starts, monkeypatch):
    monkeypatch.setitem(arms.ARMS, "bilingual", {"bilingual 90 %": 0.9})
    found = keyed(made("bilingual", plan, starts))
    assert {key[0].split("/")[0] for key in found} == {"bilingual 90 %"}
    plain = {cell.ct_tokens: cell for cell in starts if cell.method == "ct"}
    for budget in BUDGETS:
        ct = found["bilingual 90 %/ct", "fixed", budget]
        assert ct.expert.sha256 != plain[budget].expert.sha256
        merged = found["bilingual 90 %/ties_mean", "default", budget]
        assert merged.ct == ct.expert and study.is_diagnosed(merged)
    faster = arms.with_ct(plan, "rates", 2.0).continual_pretraining
    assert faster.learning_rate == 2 * plan.continual_pretraining.learning_rate
    assert plan.continual_pretraining.spec().keys() == faster.spec().keys() - {"bilingual"}


def test_an_arm_has_the_methods_that_the_profile_runs(plan, starts):
    few = plan.model_copy(update={"only": ["ties_sv"]})
    found = keyed(made("faster", few, [cell for cell in starts if cell.ct_tokens in (0, 512)]))
    (name,) = arms.ARMS["faster"]
    assert {(method, setting) for method, setting, _ in found} == {
        (f"{name}/ct", "fixed"),
        (f"{name}/ties_sv", "default"),
        (f"{name}/ties_sv", "without slack"),
    }
    assert arms.ARMS["faster"].items() <= arms.ARMS["rates"].items()


# --- the whole, and its key ----------------------------------------------------------------


def test_the_oracle_takes_what_does_best_on_the_languages_own_dev_items(plan, starts, monkeypatch):
    monkeypatch.setattr(oracle, "METHODS", ("average",))
    monkeypatch.setattr(oracle, "CANDIDATES", 3)
    few = [cell for cell in starts if cell.ct_tokens in (0, 512)]
    (cell,) = made("oracle", plan, few)
    assert (cell.method, cell.setting) == ("average", "oracle")
    tried = oracle.candidates(plan, "average")
    assert tried[0] == grid.best(plan, "average")[1] and cell.params in tried
    ct, sft = grid.pairs(few)[0]
    asked = study.suite(plan, "tam_Taml", 0, split="dev")
    trials = [grid.merge_cell(ct, sft, "average", "x", "average", params=it) for it in tried]
    rows = [study.scores([(trial, asked)]) for trial in trials]
    means = [it[it["task"] == "kind"]["value"].mean() for it in rows]
    assert cell.params == tried[means.index(max(means))]


@pytest.fixture(scope="module")
def slices(plan, tiny_lab):
    """A slice of a profile with a family, saved and read."""
    every = {"families": ["beyond"], "default": plan.default, "tuned": {}, "slacks": [1]}
    write_profile(tiny_lab.home, "fuller", budgets=[512], items=2, **every)
    reference.run("fuller", processes=1, quiet=True)
    return reference.load("fuller")


def test_a_slice_keeps_its_families_and_what_each_block_took(slices):
    assert set(BEYOND) <= set(slices.rows["method"])
    cost = reference.cost("fuller").set_index("block")
    assert list(cost.index) == ["core", "beyond"]
    assert (cost["seconds"] > 0).all() and cost.loc["beyond", "models"] == len(BEYOND)
    assert (cost["to_do"] == 0).all()


def test_the_key_knows_the_families_and_only_the_methods_that_are_run(slices):
    how = profiles.load("fuller")
    (one,) = reference.slices(how)

    def key(**changed):
        return one.key(how.model_copy(update=changed))

    assert one.is_done(how)
    assert key(families=[]) != key() != key(families=["beyond", "mechanism"])
    assert key(tuned={"joint": {"steps": 9}}) == key()
    assert key(tuned={"widen": {"t": 0.5}}) != key()
    assert key(families=[], tuned={"widen": {"t": 0.5}}) == key(families=[])


def test_the_key_of_a_profile_without_families_is_of_the_settings_alone():
    """As it was before there were families: the committed slices are known by it."""
    plan = profiles.load("reference")
    aside = {"languages", "seeds", "bases", "name", "note", "families", "only", "budgets_of"}
    before = plan.model_dump(exclude=aside)
    del before["continual_pretraining"]["bilingual"]
    for which in ("default", "tuned"):
        before[which] = {k: v for k, v in before[which].items() if k in profiles.CORE}
    assert families.identity(plan) == before


def test_an_unknown_family_is_named():
    with pytest.raises(LangmergeError, match=r"families\.0.*beyond"):
        profiles.load("lab", families=["byond"])
