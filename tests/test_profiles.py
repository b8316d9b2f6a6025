"""Profiles: what ships is valid, what a user writes is found, and mistakes are explained."""

import pytest
import yaml

from langmerge import paths, profiles
from langmerge.errors import LangmergeError

SHIPPED = sorted(path.stem for path in (paths.data() / "profiles").glob("*.yaml"))


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a profile of the user's own into LANGMERGE_HOME."""
    monkeypatch.setenv("LANGMERGE_HOME", str(tmp_path))
    (tmp_path / "profiles").mkdir()

    def put(name, content):
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        (tmp_path / "profiles" / f"{name}.yaml").write_text(text, encoding="utf-8")
        return name

    return put


def complaint(name, **overrides) -> str:
    with pytest.raises(LangmergeError) as caught:
        profiles.load(name, **overrides)
    assert len(str(caught.value).splitlines()) == 1 or ".yaml" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_profile_is_valid_and_knows_its_name(name):
    profile = profiles.load(name)
    assert profile.name == name
    assert profile.continual_pretraining.target_share == 0.8, "4 : 1"
    assert name == "pilot" or profile.only or max(profile.slacks) == float("inf")
    for budget in profile.budgets:
        assert budget % profile.continual_pretraining.tokens_per_step == 0


def test_the_lab_is_of_the_size_that_it_promises():
    lab = profiles.load("lab")
    assert len(lab.budgets) <= 4
    assert len(lab.seeds) == 3
    assert lab.english_items >= 1000


def test_overrides_replace_keys_and_none_leaves_them():
    profile = profiles.load("smoke", seeds=[7], items=12, languages=None)
    assert (profile.seeds, profile.items) == ([7], 12)
    assert profile.languages == profiles.load("smoke").languages


def test_a_profile_of_some_methods_has_a_key_of_its_own():
    every, some = profiles.load("lab"), profiles.load("lab", only=["average", "target_sft"])
    assert all(every.runs(method) for method in (*profiles.CORE, *profiles.CONTROLS))
    assert some.runs("average") and not some.runs("ties_mean")
    assert "only" not in every.identity(), "older runs have no such key"
    assert some.identity() == every.identity() | {"only": ["average", "target_sft"]}


def test_a_method_may_be_run_at_some_budgets_alone():
    every, some = (
        profiles.load("lab", **more) for more in ({}, {"budgets_of": {"target_sft": [409600]}})
    )
    assert "budgets_of" not in every.identity(), "older runs have no such key"
    assert some.identity() == every.identity() | {"budgets_of": {"target_sft": [409600]}}
    assert every.runs("target_sft", 4096) and not some.runs("target_sft", 4096)
    assert some.runs("target_sft") and some.runs("target_sft", 409600)
    assert some.runs("ties_mean", 4096)
    untuned = profiles.load("lab", budgets_of={"default.ct_then_sft": [409600]})
    assert untuned.runs("ct_then_sft", 4096, "tuned")
    assert not untuned.runs("ct_then_sft", 4096, "default")
    assert untuned.runs("ct_then_sft", 409600, "default")
    part = profiles.load("lab", budgets_of={"target_sft": [409600]}, budgets=[4096])
    assert not part.runs("target_sft", 4096), "a part of a run is not another run"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"target_sfr": [4096]}, "no method 'target_sfr'"),
        ({"half_sft": [4096]}, "no method 'half_sft'"),
        ({"untuned.ct_then_sft": [4096]}, "default.ct_then_sft"),
        ({"target_sft": [4097]}, "target_sft at 4097 CT tokens, which is none of"),
        ({"target_sft": []}, "budgets_of"),
    ],
)
def test_budgets_of_a_method_are_some_of_the_profile(given, said):
    assert said in complaint("lab", budgets_of=given)


def test_an_unknown_method_is_named_with_its_neighbours():
    told = complaint("lab", only=["tiess_mean"])
    assert "no method 'tiess_mean'" in told and "ties_mean" in told


def test_settings_leave_out_what_was_not_tuned(write):
    write("mine", {"extends": "lab", "tuned": {"average": {"alpha": 0.3}}})
    mine = profiles.load("mine")
    assert set(mine.settings("average")) == {"tuned", "default"}
    assert mine.settings("average")["tuned"] == {"alpha": 0.3}
    assert set(mine.settings("ties_mean")) == {"default"}
    assert mine.settings("no_such_method") == {}


@pytest.mark.parametrize(
    ("name", "near"),
    [("labb", "lab"), ("smok", "smoke"), ("", "lab"), ("../lab", "lab"), (3, "lab")],
)
def test_an_unknown_profile_names_the_nearest(name, near):
    assert f"no profile {name!r}" in complaint(name) and near in complaint(name)


def test_an_unknown_override_names_the_nearest_key():
    assert "'seed'" in complaint("smoke", seed=[1])
    assert "did you mean seeds" in complaint("smoke", seed=[1])


def test_an_unknown_key_in_a_file_names_file_and_nearest_key(write):
    message = complaint(write("mine", {"extends": "smoke", "budget": [8192]}))
    assert "mine.yaml" in message and "'budget'" in message and "budgets" in message


def test_an_unknown_key_further_in_is_named(write):
    training = {"learning_rate": 1e-3, "steps": 3, "batch": 2, "epochs": 1}
    message = complaint(write("mine", {"extends": "smoke", "finetuning": training}))
    assert "finetuning.epochs" in message


def test_an_unknown_task_names_the_nearest():
    message = complaint("smoke", tasks=["topic", "kinds"])
    assert "'kinds'" in message and "did you mean kind" in message


@pytest.mark.parametrize(
    ("seeds", "what"),
    [
        (["0"], "seeds.0: '0' is no integer"),
        ([0, 1.0], "seeds.1: 1.0 is no integer"),
        ([True], "seeds.0: True is no integer"),
        ([-1], "seeds.0: Input should be greater than or equal to 0"),
        ([None], "seeds.0: None is no integer"),
        ([], "seeds: "),
        (0, "seeds: Input should be a valid list"),
        ("01", "seeds: Input should be a valid list"),
        ([3, 1, 3], "seeds: given twice: 3"),
    ],
)
def test_seeds_are_different_integers_from_zero_on(seeds, what):
    assert f"profile smoke: {what}" in complaint("smoke", seeds=seeds)


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ({"budgets": [2048 * 3 + 1]}, "6145 is no multiple of 2048 tokens, one CT step: 6144"),
        ({"budgets": [7]}, "2048 is the nearest"),
        ({"budgets": [0]}, "budgets.0"),
        ({"budgets": [True]}, "budgets.0: True"),
        ({"budgets": [2048, 2048]}, "budgets: given twice: 2048"),
        ({"items": 0}, "items"),
        ({"items": -3}, "items"),
        ({"items": "many"}, "items: 'many' is no integer"),
        ({"text_documents": 1}, "text_documents"),
        ({"tasks": []}, "tasks"),
        ({"tasks": ["kind", "kind"]}, "tasks: given twice: kind"),
        ({"languages": []}, "languages"),
        ({"languages": ["tam_Taml", "tam_Taml"]}, "languages: given twice: tam_Taml"),
        ({"slacks": [-1]}, "slacks.0"),
        ({"slacks": [float("nan")]}, "slacks.0"),
        ({"slacks": ["lots"]}, "slacks.0"),
        ({"finetuning": {"learning_rate": 0, "steps": 1, "batch": 1}}, "finetuning.learning_rate"),
        ({"finetuning": {"learning_rate": 1e-3, "steps": 1.5, "batch": 1}}, "finetuning.steps"),
        ({"finetuning": {"steps": 3}}, "finetuning.learning_rate: Field required"),
    ],
)
def test_a_value_that_cannot_be_is_named(override, what):
    assert what in complaint("smoke", **override)


@pytest.mark.parametrize("key", ["batch", "sequence"])
def test_a_step_of_no_tokens_is_an_error(key):
    settings = profiles.load("smoke").continual_pretraining.model_dump() | {key: 0}
    assert f"continual_pretraining.{key}" in complaint("smoke", continual_pretraining=settings)


def test_a_users_own_profile_is_found_and_extends_a_shipped_one(write):
    write("mine", {"extends": "smoke", "seeds": [4], "slacks": [0.5]})
    mine, smoke = profiles.load("mine"), profiles.load("smoke")
    assert (mine.name, mine.seeds, mine.slacks) == ("mine", [4], [0.5])
    unchanged = {"seeds": [4], "slacks": [0.5], "name": "mine"}
    assert mine.model_dump() == smoke.model_dump() | unchanged


def test_a_users_own_profile_comes_before_the_shipped_one(write):
    write("smoke", {"extends": "lab", "items": 11})
    assert profiles.load("smoke").items == 11


@pytest.mark.parametrize("circle", [{"one": "one"}, {"one": "two", "two": "one"}])
def test_a_circle_of_extends_is_shown(write, circle):
    for name, parent in circle.items():
        write(name, {"extends": parent})
    message = complaint("one")
    assert "circle" in message and message.endswith(
        "one -> " + "".join(f"{name} -> " for name in list(circle)[1:]) + "one"
    )


@pytest.mark.parametrize(("parent", "what"), [("labb", "did you mean lab"), (3, "no profile 3")])
def test_a_parent_that_is_unknown_is_named_with_its_child(write, parent, what):
    message = complaint(write("mine", {"extends": parent}))
    assert what in message and "that mine extends" in message


@pytest.mark.parametrize(
    "text", ["- a\n- b\n", "just words", "3", "seeds: [", "seeds: [1]\nseeds: [2]"]
)
def test_a_file_that_is_no_profile_is_named(write, text):
    assert "mine.yaml" in complaint(write("mine", text))


def test_an_empty_file_lacks_everything(write):
    assert "seeds: Field required" in complaint(write("mine", ""))


@pytest.mark.parametrize("given", ["data/profiles/lab.yaml", "/tmp/mine.yaml", "mine.yaml"])
def test_a_path_in_place_of_a_name_is_told_where_the_file_goes(given):
    said = complaint(given)
    assert "by its name, not by a path" in said and "NAME.yaml" in said


def test_a_file_in_another_encoding_is_named(write, tmp_path):
    write("mine", "")
    (tmp_path / "profiles" / "mine.yaml").write_bytes("seeds: [1]  # é".encode("latin-1"))
    assert "mine.yaml" in complaint("mine")
