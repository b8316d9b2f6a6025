"""The lab's tokenizer: byte-level BPE trained on the base's mixture.

A language that the base has hardly seen falls back to bytes and pays the real
"tokenization tax": more tokens for the same sentence (its *fertility*).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
# GPT-2's pattern without its English contractions, and with combining marks counted as
# letters: without them every Tamil vowel sign ends a word (6 tokens a word instead of 2).
WORDS = r" ?[\p{L}\p{M}]+| ?\p{N}+| ?[^\s\p{L}\p{M}\p{N}]+|\s+"


def train(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; one special token both begins and ends a document."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
    )


def grow(
    tokenizer: PreTrainedTokenizerFast, texts: Iterable[str], more: int
) -> tuple[PreTrainedTokenizerFast, list[list[int]]]:
    """The tokenizer with new tokens for other texts, and which old tokens each is made of.

    Those merges of a tokenizer of the texts' own that lead to something new come behind all that
    are there, at most `more` of them: what the tokenizer splits into known tokens stays, with the
    same numbers. What the texts' own tokenizer would merge before ours merges something else is
    never reached; such a token costs a row of the embedding, and nothing else.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    ours = content["model"]
    # A good part of its merges is known: the alphabet, and the other language of bilingual text.
    own = tokenizer.train_new_from_iterator(
        texts, vocab_size=len(ours["vocab"]) + more, show_progress=False
    )
    merges = [tuple(pair) for pair in ours["merges"]]
    known = set(merges)
    pieces: list[list[int]] = []
    made_of = {token: [number] for token, number in ours["vocab"].items()}
    for pair in json.loads(own.backend_tokenizer.to_str())["model"]["merges"]:
        one, other = pair
        if len(pieces) == more:
            break
        if (one, other) in known or one not in made_of or other not in made_of:
            continue
        merges.append((one, other))
        if one + other not in made_of:
            ours["vocab"][one + other] = len(ours["vocab"])
            made_of[one + other] = made_of[one] + made_of[other]
            pieces.append(made_of[one + other])
    ours["merges"] = merges
    return _like(tokenizer, content), pieces


def without_space_before(
    tokenizer: PreTrainedTokenizerFast, letters: set[str]
) -> PreTrainedTokenizerFast:
    """The tokenizer that drops a space before one of these letters; other text is cut as ever.

    For a language without spaces between words: a word in a sentence and the same word behind the
    space that precedes an answer would otherwise have no token in common. Decoded text lacks
    those spaces.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    points = "".join(f"\\x{{{ord(letter):04X}}}" for letter in sorted(letters))
    dropped = {"type": "Split", "pattern": {"Regex": f" (?=[{points}])"}}
    content["pre_tokenizer"]["pretokenizers"].insert(
        0, dropped | {"behavior": "Removed", "invert": False}
    )
    return _like(tokenizer, content)


def _like(tokenizer: PreTrainedTokenizerFast, content: dict) -> PreTrainedTokenizerFast:
    """A tokenizer of that content with the special tokens of another."""
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    made = Tokenizer.from_str(json.dumps(content, ensure_ascii=False))
    return PreTrainedTokenizerFast(tokenizer_object=made, **special)


def encode_stream(
    tokenizer: PreTrainedTokenizerFast, documents: Iterable[str], batch: int = 512
) -> Iterator[np.ndarray]:
    """Each document's tokens as uint16, the end-of-text token first (it separates documents)."""
    documents = iter(documents)
    while chunk := list(islice(documents, batch)):
        for encoding in tokenizer.backend_tokenizer.encode_batch(chunk):
            yield np.array(encoding.ids, dtype=np.uint16)


def take_tokens(
    tokenizer: PreTrainedTokenizerFast, documents: Iterable[str], tokens: int
) -> list[np.ndarray]:
    """Whole documents until at least `tokens` tokens are there (none where tokens is 0)."""
    taken: list[np.ndarray] = []
    count = 0
    if tokens == 0:  # a target share of 1 leaves no English
        return taken
    for ids in encode_stream(tokenizer, documents):
        taken.append(ids)
        count += len(ids)
        if count >= tokens:
            break
    return taken


def pack(documents: list[np.ndarray], length: int) -> np.ndarray:
    """Concatenated documents cut into rows of `length` tokens; the remainder is dropped."""
    flat = np.concatenate(documents)
    rows = len(flat) // length
    return flat[: rows * length].reshape(rows, length)


def fertility(
    tokenizer: PreTrainedTokenizerFast, texts: Iterable[str], separator: str = " "
) -> float:
    """Tokens per orthographic word: tokens divided by the number of words between spaces.

    separator: what stands between words where that is no space; in Tibetan, whose tsheg stands
        between syllables, it is syllables that are counted.
    """
    texts = list(texts)
    words = sum(len(text.replace(separator, " ").split()) for text in texts)
    tokens = sum(
        len(encoding.ids) - 1 for encoding in tokenizer.backend_tokenizer.encode_batch(texts)
    )
    return tokens / words
