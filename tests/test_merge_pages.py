"""The pages on merging real models: their code runs, their table is the library's.

python tests/test_merge_pages.py     # writes the table of methods anew
"""

import re
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from langmerge import cli, paths
from langmerge.merging import METHODS, recipe
from langmerge.merging.methods import merge_models
from langmerge.merging.tensors import Tensors

BOOK = Path(__file__).parent.parent / "book"
ADDING, MERGING = BOOK / "add_a_method.md", BOOK / "merge_real_models.md"
_START, _END = (
    "<!-- methods: written by tests/test_merge_pages.py -->\n",
    "<!-- end of methods -->",
)


def blocks(page, language):
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def methods_table():
    """The table of methods as the page shows it."""
    rows = ["| Method | Models | What it does | Paper |", "|---|---|---|---|"]
    for row in METHODS.values():
        least, most = row.models
        models = f"{least}" if most == least else f"{least} or more"
        models += " and a base" if row.base else ""
        name, _, address = row.paper.partition("https://")
        address, _, note = address.partition(";")
        words = name.strip().removesuffix(",")
        linked = f"[{words}](https://{address}){';' * bool(note)}{note}" if address else words
        rows.append(f"| `{row.name}` | {models} | {row.summary} | {linked} |")
    return "\n".join(rows) + "\n"


def test_the_table_of_methods_is_the_librarys():
    text = MERGING.read_text(encoding="utf-8")
    shown = text.split(_START)[1].split(_END)[0].strip()
    assert shown == methods_table().strip(), "run `python tests/test_merge_pages.py`"


def test_every_recipe_on_the_page_is_one():
    first, snippet = blocks(MERGING, "yaml")
    made = recipe.parse(yaml.safe_load(first))
    shipped = recipe.read("laptop")
    assert made.model_dump() == shipped.model_dump()
    weights = yaml.safe_load(snippet)["parameters"]
    plain = {"base_model": "./b", "models": [{"model": "./c"}], "parameters": weights}
    found = recipe.parse({"merge_method": "ties", **plain}).settings(3)
    assert found("model.layers.1.mlp.w")["weight"] == (0.5,)
    assert found("model.layers.2.mlp.w")["weight"] == (0.8,)


def test_shipped_recipes_and_parameters_are_those_that_the_page_names():
    text = MERGING.read_text(encoding="utf-8")
    named = re.search(r"\| Name \| What is merged \|\n.*?\n\n", text, re.DOTALL)[0]
    assert set(re.findall(r"`(\w+)`", named)) == set(paths.names("recipes"))
    knobs = re.search(r"\| Parameter \|.*?\n\n", text, re.DOTALL)[0]
    cells = [line.split("|")[1] for line in knobs.splitlines() if line.startswith("| `")]
    known = {key.rstrip("_") for row in METHODS.values() for key in row.defaults}
    for name in re.findall(r"`(\w+)`", " ".join(cells)):
        assert name in known, name


def test_every_command_on_the_pages_is_one_of_the_command_line():
    commands = [
        line.split()
        for page in (ADDING, MERGING)
        for block in blocks(page, "bash")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    assert {command[1] for command in commands} == {"merge", "diagnose"}
    for command in commands:
        help_ = CliRunner().invoke(cli.app, [command[1], "--help"], env={"COLUMNS": "200"}).output
        for option in (word for word in command if word.startswith("--")):
            assert option in help_, command


@pytest.fixture
def added():
    """The method that the page adds, for one test."""
    before = dict(METHODS)
    function, row = blocks(ADDING, "python")[:2]
    exec(compile(function + row, str(ADDING), "exec"), {})
    assert set(METHODS) - set(before) == {"unanimous"}
    yield METHODS["unanimous"]
    del METHODS["unanimous"]


NAMES = ("model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight")


def thetas(count):
    draw = torch.Generator().manual_seed(5)
    return [{name: torch.randn(4, 3, generator=draw) for name in NAMES} for _ in range(count)]


def by_hand(base, models, weights, lambda_):
    taus = torch.stack([theta - base for theta in models])
    mean = (taus * torch.tensor(weights).view(-1, 1, 1)).sum(0) / sum(weights)
    alike = (taus > 0).all(0) | (taus < 0).all(0)
    return torch.where(alike, base + lambda_ * mean, base)


def test_the_method_of_the_page_merges_in_memory(added):
    base, ct, sft = thetas(3)
    namespace = {"theta_base": base, "theta_ct": ct, "theta_sft": sft}
    exec(blocks(ADDING, "python")[2], namespace)
    for name in NAMES:
        expected = by_hand(base[name], [ct[name], sft[name]], [0.5, 1.0], 1)
        assert torch.allclose(namespace["merged"][name], expected, atol=1e-6)
        assert not torch.equal(expected, base[name])


def test_the_method_of_the_page_runs_from_its_recipe(added):
    made = recipe.parse(yaml.safe_load(blocks(ADDING, "yaml")[0]))
    base, ct, sft = thetas(3)
    tensors = {name: Tensors(name, base[name], (ct[name], sft[name])) for name in NAMES}
    found = merge_models(made.row, tensors, made.settings(2))
    for name, weight in zip(NAMES, (0.2, 0.8), strict=True):
        expected = by_hand(base[name], [ct[name], sft[name]], [weight, 1.0], 0.9)
        assert torch.allclose(found[name], expected, atol=1e-6)


if __name__ == "__main__":
    before, rest = MERGING.read_text(encoding="utf-8").split(_START)
    after = rest.split(_END)[1]
    MERGING.write_text(f"{before}{_START}\n{methods_table()}\n{_END}{after}", encoding="utf-8")
