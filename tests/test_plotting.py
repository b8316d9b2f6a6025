"""Figures: what is drawn equals the data, looks differ, and the text tells the finding."""

import itertools
import warnings

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import synthetic

from langmerge import claims, plotting, statistics
from langmerge.errors import LangmergeError
from langmerge.statistics import select

mpl.use("Agg")

FINDINGS = ("base", "ct", "sft", "ct_then_sft", "average", "task_arithmetic", "ties_mean")


@pytest.fixture(scope="module")
def run():
    return synthetic.results(items=40)


@pytest.fixture(scope="module")
def options():
    words = {"кот": "cat", "рис": "rice", "дом": "house"}
    rows = [
        {
            "method": method,
            "option": word,
            "gloss": gloss,
            "probability": share,
            "correct": gloss == "rice",
        }
        for method, shares in {"sft": (0.5, 0.3, 0.2), "ties_mean": (0.1, 0.8, 0.1)}.items()
        for (word, gloss), share in zip(words.items(), shares, strict=True)
    ]
    return pd.DataFrame(rows)


def figures(run, options):
    return {
        "accuracy": plotting.accuracy_against_tokens(run),
        "per_task": plotting.per_task(run),
        "balance": plotting.balance(run, run.budgets[1]),
        "discarded": plotting.discarded_by_layer(run),
        "norms": plotting.norms(run),
        "slack": plotting.slack_curve(run),
        "options": plotting.option_probabilities(options),
    }


def curve(ax, name):
    """Points (x, y) of the error-bar curve with a label."""
    found = [one for one in ax.containers if one.get_label() == name]
    assert len(found) == 1, f"{len(found)} curves are called {name}"
    return np.asarray(found[0].lines[0].get_data(), dtype=float)


def level(ax, name):
    return next(line.get_ydata()[0] for line in ax.lines if line.get_label() == name)


def mean_accuracy(run, **wanted):
    rows = select(run.rows, metric="accuracy", **wanted)
    return rows.groupby("ct_tokens")["value"].mean()


def seen_as(colour, blindness):
    """CIE L*a*b* of a colour as a dichromat sees it (Machado et al. 2009, severity 1)."""
    rgb = np.array(mpl.colors.to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(blindness) @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.cbrt(np.array(to_xyz) @ seen / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


DEUTERANOPIA = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]
PROTANOPIA = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]


@pytest.mark.parametrize("blindness", [np.eye(3), DEUTERANOPIA, PROTANOPIA])
def test_colours_of_the_findings_differ_for_colour_blind_readers(blindness):
    methods = [*FINDINGS, "ties_sv"]
    seen = {method: seen_as(plotting.COLOURS[method], blindness) for method in methods}
    for a, b in itertools.combinations(methods, 2):
        assert np.linalg.norm(seen[a] - seen[b]) > 8, (a, b)


def test_markers_and_dashes_tell_all_methods_apart_in_grey():
    looks = [*plotting.LOOKS.values(), *plotting.CUSTOM]
    assert len({one.colour for one in looks}) == len(looks)
    assert len({one.marker for one in looks}) == len(looks)
    assert len({str(one.dash) for one in looks}) == len(looks)


def test_a_readers_own_method_has_a_look_and_an_unknown_one_has_not():
    own = plotting.look("custom:loudest")
    assert own.label == "loudest (yours)" and own == plotting.look("custom:loudest")
    with pytest.raises(LangmergeError, match="ties_mean"):
        plotting.look("ties_men")


def test_every_figure_is_white_untitled_labelled_and_silent(run, options, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = figures(run, options)
        saved = {name: plotting.save(fig, tmp_path / name) for name, fig in drawn.items()}
    for name, fig in drawn.items():
        assert fig.get_facecolor() == (1, 1, 1, 1), name
        assert not fig.get_suptitle() and not any(ax.get_title() for ax in fig.axes), name
        assert any(ax.get_xlabel() for ax in fig.axes), name
        pixels = mpl.image.imread(saved[name])
        assert pixels.shape[2] == 3 or pixels[..., 3].min() == 1, name
        assert pixels.std() > 0.01, name


def test_figures_stay_out_of_pyplot(run, options):
    figures(run, options)
    assert mpl.pyplot.get_fignums() == []


def test_saved_figures_carry_their_alternative_text(run, tmp_path):
    from PIL import Image

    fig = plotting.norms(run)
    path = plotting.save(fig, tmp_path / "norms.png")
    assert Image.open(path).text["Description"] == plotting.alt(fig)


def test_accuracy_curves_are_the_means_of_the_rows(run):
    ax = plotting.accuracy_against_tokens(run).axes[0]
    assert ax.get_xscale() == "log"
    for method in ("ct", "ct_then_sft", "average", "task_arithmetic", "ties_mean"):
        x, y = curve(ax, plotting.label(method))
        expected = mean_accuracy(run, method=method)
        assert y == pytest.approx(expected.to_numpy())
        assert x == pytest.approx(expected.index.to_numpy(), rel=0.1)
    for method in ("base", "sft"):
        assert level(ax, plotting.label(method)) == pytest.approx(
            mean_accuracy(run, method=method).iloc[0]
        )
    assert level(ax, "chance") == pytest.approx((1 / 6 + 3 / 4) / 4)
    assert [tick for tick in ax.get_xticks() if tick] == list(run.budgets)


def test_error_bars_are_the_intervals_of_the_summary(run):
    ax = plotting.accuracy_against_tokens(run, ["ct_then_sft"]).axes[0]
    bars = next(one for one in ax.containers if one.get_label() == "CT-then-SFT").lines[2][0]
    drawn = np.array([segment[:, 1] for segment in bars.get_segments()])
    summary = statistics.summarize(run, method="ct_then_sft", setting="tuned")
    assert drawn == pytest.approx(summary[["low", "high"]].to_numpy())


def test_seeds_are_dots(run):
    ax = plotting.accuracy_against_tokens(run, ["ties_mean"]).axes[0]
    dots = next(line for line in ax.lines if line.get_marker() == ".")
    assert len(dots.get_ydata()) == len(run.seeds) * len(run.budgets)


def test_methods_appear_in_the_legend_in_their_order(run):
    fig = plotting.accuracy_against_tokens(run, ["ties_mean", "sft", "ct_then_sft"])
    names = [text.get_text() for text in fig.legends[0].get_texts()]
    assert names == ["SFT only", "CT-then-SFT", "TIES (mean)", "chance"]


def test_absent_methods_settings_budgets_and_tasks_are_refused(run):
    with pytest.raises(LangmergeError, match="did you mean ties_mean"):
        plotting.accuracy_against_tokens(run, ["ties_men"])
    with pytest.raises(LangmergeError, match="with setting 'default'"):
        plotting.accuracy_against_tokens(run, ["ties_mean"], setting="default")
    with pytest.raises(LangmergeError, match="budgets are"):
        plotting.balance(run, 999)
    with pytest.raises(LangmergeError, match="topic"):
        plotting.accuracy_against_tokens(run, task="topics")


def test_per_task_has_a_panel_and_a_chance_for_each_task(run):
    fig = plotting.per_task(run, ["ct_then_sft", "ties_mean"])
    assert len(fig.axes) == len(run.tasks)
    for ax, task in zip(fig.axes, run.tasks, strict=True):
        assert level(ax, "chance") == pytest.approx(1 / synthetic.TASKS[task])
        _, y = curve(ax, "TIES (mean)")
        assert y == pytest.approx(mean_accuracy(run, method="ties_mean", task=task).to_numpy())
        assert task in plotting.TASKS and plotting.TASKS[task] in [t.get_text() for t in ax.texts]


def test_an_odd_number_of_tasks_leaves_no_empty_panel(run):
    three = synthetic.results(items=20)
    three.tasks = three.tasks[:3]
    fig = plotting.per_task(three, ["sft", "ties_mean"])
    assert len(fig.axes) == 3


def test_balance_has_one_point_a_model_at_its_values(run):
    budget = run.budgets[1]
    ax = plotting.balance(run, budget).axes[0]
    assert {one.get_label() for one in ax.containers} == {
        plotting.label(method) for method in synthetic.METHODS
    }
    for method, at in (("ties_mean", budget), ("base", 0)):
        x, y = curve(ax, plotting.label(method))
        assert y[0] == pytest.approx(mean_accuracy(run, method=method)[at])
        bits = select(run.rows, method=method, metric="bits_per_byte", ct_tokens=at)["value"]
        assert x[0] == pytest.approx(bits.mean())


def test_discarded_by_layer_shows_the_shares(run):
    left, right, _ = plotting.discarded_by_layer(run).axes
    plain = select(run.diagnostics, method="ties_mean")
    _, y = curve(left, "TIES (mean)")
    assert y == pytest.approx(plain.groupby("ct_tokens")["discarded_sft_share"].mean().to_numpy())
    grid = right.collections[0].get_array().reshape(5, len(run.budgets))
    by_layer = plain.pivot_table("discarded_sft_share", "layer", "ct_tokens")
    assert np.asarray(grid) == pytest.approx(by_layer.sort_index(ascending=False).to_numpy())
    assert [tick.get_text() for tick in right.get_yticklabels()] == [*"4321", "embedding"]


def test_diagnostics_of_a_method_that_elects_no_signs_are_refused(run):
    with pytest.raises(LangmergeError, match="no diagnostics of 'average'"):
        plotting.norms(run, "average")


def test_norms_are_ratios_on_log_axes(run):
    ax = plotting.norms(run).axes[0]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    _, y = curve(ax, "CT only")
    assert y[[0, -1]] == pytest.approx([0.8 / 4, 9.8 / 4])


def test_slack_curve_has_a_line_a_budget_and_infinity_at_the_right(run):
    fig = plotting.slack_curve(run)
    accuracy, bits = fig.axes
    assert [text.get_text() for text in accuracy.get_xticklabels()] == ["0", "0.5", "1", "4", "∞"]
    assert accuracy.get_xticks()[-1] == max(accuracy.get_xticks())
    sweep = select(run.rows, method="ties_sv", setting="sweep", ct_tokens=run.budgets[-1])
    for ax, metric in ((accuracy, "accuracy"), (bits, "bits_per_byte")):
        assert len(ax.containers) == len(run.budgets)
        _, y = curve(ax, "492 k")
        expected = select(sweep, metric=metric).groupby("slack")["value"].mean()
        assert y == pytest.approx(expected.to_numpy())


def test_a_sweep_without_zero_starts_at_plain_ties(run):
    less = synthetic.results(items=20)
    sweep = less.rows["setting"] == "sweep"
    less.rows = less.rows[~(sweep & (less.rows["slack"] == 0))]
    swept = less.items["setting"] == "sweep"
    less.items = less.items[~(swept & (less.items["slack"] == 0))]
    _, y = curve(plotting.slack_curve(less).axes[0], "492 k")
    plain = mean_accuracy(less, method="ties_mean", setting="tuned")
    assert y[0] == pytest.approx(plain[less.budgets[-1]])


def test_results_without_a_sweep_say_so():
    none = synthetic.results(items=10)
    none.items = none.items[none.items["setting"] != "sweep"]
    with pytest.raises(LangmergeError, match="no slack sweep"):
        plotting.slack_curve(none)


def test_option_bars_are_the_probabilities_and_the_right_one_is_marked(options):
    fig = plotting.option_probabilities(options)
    for ax, method in zip(fig.axes, ("sft", "ties_mean"), strict=True):
        widths = [bar.get_width() for bar in ax.patches]
        assert widths == list(options[options["method"] == method]["probability"])
        full = [bar.get_alpha() == 1 for bar in ax.patches]
        assert full == list(options[options["method"] == method]["correct"])
    names = [tick.get_text() for tick in fig.axes[0].get_yticklabels()]
    assert names == ["кот (cat)", "✓ рис (rice)", "дом (house)"]
    assert "SFT only chooses cat (50 %), wrong" in plotting.alt(fig)
    assert "TIES (mean) chooses rice (80 %), right" in plotting.alt(fig)


def test_a_script_without_a_font_is_written_by_its_gloss(options, monkeypatch):
    own = plotting.STYLE["font.family"][0]
    latin = {own: plotting._fonts()[own]}
    monkeypatch.setattr(plotting, "_fonts", lambda: latin)
    tibetan = options.assign(option=options["option"].map({"кот": "ཞི", "рис": "འབྲས", "дом": "ཁང"}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fig = plotting.option_probabilities(tibetan)
        fig.canvas.draw()
    names = [tick.get_text() for tick in fig.axes[0].get_yticklabels()]
    assert names == ["(cat)", "✓ (rice)", "(house)"]


def test_fonts_cover_what_they_are_chosen_for(monkeypatch):
    assert plotting.font_for("кот (cat) ✓") == ["DejaVu Sans"]
    files = {"DejaVu Sans": "own", "Noto Sans Odd": "odd", "Another": "other"}
    letters = {"own": frozenset(map(ord, "ab")), "odd": frozenset(map(ord, "xy"))}
    monkeypatch.setattr(plotting, "_fonts", lambda: files)
    monkeypatch.setattr(plotting, "_letters", lambda path: letters.get(path, letters["odd"]))
    assert plotting.font_for("a x") == ["Noto Sans Odd", "DejaVu Sans"]
    assert plotting.font_for("a z") is None


def test_a_table_of_options_must_be_whole(options):
    with pytest.raises(LangmergeError, match="gloss"):
        plotting.option_probabilities(options.drop(columns="gloss"))


def test_alternative_texts_tell_the_values(run, options):
    ends = mean_accuracy(run, method="ties_mean")
    text = plotting.alt(plotting.accuracy_against_tokens(run))
    assert f"TIES (mean) {100 * ends.iloc[0]:.0f} % at 7.7 k" in text
    assert f"{100 * ends.iloc[-1]:.0f} % at 492 k" in text
    assert "2 % at 7.7 k" in plotting.alt(plotting.discarded_by_layer(run))
    assert "0.2 at 7.7 k" in plotting.alt(plotting.norms(run))
    for name, fig in figures(run, options).items():
        assert len(plotting.alt(fig)) > 80, name


def test_several_languages_ask_which(run):
    two = synthetic.results(languages=("tam_Taml", "ben_Beng"), items=10)
    with pytest.raises(LangmergeError, match="name one of"):
        plotting.accuracy_against_tokens(two)
    assert "ben_Beng" in plotting.alt(plotting.norms(two, language="ben_Beng"))


def test_one_seed_has_no_interval_over_seeds_but_is_drawn():
    one = synthetic.results(seeds=(3,), items=20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fig = plotting.discarded_by_layer(one)
        fig.canvas.draw()
    _, y = curve(fig.axes[0], "TIES (mean)")
    assert np.isfinite(y).all()


def test_use_style_sets_an_opaque_white(monkeypatch):
    with mpl.rc_context():
        plotting.use_style()
        assert mpl.rcParams["savefig.transparent"] is False
        assert mpl.rcParams["figure.facecolor"] == "white"


def test_effects_by_language_has_a_panel_a_claim_with_every_language_and_yours():
    codes = ("tam_Taml", "ben_Beng", "zzz_0002")
    found = claims.across(synthetic.results(languages=codes, items=20), 3)
    mine = claims.across(synthetic.results(languages=("tel_Telu",), items=20), 3)
    names = {code: code.upper() for code in codes}
    fig = plotting.effects_by_language(found, names, mine)
    panels = list(dict.fromkeys(found["claim"]))
    assert len(fig.axes) == len(panels)
    for ax, claim in zip(fig.axes, panels, strict=True):
        its = found[found["claim"] == claim].set_index("language")
        drawn = dict(zip([*names.values(), "all"], ax.get_yticks(), strict=True))
        points = [
            (x, y)
            for container in ax.containers
            for x, y in zip(*container.lines[0].get_data(), strict=True)
        ]
        for code in codes:
            x = plotting.shown(its.loc[code, "metric"], its.loc[code, "effect"])[0]
            assert any(abs(a - x) < 1e-9 and b == drawn[names[code]] for a, b in points)
        assert len(points) == len(codes) + 2, "all of them, and the reader's own"
        assert claim in plotting.alt(fig)
    _, labels = fig.axes[0].get_legend_handles_labels()
    assert set(labels) == {"reference run", "all of them", "your run"}
