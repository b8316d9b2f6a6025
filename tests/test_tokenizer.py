"""The tokenizer: nothing is lost, words stay whole, and an unseen script pays in bytes."""

import unicodedata
from functools import cache
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from langmerge import corpus, paths, tokenizer
from langmerge.languages import load
from langmerge.realize import Realizer
from langmerge.tasks import TASKS, draw

SHIPPED = sorted(path.stem for path in (paths.data() / "languages").glob("*.yaml"))


def texts(code, n=40, seed=0):
    return list(islice(corpus.documents(code, np.random.default_rng(seed)), n))


@cache
def english_only() -> PreTrainedTokenizerFast:
    return tokenizer.train(texts("eng_Latn", 200), 600)


@cache
def bilingual() -> PreTrainedTokenizerFast:
    return tokenizer.train(texts("eng_Latn", 200) + texts("tam_Taml", 200), 900)


@cache
def of_the_base() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(paths.data() / "base")


def back(tok, ids) -> str:
    return tok.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("make", [english_only, bilingual, of_the_base])
@pytest.mark.parametrize("code", [*SHIPPED, "zzz_0000"])
def test_every_languages_text_comes_back(make, code):
    tok, say = make(), Realizer(load(code))
    prompts = [item.prompt(say) for task in TASKS for item in draw(task, "test", 5, 0)]
    for text in texts(code) + prompts:
        assert back(tok, tok.encode(text)) == text


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_comes_back(text):
    assert back(english_only(), english_only().encode(text)) == text


def test_an_unseen_script_falls_back_to_bytes():
    tok = english_only()
    words = load("tam_Taml").form("thing", "rice"), load("tam_Taml").form("person", "mother")
    for word in words:
        ids = tok.encode(word, add_special_tokens=False)
        assert len(ids) == len(word.encode())
        assert back(tok, ids) == word


def test_a_script_that_was_seen_costs_less():
    tamil = texts("tam_Taml", seed=1)
    assert tokenizer.fertility(english_only(), tamil) > 10
    assert tokenizer.fertility(bilingual(), tamil) < 5
    assert 1 <= tokenizer.fertility(english_only(), texts("eng_Latn", seed=1)) < 3


def test_fertility_counts_tokens_a_word_without_the_document_token():
    tok = english_only()
    one = " the"  # the commonest word of the corpus is one token
    assert tokenizer.fertility(tok, [one]) == 1
    assert tokenizer.fertility(tok, ["த"]) == 3
    assert tokenizer.fertility(tok, [one, "த"]) == (1 + 3) / 2
    syllables = "ཨ་མས་འབྲས་ཟ།"
    assert tokenizer.fertility(tok, [syllables], "་") == len(syllables.encode()) / 4


@pytest.mark.parametrize("code", SHIPPED)
def test_combining_marks_do_not_split_words(code):
    """A vowel sign that ended a word made six tokens of a Tamil word instead of two."""
    pre = bilingual().backend_tokenizer.pre_tokenizer
    language = load(code)
    for words in language.words.values():
        for word in words.values():
            for form in [word] if isinstance(word, str) else word.values():
                # Tibetan's tsheg is punctuation and ends a syllable, as a hyphen does a part.
                if all(unicodedata.category(sign)[0] in "LM" for sign in form):
                    assert len(pre.pre_tokenize_str(" " + form)) == 1, form


def test_a_frequent_word_with_marks_becomes_one_token():
    word = " " + load("tam_Taml").form("thing", "butter")
    tok = tokenizer.train([word * 50], 400)
    assert len(tok.encode(word, add_special_tokens=False)) == 1


@pytest.mark.parametrize("make", [english_only, of_the_base])
def test_a_document_begins_with_the_end_of_the_last(make):
    tok = make()
    ids = tok.encode("the cow")
    assert tok.bos_token_id == tok.eos_token_id == tok.pad_token_id == ids[0] == 0
    assert ids.count(0) == 1
    assert ids[1:] == tok.encode("the cow", add_special_tokens=False)


def test_training_is_deterministic():
    again = tokenizer.train(texts("eng_Latn", 200), 600)
    assert again.get_vocab() == english_only().get_vocab()
    assert len(again) <= 600


def test_a_stream_holds_each_documents_tokens():
    tok, documents = english_only(), texts("eng_Latn", 30)
    stream = list(tokenizer.encode_stream(tok, iter(documents), batch=7))
    assert [ids.tolist() for ids in stream] == [tok.encode(text) for text in documents]
    assert {ids.dtype for ids in stream} == {np.dtype("uint16")}


def test_tokens_are_taken_in_whole_documents():
    tok, documents = english_only(), texts("eng_Latn", 30)
    sizes = [len(tok.encode(text)) for text in documents]
    for enough in (1, sizes[0], sizes[0] + 1, sum(sizes[:5])):
        taken = tokenizer.take_tokens(tok, documents, enough)
        assert sum(map(len, taken)) >= enough
        assert sum(map(len, taken[:-1])) < enough


def test_no_tokens_are_no_documents():
    """A target share of 1 leaves no English, not one English document."""
    assert tokenizer.take_tokens(english_only(), texts("eng_Latn", 3), 0) == []


@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(1, 16))
def test_packing_loses_the_remainder_alone(sizes, length):
    flat = np.arange(sum(sizes), dtype=np.uint16)
    documents = np.split(flat, np.cumsum(sizes)[:-1])
    rows = tokenizer.pack(documents, length)
    assert rows.shape == (len(flat) // length, length)
    assert rows.ravel().tolist() == flat[: len(flat) - len(flat) % length].tolist()


def test_a_grown_tokenizer_says_a_new_language_shorter_and_the_old_ones_as_before():
    tok = english_only()
    grown, pieces = tokenizer.grow(tok, texts("bod_Tibt", 200), 150)
    assert len(pieces) == 150 and len(grown) == len(tok) + 150
    told = texts("bod_Tibt", 20, seed=1)
    before, after = (sum(len(it.encode(text)) for text in told) for it in (tok, grown))
    assert after < 0.5 * before
    for text in texts("eng_Latn", 50, seed=1):
        assert grown.encode(text) == tok.encode(text)
    for text in told + texts("tam_Taml", 20):
        assert back(grown, grown.encode(text)) == text
    assert grown.eos_token_id == grown.bos_token_id == tok.eos_token_id
    assert grown.encode("a")[0] == tok.encode("a")[0]


def test_growing_by_nothing_changes_nothing():
    tok = english_only()
    grown, pieces = tokenizer.grow(tok, texts("bod_Tibt", 20), 0)
    assert pieces == []
    assert grown.get_vocab() == tok.get_vocab()


@pytest.mark.parametrize("tsheg", ["་", "། "])
def test_a_word_is_the_same_tokens_in_a_sentence_as_in_an_answer_without_spaces(tsheg):
    tibetan = load("bod_Tibt")
    tok = tokenizer.without_space_before(english_only(), tibetan.letters())
    tok, _ = tokenizer.grow(tok, texts("bod_Tibt", 200), 300)
    for concept in tibetan.words["things"]:
        word = tibetan.form("thing", concept)
        answer = tok.encode(" " + word, add_special_tokens=False)
        before = tok.encode("ཨ་མས" + tsheg.strip(), add_special_tokens=False)
        assert tok.encode("ཨ་མས" + tsheg + word, add_special_tokens=False) == before + answer


def test_no_space_is_dropped_but_before_those_letters():
    letters = load("bod_Tibt").letters()
    tok = tokenizer.without_space_before(of_the_base(), letters)
    for code in ("eng_Latn", "tam_Taml", "uig_Arab"):
        for text in texts(code, 20):
            assert tok.encode(text) == of_the_base().encode(text)
    for text in texts("bod_Tibt", 20):
        assert back(tok, tok.encode(text)) == text.replace(" ", "")
    assert back(tok, tok.encode("the འབྲས (rice) འབྲས་ rice  འབྲས")) == "theའབྲས (rice)འབྲས་ rice འབྲས"
    assert tok.encode("the cow")[0] == of_the_base().encode("the cow")[0]
