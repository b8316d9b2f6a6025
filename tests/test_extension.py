"""Extending a base by a language that it has not met."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY_LANGUAGES

from langmerge import base, extension, languages, model_card, readiness, tokenizer
from langmerge.errors import LangmergeError
from langmerge.extension import Extension

NEW = "zzz_0002"
SHORT = Extension(
    tokens=60_000, learning_rate=1e-3, vocabulary=40, rehearsal=0.5, tolerance=0.1, exposure=1
)


@pytest.fixture
def quick(monkeypatch):
    """A short extension with a short card, its readiness asked with the tiny profile."""
    monkeypatch.setattr(extension, "recipe", lambda: SHORT)
    for name in ("TEXTS", "FERTILITY_DOCUMENTS"):
        monkeypatch.setattr(model_card, name, 2)
    monkeypatch.setattr(readiness, "PROFILE", "tiny")


@pytest.fixture
def judged_ready(monkeypatch):
    monkeypatch.setattr(readiness, "is_ready", lambda rows: True)


def test_the_new_text_is_the_languages_trace_among_the_mixture(tiny_base, monkeypatch):
    monkeypatch.setattr(extension, "recipe", lambda: SHORT)
    tok, _ = extension.grown_tokenizer(tiny_base, [languages.load(NEW)])
    rows = extension.make_rows(tiny_base, tok, [NEW])
    assert rows.size == pytest.approx(SHORT.tokens, rel=0.1)
    assert np.array_equal(rows, extension.make_rows(tiny_base, tok, [NEW]))
    assert len(extension.trace(tiny_base, tok, NEW)) == extension.exposure(tiny_base)
    thrice = SHORT.model_copy(update={"exposure": 3})
    monkeypatch.setattr(extension, "recipe", lambda: thrice)
    texts = extension._texts(tiny_base, languages.load(NEW))
    assert len(set(texts)) == len(texts) == 3 * extension.exposure(tiny_base)
    monkeypatch.setattr(extension, "recipe", lambda: SHORT)
    # Less of English is rehearsed than the mixture has.
    english = [_english(tiny_base, tok, monkeypatch, power) for power in (1, 0.5, 0)]
    assert english[0] > 1.2 * english[1] > 1.4 * english[2]
    # Text of its own: nothing of it is the base's.
    ours = {ids.tobytes() for ids in extension.trace(tiny_base, tok, TINY_LANGUAGES[0])}
    theirs = {row.tobytes() for row in base.make_rows(tiny_base.recipe, tiny_base.tokenizer)}
    assert not ours & theirs


def _english(parent, tok, monkeypatch, power):
    """How many tokens of the rehearsal are English, with the mixture's shares to some power."""
    how = SHORT.model_copy(update={"rehearsal": power})
    monkeypatch.setattr(extension, "recipe", lambda: how)
    asked = {}

    def take(tok, texts, tokens):
        asked[next(texts)] = tokens
        return take_tokens(tok, texts, min(tokens, 200))

    take_tokens = tokenizer.take_tokens
    with monkeypatch.context() as patch:
        patch.setattr(tokenizer, "take_tokens", take)
        extension.make_rows(parent, tok, [NEW])
    first = next(base.documents(parent.recipe, "eng_Latn", extension.STREAM))
    return asked[first]


def test_an_extended_base_is_another_that_studies_find(tiny_lab, quick, judged_ready):
    parent = base.load()
    folder, standing, lost = extension.extend([NEW])
    found = base.meeting("base", NEW)
    assert found.folder == folder
    assert found.hash != parent.hash
    assert set(found.languages) == {*parent.languages, NEW}
    assert found.extended["parent"] == parent.hash
    assert base.meeting("base", TINY_LANGUAGES[0]).hash == parent.hash
    assert set(standing["language"]) == {NEW}
    assert NEW in (folder / "README.md").read_text()
    assert json.loads((folder / "base.json").read_text())["extended"]["tokens"][NEW] > 0
    for name, weights in found.weights.items():
        before = parent.weights[name]
        assert not torch.equal(weights[: len(before)], before), f"{name} was not trained"
    assert len(found.tokenizer) == len(parent.tokenizer) + SHORT.vocabulary
    assert found.architecture.vocab_size == len(found.tokenizer) != parent.architecture.vocab_size
    assert list(lost["language"]) == ["eng_Latn", *TINY_LANGUAGES]
    assert (lost["within"] == (lost["after"] <= 1.1 * lost["before"])).all()


def test_a_new_token_starts_as_the_mean_of_its_pieces(tiny_base, monkeypatch):
    monkeypatch.setattr(extension, "recipe", lambda: SHORT)
    tok, pieces = extension.grown_tokenizer(tiny_base, [languages.load(NEW)])
    net = extension._grown_model(tiny_base, pieces)
    old = tiny_base.weights["model.embed_tokens.weight"]
    rows = net.get_input_embeddings().weight.detach()
    assert torch.equal(rows[: len(old)], old)
    assert net.get_output_embeddings().weight is net.get_input_embeddings().weight
    for number, its in enumerate(pieces, start=len(old)):
        assert torch.allclose(rows[number], old[its].mean(dim=0))
        said = tok.convert_ids_to_tokens(number)
        assert "".join(tiny_base.tokenizer.convert_ids_to_tokens(its)) == said


def test_a_language_that_was_not_learnt_is_no_study(tiny_lab, quick):
    folder, standing, _ = extension.extend(["zzz_0004"])
    # Eight items of a base of a few thousand parameters: nothing is above chance.
    assert (standing["standing"] == "at chance").any()
    with pytest.raises(LangmergeError, match="study would be one of noise") as error:
        base.meeting("base", "zzz_0004")
    assert "bases: [base+zzz_0004]" in str(error.value)
    assert base.meeting(folder.name, "zzz_0004").folder == folder


def test_it_extends_by_what_is_new_alone(tiny_lab, monkeypatch):
    for codes, told in (
        ([], "no language"),
        ([TINY_LANGUAGES[0]], "met it already"),
        (["eng_Latn"], "met it already"),
        ([NEW, NEW], "named twice"),
        (["zzz_00002"], "no language 'zzz_00002'"),
    ):
        with pytest.raises(LangmergeError, match=told):
            extension.extend(codes)
    monkeypatch.setattr(extension, "recipe", lambda: SHORT.model_copy(update={"tokens": 500}))
    with pytest.raises(LangmergeError, match=r"too little .* for rehearsal"):
        extension.extend([NEW])


def test_a_base_that_is_not_there_is_named(tiny_lab):
    with pytest.raises(LangmergeError, match="no base 'bsae'"):
        base.folder_of("bsae")


@pytest.mark.parametrize(
    ("low", "high", "standing"),
    [(0.2, 0.5, "at chance"), (0.3, 0.96, "at the ceiling"), (0.3, 0.9, "between")],
)
def test_standing(low, high, standing):
    row = next(pd.DataFrame([{"low": low, "high": high, "chance": 0.25}]).itertuples())
    assert readiness._standing(row, ceiling=0.95) == standing


def test_unfinished_training_of_another_recipe_or_text_is_not_gone_on_from(tiny_base, monkeypatch):
    monkeypatch.setattr(extension, "recipe", lambda: SHORT)
    before = extension._digest(tiny_base, [NEW])
    assert extension._digest(tiny_base, ["zzz_0004"]) != before
    monkeypatch.setattr(extension, "recipe", lambda: SHORT.model_copy(update={"exposure": 2}))
    assert extension._digest(tiny_base, [NEW]) != before
