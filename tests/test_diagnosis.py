"""What `langmerge diagnose` shows: its table, its figure and its JSON."""

import json
import math

import pandas as pd
import pytest
import torch

from langmerge import diagnosis, merging, plotting

SLACKS = (0.0, 1.0, math.inf)


@pytest.fixture(scope="module")
def found():
    """A diagnosis of a random model for three slacks, with one tensor that nobody changed."""
    draw = torch.Generator().manual_seed(0)
    shapes = {"model.embed_tokens.weight": (9, 4), "model.norm.weight": (4,)}
    for layer in range(3):
        shapes[f"model.layers.{layer}.mlp.up_proj.weight"] = (6, 4)
        shapes[f"model.layers.{layer}.self_attn.q_proj.weight"] = (4, 4)
    base, ct, sft = (
        {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
        for _ in range(3)
    )
    ct["model.norm.weight"] = sft["model.norm.weight"] = base["model.norm.weight"].clone()
    vectors = merging.TaskVectors.of(base, ct, sft)
    frames = [
        merging.diagnose_vectors(vectors, slack=slack).assign(slack=slack) for slack in SLACKS
    ]
    return pd.concat(frames, ignore_index=True)


def test_the_table_has_one_line_a_slack_and_no_sft_lost_to_infinite_slack(found):
    titles, rows = diagnosis.lines(found)
    assert [row[0] for row in rows] == ["0", "1", "inf"]
    lost = titles.index("SFT out-voted")
    assert float(rows[0][lost]) > float(rows[1][lost]) > float(rows[2][lost]) == 0
    titles, rows = diagnosis.lines(found, "module")
    assert titles[:2] == ["slack", "module"]
    assert len(rows) == 3 * 4


def test_shares_are_of_the_counts(found):
    total = diagnosis.by(found).set_index("slack").loc[0.0]
    rows = found[found["slack"] == 0]
    survivors = rows["kept_sft"].sum() + rows["outvoted_sft"].sum()
    assert total["discarded_sft_share"] == pytest.approx(rows["outvoted_sft"].sum() / survivors)
    assert total["trimmed_sft_share"] == pytest.approx(rows["trimmed_sft"].sum() / rows["n"].sum())
    mass = rows["l2_outvoted_sft"].sum() / (
        rows["l2_outvoted_sft"].sum() + rows["l2_kept_sft"].sum()
    )
    assert total["discarded_sft_norm"] == pytest.approx(math.sqrt(mass))


def test_json_holds_all_numbers_and_neither_nan_nor_infinity(found):
    text = json.dumps(diagnosis.as_json(found, {"keep": 0.7}), allow_nan=False)
    back = json.loads(text)
    assert back["keep"] == 0.7
    assert [row["slack"] for row in back["model"]] == [0, 1, "inf"]
    assert len(back["tensors"]) == len(found)
    assert len(back["by_layer"]) == 3 * 4
    untouched = [row for row in back["tensors"] if row["parameter"] == "model.norm.weight"]
    assert {row["cosine"] for row in untouched} == {None}
    assert sum(row["n"] for row in back["tensors"]) == found["n"].sum()


def test_the_figure_says_what_it_shows(found, tmp_path):
    fig = diagnosis.figure(found)
    assert "with slack inf 0 %" in fig.alt_text
    assert "in layer" in fig.alt_text
    left, right, *_ = fig.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["3", "2", "1", "none"]
    shown = [label.get_text() for label in right.get_yticklabels()]
    assert shown == ["embed", "attention", "mlp", "norm"]
    file = plotting.save(fig, tmp_path / "diagnosis")
    assert file.stat().st_size > 1000


def test_a_model_that_nobody_changed_has_a_figure(found, tmp_path):
    still = found.assign(discarded_sft_share=math.nan)
    still[[column for column in still if column.endswith("_sft") and "norm" not in column]] = 0
    plotting.save(diagnosis.figure(still), tmp_path / "diagnosis")
