"""The base: its recipe, its making, and what is said where its files are not as they were."""

import json
import re
import shutil
import stat
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import yaml
from conftest import TINY_LANGUAGES, TINY_RECIPE, write_profile
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from langmerge import base, cli, model, model_card, paths, profiles, readiness, train
from langmerge.base import FILES, BaseRecipe
from langmerge.errors import LangmergeError
from langmerge.files import sha256


@pytest.fixture
def quick_card(monkeypatch, tmp_path):
    """A small card, and a home of the test's own for the expert that it measures."""
    monkeypatch.setenv("LANGMERGE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(readiness, "PROFILE", "tiny")
    write_profile(paths.home(), "tiny")
    monkeypatch.setattr(model_card, "TEXTS", 2)
    monkeypatch.setattr(model_card, "FERTILITY_DOCUMENTS", 2)


@pytest.fixture
def copied(tiny_files, tmp_path):
    """A copy of the tiny base that a test may damage."""
    return shutil.copytree(tiny_files.base, tmp_path / "copied")


def write_recipe(folder, **changes):
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(TINY_RECIPE | changes))
    return path


# --- the recipe ----------------------------------------------------------------------------


@given(
    tokens=st.integers(1000, 10**8),
    share=st.floats(1e-4, 0.3),
    languages=st.sets(st.sampled_from(["tam_Taml", "zzz_0000", "zzz_0001"])),
)
def test_quotas_sum_to_the_tokens(tokens, share, languages):
    trace = TINY_RECIPE["trace"] | {"share": share, "languages": sorted(languages)}
    quotas = BaseRecipe.model_validate(TINY_RECIPE | {"tokens": tokens, "trace": trace}).quotas()
    assert sum(quotas.values()) == tokens
    assert quotas.keys() == {"eng_Latn", *languages}
    assert {quotas[code] for code in languages} <= {int(tokens * share)}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tokns": 5}, "tokns"),
        ({"tokens": "many"}, "tokens"),
        ({"vocab_size": 100_000}, "vocab_size"),
        ({"trace": {"share": 0.1, "modes": {"sung": 1.0}, "languages": []}}, "sung"),
        ({"trace": {"share": 0.4, "modes": {}, "languages": TINY_LANGUAGES}}, "English"),
        ({"trace": {"share": 0.1, "modes": {}, "languages": ["tam_Tamil"]}}, "tam_Taml"),
        ({"trace": {"share": 0.1, "modes": {}, "languages": ["eng_Latn"]}}, "eng_Latn"),
        ({"trace": {"share": 0.1, "modes": {}, "languages": ["tam_Taml"] * 2}}, "twice"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_named(tmp_path, changes, told):
    path = write_recipe(tmp_path, **changes)
    with pytest.raises(LangmergeError) as error:
        base.recipe(path)
    assert told in str(error.value)
    assert str(path) in str(error.value)


def test_a_missing_and_an_unreadable_recipe_are_named(tmp_path):
    path = tmp_path / "none.yaml"
    with pytest.raises(LangmergeError, match=r"none\.yaml"):
        base.recipe(path)
    path.write_text("tokens: [1")
    with pytest.raises(LangmergeError, match=r"none\.yaml"):
        base.recipe(path)


def test_the_shipped_recipe_is_sound():
    how = base.recipe()
    assert sum(how.quotas().values()) == how.tokens
    assert min(how.quotas(), key=how.quotas().get) != "eng_Latn"


# --- making it -----------------------------------------------------------------------------


def test_the_training_data_are_the_mixture_of_the_recipe(tiny_base):
    how = BaseRecipe.model_validate(TINY_RECIPE)
    rows = base.make_rows(how, tiny_base.tokenizer)
    assert rows.shape[1] == how.sequence
    # Whole documents are taken, so a little more than the quota of each language.
    assert how.tokens <= rows.size + how.sequence <= how.tokens * 1.1
    assert np.array_equal(rows, base.make_rows(how, tiny_base.tokenizer))
    tamil = [any("஀" <= letter <= "௿" for letter in text) for text in decoded(tiny_base, rows)]
    assert 0.05 < np.mean(tamil) < 0.5  # shuffled in, not all at one end
    assert 0.02 < np.mean(tamil[: len(tamil) // 3]) < 0.6


def decoded(loaded, rows) -> list[str]:
    return [loaded.tokenizer.decode(row) for row in rows]


def test_the_base_learnt_from_its_data(tiny_base):
    how = BaseRecipe.model_validate(TINY_RECIPE)
    batch = train.collate_rows(list(base.make_rows(how, tiny_base.tokenizer)[:32]))
    untrained = model.new(tiny_base.architecture, how.seed).eval()
    trained = model.with_state(tiny_base.architecture, tiny_base.weights)
    with torch.inference_mode():
        assert trained(**batch).loss < untrained(**batch).loss - 0.5


def test_made_twice_it_has_the_same_hashes(tiny_files, tmp_path, monkeypatch, quick_card):
    monkeypatch.setenv("LANGMERGE_HOME", str(tmp_path / "home"))
    steps = []
    again = base.build(tmp_path / "again", tiny_files.recipe, lambda *now: steps.append(now))
    assert hashes(again) == hashes(tiny_files.base)
    assert base.load(again).hash == base.load(tiny_files.base).hash
    total = steps[-1][1]
    assert steps == [(step, total) for step in range(1, total + 1)]
    assert not list((tmp_path / "home/base").iterdir())  # unfinished state is gone


class Killed(Exception):
    pass


def test_killed_and_resumed_it_has_the_same_hashes(tiny_files, tmp_path, monkeypatch, quick_card):
    monkeypatch.setenv("LANGMERGE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(train, "fit", partial(train.fit, save_steps=10))
    out = tmp_path / "out"

    def kill(step: int, steps: int) -> None:
        if step == 25:
            raise Killed

    with pytest.raises(Killed):
        base.build(out, tiny_files.recipe, kill)
    assert not out.exists()
    seen = []
    base.build(out, tiny_files.recipe, lambda step, _: seen.append(step))
    assert seen[0] == 21
    assert hashes(out) == hashes(tiny_files.base)


def test_killed_while_it_is_put_into_place_it_is_not_trained_again(
    tiny_files, tmp_path, monkeypatch, quick_card
):
    monkeypatch.setenv("LANGMERGE_HOME", str(tmp_path / "home"))

    def kill(*_) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(model_card, "write", kill)
        with pytest.raises(Killed):
            base.build(tmp_path / "out", tiny_files.recipe)
    seen = []
    base.build(tmp_path / "out", tiny_files.recipe, lambda step, _: seen.append(step))
    assert seen == []
    assert hashes(tmp_path / "out") == hashes(tiny_files.base)


def hashes(folder) -> dict[str, str]:
    return {name: sha256(folder / name) for name in FILES}


def test_the_published_files_are_readable_by_all(tiny_files):
    names = {*FILES, "base.json", "README.md", base.READINESS}
    assert {path.name for path in tiny_files.base.iterdir()} == names
    for name in FILES:
        assert stat.S_IMODE((tiny_files.base / name).stat().st_mode) == 0o644, name


def test_a_base_made_anew_is_the_one_that_is_loaded_next(tiny_files, copied):
    before = base.load(copied)
    weights = {name: tensor + 1 for name, tensor in before.weights.items()}
    other = shutil.copytree(copied, copied.parent / "other")
    model.save(weights, other / "model.safetensors")
    base.publish(other, copied, base.recipe(tiny_files.recipe))
    assert base.load(copied).hash != before.hash
    name = "model.norm.weight"
    assert torch.equal(base.load(copied).weights[name], before.weights[name] + 1)


# --- its card ------------------------------------------------------------------------------


def front_matter(card: str) -> dict:
    return yaml.safe_load(card.split("---")[1])


def test_readiness_is_judged_on_the_items_that_the_shipped_card_was_judged_on():
    """A default profile with fewer of them must not move a language to chance."""
    plan = profiles.load(readiness.PROFILE)
    card = (paths.data() / "base" / "README.md").read_text(encoding="utf-8")
    assert f"on {plan.items} items a task of the dev split" in card
    assert f"`{readiness.PROFILE}`, seed {readiness.SEED}" in card


def test_the_card_says_what_the_base_is_and_does(tiny_files):
    card = (tiny_files.base / "README.md").read_text()
    assert front_matter(card)["license"] == "apache-2.0"
    recipe = card.split("```yaml\n")[1].split("```")[0]
    assert yaml.safe_load(recipe) == TINY_RECIPE
    for digest in hashes(tiny_files.base).values():
        assert digest in card
    rows = [line for line in card.splitlines() if line.startswith("| ") and "_" in line]
    for code, tokens in base.recipe(tiny_files.recipe).quotas().items():
        (row,) = [row for row in rows if f"({code})" in row]
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1] == f"{tokens:,}"
        a_concept, fertility, bits, *accuracies = map(float, cells[2:-1])
        assert a_concept == pytest.approx(tokens / 153, abs=0.5)
        assert 1 < fertility < 12
        assert 0.5 < bits < 8
        assert len(accuracies) == 4
        assert all(0 <= accuracy <= 1 for accuracy in accuracies)
        assert cells[-1] == "none"  # a base of this size carries nothing over


def test_the_card_has_the_command_that_makes_this_base(tiny_base, tiny_files, monkeypatch):
    def made(name, how=None, **extended):
        named = replace(tiny_base, folder=tiny_base.folder.parent / name, extended=extended)
        return model_card.command(named, how or named.recipe)

    monkeypatch.setenv("LANGMERGE_BASE", str(tiny_base.folder))
    assert model_card.command(tiny_base, tiny_base.recipe) == "python -m langmerge base"
    usual = base.recipe().model_copy(update={"seed": 3})
    assert made("second", usual) == "python -m langmerge base --name second --seed 3"
    assert made("wide").endswith("base --name wide --recipe FILE")
    assert made("base+epo_Latn", languages=["epo_Latn"]).endswith("extend --language epo_Latn")


def test_the_card_can_be_written_to_an_existing_base(tiny_files, copied, quick_card):
    (copied / "README.md").unlink()
    written = model_card.write(copied, base.recipe(tiny_files.recipe))
    assert written == copied / "README.md"
    assert "on 2 held-out documents" in written.read_text()
    base.load(copied)  # the card is not one of the hashed files


def test_what_the_card_measures_is_measured(tiny_base, quick_card):
    measured = model_card.measure(tiny_base, "zzz_0001")
    weights = {name: torch.zeros_like(tensor) for name, tensor in tiny_base.weights.items()}
    blank = base.Base(**vars(tiny_base) | {"weights": weights})
    at_chance = model_card.measure(blank, "zzz_0001")
    assert at_chance["fertility"] == measured["fertility"]
    assert at_chance["text"] > measured["text"]


# --- loading it ----------------------------------------------------------------------------


def test_it_is_found_where_langmerge_base_points(tiny_files, monkeypatch):
    monkeypatch.setenv("LANGMERGE_BASE", str(tiny_files.base))
    assert paths.base() == tiny_files.base
    assert base.load().folder == tiny_files.base
    assert base.load() is base.load(tiny_files.base)
    monkeypatch.delenv("LANGMERGE_BASE")
    assert paths.base() == paths.data() / "base"


def test_it_knows_what_it_has_met(tiny_base):
    assert tiny_base.languages == tuple(TINY_LANGUAGES)
    for language in TINY_LANGUAGES:
        tiny_base.require(language)


@pytest.mark.parametrize("name", FILES)
def test_a_tampered_file_is_named_with_its_hash_and_the_mend(copied, name):
    path = copied / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(LangmergeError) as error:
        base.load(copied)
    for told in (str(path), sha256(path)[:12], "python -m langmerge base"):
        assert told in str(error.value)


def test_a_missing_file_is_named_with_the_mend(copied):
    (copied / "tokenizer.json").unlink()
    with pytest.raises(LangmergeError, match=r"tokenizer\.json is missing.*langmerge base"):
        base.load(copied)


def test_a_missing_base_is_named_with_the_mend(tmp_path):
    with pytest.raises(LangmergeError) as error:
        base.load(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "python -m langmerge base" in str(error.value)


@pytest.mark.parametrize("text", ["{", "{}", json.dumps({"sha256": None}), "[]"])
def test_a_damaged_manifest_is_named(copied, text):
    (copied / "base.json").write_text(text)
    with pytest.raises(LangmergeError, match=r"base\.json is corrupted"):
        base.load(copied)


@pytest.fixture
def known(tiny_files, tmp_path, monkeypatch):
    """The tiny base as one of the user's own, and its manifest as one that ships alone."""
    monkeypatch.setenv("LANGMERGE_HOME", str(tmp_path / "home"))
    alone = tmp_path / "shipped"
    monkeypatch.setattr(base, "_further", lambda: alone)
    own = shutil.copytree(tiny_files.base, tmp_path / "home/bases/wide")
    (alone / "wide").mkdir(parents=True)
    shutil.copy(own / "base.json", alone / "wide")
    return own


def test_results_of_a_base_that_does_not_ship_are_known_by_its_manifest(known):
    with_weights = base.hash_of("wide", "tam_Taml")
    assert with_weights == base.load(known).hash
    shutil.rmtree(known)
    assert base.hash_of("wide", "tam_Taml") == with_weights
    with pytest.raises(base.NotMet, match="wide has not met bod_Tibt"):
        base.hash_of("wide", "bod_Tibt")
    with pytest.raises(LangmergeError, match=r"wide does not ship.*--name wide --recipe"):
        base.folder_of("wide")
    with pytest.raises(LangmergeError, match=r"no base .wider.*wide"):
        base.hash_of("wider", "tam_Taml")


def test_a_base_whose_recipe_ships_is_told_how_to_train_it(known):
    recipe = re.escape(str(paths.data() / "base_recipe_large.yaml"))
    with pytest.raises(LangmergeError, match=rf"base --name large --recipe {recipe}` does so"):
        base.folder_of("large")


def test_a_base_that_ships_is_found_after_one_of_the_users_own(known, tmp_path):
    shipped = tmp_path / "shipped/wide"
    shutil.copytree(known, shipped, dirs_exist_ok=True)
    assert base.folder_of("wide") == known
    own = base.hash_of("wide", "tam_Taml")
    shutil.rmtree(known)
    assert base.folder_of("wide") == shipped
    assert base.hash_of("wide", "tam_Taml") == own == base.known("wide").hash
    assert base.meeting("wide", "tam_Taml").folder == shipped


def test_a_base_that_does_not_ship_is_trained_by_what_is_known_of_it(known, quick_card):
    told, recipe = base.known("wide"), base.load(known).recipe
    shutil.rmtree(known)
    assert base.is_known_alone("wide")
    made = base.load(base.rebuild("wide"))
    assert made.folder == known and made.recipe == recipe == told.recipe
    assert made.hash == told.hash == base.hash_of("wide", "tam_Taml"), "the same machine"
    assert not base.is_known_alone("wide")


def test_another_base_is_made_beside_the_shipped_one(tiny_files, tmp_path, monkeypatch, quick_card):
    monkeypatch.setenv("LANGMERGE_HOME", str(tmp_path / "home"))
    run = partial(CliRunner().invoke, cli.app)
    recipe = ["--recipe", str(tiny_files.recipe)]
    done = run(["base", "--name", "second", *recipe, "--seed", "7"], catch_exceptions=False)
    assert done.exit_code == 0
    second = base.load(base.folder_of("second"))
    assert second.folder == tmp_path / "home/bases/second"
    assert second.recipe.seed == 7
    assert second.hash != base.load(tiny_files.base).hash


@pytest.mark.parametrize(
    "asked", [["--seed", "1"], ["--name", "base"], ["--name", "../x"], ["--name", "base+gsw_Latn"]]
)
def test_no_base_takes_the_name_of_another(asked, tmp_path, monkeypatch):
    monkeypatch.setenv("LANGMERGE_BASE", str(tmp_path / "base"))
    with pytest.raises(LangmergeError, match="name"):
        CliRunner().invoke(cli.app, ["base", *asked], catch_exceptions=False)
    assert not (tmp_path / "base").exists()


def test_a_language_that_it_has_not_met_comes_with_how_to_add_it(tiny_base):
    with pytest.raises(LangmergeError) as error:
        tiny_base.require("ben_Beng")
    message = str(error.value)
    for told in ("ben_Beng", "tam_Taml", "langmerge base extend --language ben_Beng"):
        assert told in message


def test_english_is_no_target(tiny_base):
    with pytest.raises(LangmergeError, match="eng_Latn is the language of the instructions"):
        tiny_base.require("eng_Latn")
