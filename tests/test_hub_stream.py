"""Training on streamed hub data: the real clients, a hub on this machine, no network."""

import io
import os
import random
import subprocess
import sys

import pandas as pd
import pytest
import yaml
from hub_server import TOKEN, Hub, served
from test_scale import hub as tiny  # noqa: F401  (a fixture: a tiny base and its tokenizer)

from langmerge.scale.training import read_log

FINEWEB, CULTURAX, MODEL = "HuggingFaceFW/fineweb-2", "uonlp/CulturaX", "example/tiny-llama"
CARD = """---
configs:
- config_name: tel_Telu
  data_files:
  - split: train
    path: data/tel_Telu/train/*
  - split: test
    path: data/tel_Telu/test/*
- config_name: tam_Taml
  data_files:
  - split: train
    path: data/tam_Taml/train/*
---
"""


def parquet(texts):
    """Documents with the columns of FineWeb-2, several row groups a file."""
    frame = pd.DataFrame({"text": texts, "id": [f"<urn:{i}>" for i in range(len(texts))]})
    frame = frame.assign(dump="CC-MAIN-2013-20", url="http://example.org", language="tel")
    out = io.BytesIO()
    frame.to_parquet(out, row_group_size=40)
    return out.getvalue()


@pytest.fixture
def hub(tiny):  # noqa: F811
    """A hub with a model and two data sets, one of them gated; served while a test runs."""
    rng = random.Random(1)
    words = ["ko", "lima", "sa", "teru", "bani", "dor", "mek"]
    texts = [" ".join(rng.choices(words, k=rng.randint(5, 30))) for _ in range(400)]
    made = Hub()
    base = {path.name: path.read_bytes() for path in (tiny / "base").iterdir()}
    made.add("model", MODEL, base)
    files = {
        f"data/{code}/{split}/00{part}.parquet": parquet(texts[part * 200 :][:200])
        for code, split in (("tel_Telu", "train"), ("tel_Telu", "test"), ("tam_Taml", "train"))
        for part in range(2)
    }
    made.add("dataset", FINEWEB, {"README.md": CARD.encode(), **files})
    card = CARD.replace("tel_Telu", "te").encode()
    files = {f"data/{it}/0.parquet": parquet(texts) for it in ("te/train", "te/test", "ta/train")}
    made.add("dataset", CULTURAX, {"README.md": card.replace(b"tam_Taml", b"ta"), **files})
    made.gate(CULTURAX, TOKEN)
    with served(made):
        yield made


@pytest.fixture
def train(hub, tmp_path):
    """Run `langmerge train ct` on the hub's data in a process of its own, as a user would."""

    def run(dataset=FINEWEB, config="tel_Telu", *options, out="run", token=None, **more):
        raw = {
            "model": MODEL,
            "out": str(tmp_path / out),
            "tokens": 512,
            "budgets": [256],
            "save_steps": 2,
            "sequence": 32,
            "tokens_per_step": 128,
            "per_device_batch": 2,
            "learning_rate": 1e-2,
            "data": [{"dataset": dataset, "config": config, **more}],
        }
        path = tmp_path / f"{out}.yaml"
        path.write_text(yaml.safe_dump(raw))
        home = {"HF_HOME": str(tmp_path / "hf"), "LANGMERGE_HOME": str(tmp_path / "home")}
        env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        env |= home | {"HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_XET": "1"}
        if token:
            env["HF_TOKEN"] = token
        command = [sys.executable, "-m", "langmerge", "train", "ct", str(path), *options]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        return done, tmp_path / out

    return run


def test_a_model_and_its_text_come_from_the_hub(train, hub):
    done, out = train()
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.glob("tokens-*")} == {"tokens-256", "tokens-512"}
    losses = [line["loss"] for line in read_log(out / "log.jsonl")]
    assert len(losses) == 4 and losses[-1] < losses[0]
    asked = set(hub.files_asked())
    assert "data/tel_Telu/train/000.parquet" in asked
    assert not {name for name in asked if "tam_Taml" in name or "/test/" in name}


def test_a_connection_that_is_cut_is_taken_up_again(train, hub):
    whole, out = train(FINEWEB, "tel_Telu", "--prepare")
    assert whole.returncode == 0, whole.stderr
    file = "data/tel_Telu/train/000.parquet"
    hub.cut[file] = [1500]
    cut, other = train(FINEWEB, "tel_Telu", "--prepare", out="cut")
    assert cut.returncode == 0, cut.stderr
    assert hub.cut[file] == []
    ours, theirs = (next(it.rglob("rows.bin")).read_bytes() for it in (out, other))
    assert ours == theirs


def test_a_gated_data_set_is_read_with_a_token_alone(train):
    refused, out = train(CULTURAX, "te")
    assert refused.returncode == 2
    assert CULTURAX in refused.stderr and "hf auth login" in refused.stderr
    assert not list(out.glob("tokens-*"))
    done, out = train(CULTURAX, "te", "--prepare", token=TOKEN)
    assert done.returncode == 0, done.stderr
    assert next(out.rglob("rows.bin")).stat().st_size >= 4 * 512


def test_a_configuration_or_column_that_is_not_there_is_named(train):
    done, _ = train(config="te_Latn")
    assert done.returncode == 2
    assert "'te_Latn'" in done.stderr and "tel_Telu" in done.stderr
    done, _ = train(column="txt")
    assert done.returncode == 2
    assert "no column 'txt'" in done.stderr and "text" in done.stderr


def test_a_data_set_that_is_not_there_is_named(train):
    done, _ = train("nobody/nothing")
    assert done.returncode == 2
    assert "nobody/nothing" in done.stderr and "Traceback" not in done.stderr
