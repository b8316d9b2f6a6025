"""Tiny stand-ins for what is released: checkpoints and data in the very layout of the real ones.

The base and the SFT model are sharded safetensors, the CT model pickled ``.bin`` shards; all have
an index, a configuration and tokenizer files. Items have the columns of Belebele, SIB-200 and
MiLiC-Eval.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Mapping
from pathlib import Path

import torch
from hub_server import Hub
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

BASE = "meta-llama/Llama-2-7b-hf"
CT = "pkupie/Llama-2-7b-tam"
SFT = "pkupie/Llama-2-7b-FLAN-step884"
BELEBELE, SIB, MILIC = "facebook/belebele", "Davlan/sib200", "pkupie/milic-eval"
TOPICS = ("science/technology", "travel", "politics", "sports", "health")
WORDS = ["மழை", "வீடு", "பள்ளி", "மரம்", "the", "of", "rain", "house", "school", "tree", "sea"]
CARD = b"---\nlicense: llama2\n---\nA model.\n"


def tokenizer_files(vocabulary: int = 320) -> dict[str, bytes]:
    """A byte-level BPE as transformers saves one, and a sentencepiece file beside it."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    return {
        "tokenizer.json": made.to_str().encode(),
        "tokenizer_config.json": json.dumps(config).encode(),
        "special_tokens_map.json": json.dumps({"bos_token": "<s>", "eos_token": "</s>"}).encode(),
        "tokenizer.model": b"sentencepiece",
    }


def architecture() -> LlamaConfig:
    """A Llama of two layers."""
    return LlamaConfig(
        hidden_size=16, intermediate_size=24, num_attention_heads=2, num_key_value_heads=1,
        num_hidden_layers=2, vocab_size=320, max_position_embeddings=1024,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip


def weights(seed: int, start: Mapping[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """Weights in fp16; near to `start` where it is given."""
    torch.manual_seed(seed)
    if start is None:
        state = LlamaForCausalLM(architecture()).state_dict()
        return {name: tensor.half() for name, tensor in state.items()}
    return {
        name: (tensor.float() + 0.02 * seed * torch.randn(tensor.shape)).half()
        for name, tensor in start.items()
    }


def as_safetensors(state: Mapping[str, torch.Tensor], folder: Path) -> dict[str, bytes]:
    """What save_pretrained writes, in several shards."""
    model = LlamaForCausalLM(architecture()).half()
    model.load_state_dict(state)
    model.save_pretrained(folder, max_shard_size="8KB")
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sum(name.endswith(".safetensors") for name in found) > 1
    return found


def as_bins(state: Mapping[str, torch.Tensor]) -> dict[str, bytes]:
    """Pickled shards with their index, as older versions of transformers wrote them."""
    names = sorted(state)
    halves = {1: names[: len(names) // 2], 2: names[len(names) // 2 :]}
    files, where = {}, {}
    for number, part in halves.items():
        buffer = io.BytesIO()
        shard = f"pytorch_model-{number:05d}-of-00002.bin"
        torch.save({name: state[name] for name in part}, buffer)
        files[shard] = buffer.getvalue()
        where |= dict.fromkeys(part, shard)
    size = sum(tensor.numel() * 2 for tensor in state.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    files["pytorch_model.bin.index.json"] = json.dumps(index).encode()
    config = {**architecture().to_dict(), "architectures": ["LlamaForCausalLM"]}
    files["config.json"] = json.dumps({**config, "torch_dtype": "float16"}).encode()
    return files


def belebele(items: int, seed: int = 0) -> bytes:
    """Questions, two on a passage."""
    draw = random.Random(seed)
    lines = []
    for number in range(items):
        answers = {f"mc_answer{k}": draw.choice(WORDS) for k in (1, 2, 3, 4)}
        lines.append(
            {
                "link": f"https://en.wikibooks.org/wiki/{number // 2}",
                "question_number": number % 2 + 1,
                "flores_passage": " ".join(random.Random(number // 2).choices(WORDS, k=6)),
                "question": draw.choice(WORDS) + "?",
                **answers,
                "correct_answer_num": str(draw.randint(1, 4)),
                "dialect": "tam_Taml",
                "ds": "2023-05-03",
            }
        )
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()


def sib(items: int, seed: int = 0) -> bytes:
    """Sentences with their topic, as tab-separated values."""
    draw = random.Random(seed)
    rows = ["index_id\tcategory\ttext"]
    rows += [
        f"{number}\t{draw.choice(TOPICS)}\t{' '.join(draw.choices(WORDS, k=5))}"
        for number in range(items)
    ]
    return ("\n".join(rows) + "\n").encode()


def milic(items: int, seed: int = 0) -> dict[str, bytes]:
    """Three tasks of MiLiC-Eval in Mongolian, each one JSON list."""
    draw = random.Random(seed)

    def options() -> dict[str, object]:
        return {"options": draw.choices(WORDS, k=4), "answer": draw.choice("ABCD")}

    def dialogue() -> list[str]:
        return [f"A: {draw.choice(WORDS)}", f"B: {draw.choice(WORDS)}"]

    makers = {
        "reading_comprehension": lambda: {"context": dialogue(), "question": draw.choice(WORDS)},
        "response_selection": lambda: {"context": dialogue()},
        "vocabulary": lambda: {"word": draw.choice(WORDS)},
    }
    return {
        f"data/{task}/mn/test.json": json.dumps(
            [{"id": f"{task}-{k}", **make(), **options()} for k in range(items)], ensure_ascii=False
        ).encode()
        for task, make in makers.items()
    }


def configs(file: str, *codes: str) -> bytes:
    """A data set's card with a configuration a language; `file` has {code} in it."""
    lines = ["---", "configs:"]
    for code in codes:
        path = file.format(code=code)
        lines += [f"- config_name: {code}", "  data_files:", "  - split: test", f"    path: {path}"]
    return "\n".join([*lines, "---", ""]).encode()


def fill(hub: Hub, folder: Path) -> None:
    """Put the paper's Tamil triple and the data into a hub."""
    base = weights(0)
    common = {"README.md": CARD, "modeling_evil.py": b"raise SystemExit", **tokenizer_files()}
    hub.add("model", BASE, {**as_safetensors(base, folder / "base"), **common, "LICENSE.txt": b"L"})
    hub.add("model", CT, {**as_bins(weights(1, base)), **common})
    hub.add("model", SFT, {**as_safetensors(weights(2, base), folder / "sft"), **common})
    fill_data(hub)


def fill_data(hub: Hub) -> None:
    """The data sets, of two languages, so that the wrong one could be taken."""
    lines = {"data/tam_Taml.jsonl": belebele(8), "data/tel_Telu.jsonl": belebele(8, 1)}
    card = configs("data/{code}.jsonl", "tam_Taml", "tel_Telu")
    hub.add("dataset", BELEBELE, {"README.md": card, **lines})
    table = {"data/tam_Taml/test.tsv": sib(7), "data/tel_Telu/test.tsv": sib(7, 1)}
    card = configs("data/{code}/test.tsv", "tam_Taml", "tel_Telu")
    hub.add("dataset", SIB, {"README.md": card, **table})
    hub.add("dataset", MILIC, {"README.md": b"# MiLiC-Eval\n", **milic(5)})


def study(folder: Path, **changes: object) -> Path:
    """A study file with the shipped triple's names at the size of these stand-ins."""
    import yaml

    from langmerge import paths

    raw = yaml.safe_load((paths.data() / "paper.yaml").read_text())
    raw["triples"] = {"paper": {**raw["triples"]["paper"], "parameters": 12_000}}
    raw["grid"] = {
        "average": {"alpha": 0.5},
        "ties": {"weight": 0.5, "density": 0.7},
        "ties_sv": {"weight": 0.5, "density": 0.7, "slack": [1, float("inf")]},
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**raw, **changes}, sort_keys=False))
    return path
