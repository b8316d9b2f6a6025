"""The background chapter: its examples are the library's, its drawings are what they say."""

import re

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image

from langmerge import background, book, drawings, merging, plotting
from langmerge.merging import election

mpl.use("Agg")

#: The golden vector's merges with a density of .5 and weights .3 and .7, worked out by hand.
GOLDEN = {
    "the authors' code": [0.9, -0.5, 0, -0.3, -0.2, 0.8],
    "MergeKit {cite:p}": [-0.5, -0.54, 0, 0.3, 0, 0.8],
    "MergeKit, not normalised": [-0.35, -0.54, 0, 0.09, 0, 0.56],
    "PEFT": [0.27, -0.27, 0, 0.09, 0, 0.56],
}
NAMES = ("forgetting", "ties", "slack", "balance")


@pytest.fixture(scope="module")
def toy():
    return background.toy()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of the drawings, and the texts that the chapter includes."""
    folder = tmp_path_factory.mktemp("executed")
    return folder, background.pages(folder)


@pytest.fixture(scope="module")
def figures(toy):
    return {
        "forgetting": drawings.forgetting(toy),
        "ties": drawings.three_steps(background.steps()),
        "slack": drawings.slack_plane([(0.9, 0.5)], 1.0),
        "balance": drawings.balance(toy),
    }


def numbers(row):
    """The numeric cells of a Markdown row."""
    cells = [cell.strip().replace("−", "-") for cell in row.strip("| ").split("|")]
    return [float(cell) for cell in cells[1:]]


def models():
    ct, sft = torch.tensor(background.TAU_CT), torch.tensor(background.TAU_SFT)
    return {"x": torch.zeros(6)}, {"x": ct}, {"x": sft}


def test_the_variants_on_the_page_are_the_golden_vectors(made):
    rows = [line for line in made[1]["background_variants.md"].splitlines() if line[:2] == "| "]
    assert len(rows) == len(GOLDEN) + 1
    for row, (name, expected) in zip(rows[1:], GOLDEN.items(), strict=True):
        assert row.startswith(f"| {name}")
        assert numbers(row) == pytest.approx(expected)


def test_the_steps_on_the_page_are_the_librarys_and_a_plain_ties(made):
    it = background.steps()
    halves = []
    for tau in it.taus:
        bar = sorted(map(abs, tau))[3]
        halves.append([value if abs(value) >= bar else 0 for value in tau])
    assert it.votes == pytest.approx(np.array(halves))
    agreeing = [[v for v in pair if v * sum(pair) > 0] for pair in zip(*halves, strict=True)]
    mean = [sum(kept) / len(kept) if kept else 0 for kept in agreeing]
    assert it.merged == pytest.approx(mean)
    half = {"density_ct": 0.5, "density_sft": 0.5}
    assert it.merged == pytest.approx(merging.merge("ties", *models(), **half)["x"].tolist())
    text = made[1]["background_ties.md"]
    assert "disagree in sign in entries 1, 4 and 5." in text
    assert "CT has 0.9 and SFT −0.5. CT wins, and SFT's −0.5 is discarded." in text


def test_the_discarded_share_on_the_page_is_that_of_the_diagnosis(made):
    half = {"density_ct": 0.5, "density_sft": 0.5}
    share = merging.diagnose(*models(), **half)["discarded_sft_share"].iloc[0]
    found = re.search(r"`discarded share` of (\d+) %", made[1]["background_ties.md"])
    assert int(found[1]) == round(100 * share)


def test_slack_on_the_page_turns_the_entry_that_ties_discards(made):
    for slack in (0.0, 1.0):
        merged = merging.merge("ties_sv", *models(), slack=slack, density_ct=0.5, density_sft=0.5)[
            "x"
        ]
        said = f"{merged[0].item():.2g}".replace("-", "−")
        assert f"{said} with" in made[1]["background_slack.md"]
    assert "SFT is elected from a slack of 0.8 on" in made[1]["background_slack.md"]
    assert background.steps(0.79).merged[0] > 0 > background.steps(0.81).merged[0]


def test_the_lines_of_the_plane_part_the_elections(figures):
    (ax,) = figures["slack"].axes
    lines = [line for line in ax.lines if len(line.get_xdata()) == 2]
    assert len(lines) == len(drawings.SLACKS)
    a, b = torch.rand(2, 200, generator=torch.Generator().manual_seed(0))
    for line, slack in zip(lines, drawings.SLACKS, strict=True):
        (x0, x1), (y0, y1) = line.get_data()
        below = a * (x1 - x0) < (y1 - y0) * b + y0
        assert torch.equal(election.by_slack(a, -b, slack) < 0, below)
        assert 0 < below.sum() < 200


def test_the_model_of_two_weights_descends_its_losses(toy):
    losses, rng, step = toy.losses, np.random.default_rng(0), 1e-6
    for loss, slope in ((losses.text, losses.text_slope), (losses.task, losses.task_slope)):
        for w in rng.normal(size=(5, 2)):
            moved = [(loss(w + step * e) - loss(w - step * e)) / (2 * step) for e in np.eye(2)]
            assert slope(w) == pytest.approx(moved, abs=1e-6)
    assert (np.diff(toy.text["ct"]) < 0).all()
    assert (np.diff(toy.task["sft"]) < 0).all() and (np.diff(toy.task["ct_then_sft"]) < 0).all()


def test_what_the_chapter_says_of_the_model_of_two_weights_is_so(toy):
    ends = {name: (toy.text[name][-1], toy.task[name][-1]) for name in drawings.SHOWN}
    assert ends["ct"][0] < 0.01 and ends["ct_then_sft"][1] < 0.01 and ends["sft"][1] < 0.01
    assert (np.diff(toy.text["ct_then_sft"]) > 0).all(), "SFT undoes CT all the way"
    u, optimum = np.array(toy.losses.direction), np.array(toy.losses.optimum)
    along = np.array([u[1], -u[0]])  # moving along the line changes no loss on the task
    both = np.linalg.solve(np.stack([u, along]), [1, along @ optimum])
    assert toy.losses.task(both) == pytest.approx(0, abs=1e-12)
    assert 0 < ends["task_arithmetic"][1] < ends["ct"][1], "task arithmetic stops short"
    moved = toy.paths["ct_then_sft"][-1] - toy.paths["ct"][-1]
    added = toy.paths["sft"][-1]
    assert moved[0] * added[1] == pytest.approx(moved[1] * added[0]), "and lies on the path"
    assert np.linalg.norm(added) < np.linalg.norm(moved)


@pytest.mark.parametrize("name", NAMES)
def test_drawings_are_white_opaque_small_and_say_what_they_show(name, made, figures):
    folder, texts = made
    image = Image.open(folder / f"background_{name}.png")
    pixels = np.asarray(image.convert("RGBA"))
    assert pixels[..., 3].min() == 255 and tuple(pixels[0, 0]) == (255, 255, 255, 255)
    assert image.width <= 900, "a wider one has letters that no phone can show"
    assert not any(ax.get_title() for ax in figures[name].axes)
    assert image.text["Description"] == plotting.alt(figures[name])
    text = texts[f"background_{name}.md"]
    assert f":alt: {plotting.alt(figures[name])}\n" in text
    assert f"{{figure}} _executed/background_{name}.png" in text


def test_alternative_texts_state_what_is_drawn(toy, figures):
    for name in ("forgetting", "balance"):
        for model in ("ct", "sft", "ct_then_sft", "task_arithmetic"):
            text = plotting.alt(figures[name])
            assert plotting.label(model) in text and f"{toy.text[model][-1]:.2f}" in text
    for entry, value in enumerate(background.steps().merged, start=1):
        assert re.search(rf"{entry}: CT .*? merged {value:g}[;.]", plotting.alt(figures["ties"]))
    bars = figures["ties"].axes[2].patches
    assert [bar.get_height() for bar in bars] == pytest.approx(background.steps().merged)


def test_drawings_can_be_read_in_grey(figures):
    axes = figures["ties"].axes
    filled = [bar for bar in axes[0].patches if mpl.colors.to_hex(bar.get_facecolor()) != "#ffffff"]
    assert {bar.get_hatch() or "" for bar in filled} == {"", "////"}
    markers = [plotting.look(name).marker for name in drawings.SHOWN]
    assert len(set(markers)) == len(markers)
    lines = [line for line in figures["slack"].axes[0].lines if len(line.get_xdata()) == 2]
    assert len({line.get_linestyle() for line in lines}) == len(lines)


def test_the_chapter_includes_all_of_it_and_nothing_else(made):
    page = (book.require_checkout() / "book" / "background.md").read_text(encoding="utf-8")
    included = re.findall(r"\{include\} _executed/(\S+)", page)
    assert sorted(included) == sorted(made[1])
