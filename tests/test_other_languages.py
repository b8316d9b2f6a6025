"""A finding in other languages: what is drawn and said is what the runs hold."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import synthetic

from langmerge import claims, languages, other_languages, paths, plotting, reference, statistics
from langmerge.notebook import LANGUAGE_TOKEN

LANGUAGES = ("tam_Taml", "ben_Beng", "zzz_0002", "zzz_0003")


@pytest.fixture(scope="module")
def many():
    return synthetic.results(languages=LANGUAGES, items=20, seeds=(0, 1))


@pytest.fixture(scope="module")
def mine():
    return synthetic.results(items=20, seed=1)


@pytest.fixture(scope="module")
def others(many, mine):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "load", lambda: many)
        return {number: other_languages.gather(mine, number) for number in other_languages.COMPARED}


def test_gains_are_differences_of_accuracy_beside_the_merges_condition(many):
    found = other_languages.gains(many, 3)
    assert len(found) == 4 * 2 * len(many.budgets)
    row = found[(found["language"] == "ben_Beng") & (found["seed"] == 1)].iloc[-1]
    where = {"language": "ben_Beng", "seed": 1, "ct_tokens": row["ct_tokens"], "method": "ties_sv"}
    with_slack, without = (
        statistics.select(many.rows, metric="accuracy", setting=setting, **where)["value"].mean()
        for setting in ("tuned", "without slack")
    )
    assert row["gain"] == pytest.approx(with_slack - without)
    tensors = statistics.select(many.diagnostics, setting="without slack", **where)
    whole = statistics.whole_model(tensors).iloc[0]
    assert row["norm_ratio"] == pytest.approx(whole["norm_ratio"])
    assert row["discarded_sft_share"] == pytest.approx(whole["discarded_sft_share"])


def test_saturation_is_measured_from_the_smallest_budget(many):
    found = other_languages.gains(many, 2)
    start = found[found["ct_tokens"] == min(many.budgets)]
    assert (start["gain"] == 0).all() and found["gain"].abs().max() > 0


def test_traits_are_those_of_the_languages():
    found = other_languages.traits(["tam_Taml", "zzz_0003", "zzz_0003"])
    assert list(found.index) == ["tam_Taml", "zzz_0003"]
    tamil = languages.load("tam_Taml")
    assert found.loc["tam_Taml", ["word order", "script"]].tolist() == [
        tamil.word_order,
        tamil.script,
    ]
    assert (found["tokens a word"] > 1).all()
    assert found["English SFT alone"].between(-25, 80).all()


def test_the_run_of_the_page_is_drawn_over_the_reference_run(others, mine):
    shown = others[2].curves("fig-x")
    lines = [line for ax in shown["fig"].axes for line in ax.get_lines()]
    grey = [line for line in lines if line.get_color() == "#B0B0B0"]
    assert len(grey) == 2 * len(LANGUAGES)
    own = other_languages.accuracy(mine, "ties_mean", "tuned").groupby("ct_tokens")["value"].mean()
    assert any(np.allclose(line.get_ydata(), own) for line in lines if len(line.get_ydata()) == 4)
    assert f"{100 * own.iloc[-1]:.1f} at 492 k" in shown["alt"]
    assert "4 languages, bases: 1, run seeds: 2" in shown["caption"]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_view_is_a_figure_with_words(others, number):
    for view in ("curves", "by_trait", "by_condition", "by_language"):
        shown = getattr(others[number], view)(f"fig-{view}")
        assert set(shown) == {"fig", "name", "caption", "alt"}
        assert len(shown["alt"]) > 60 and "nan" not in shown["alt"].lower()
    html = others[number].kinds().to_html() + others[number].pooled().to_html()
    assert "4 languages of 2 seeds" in html


def test_what_a_pooled_verdict_does_not_say_stands_under_it(others, monkeypatch, mine):
    assert others[2].notes() is None, "the words say all"
    judge = claims.judge

    def noted(run, finding):
        return [replace(it, note=f"{it.claim} is odd.") for it in judge(run, finding)]

    monkeypatch.setattr(claims, "judge", noted)
    names = [it.id for it in claims.load() if it.finding == 2]
    assert others[2].notes().data.splitlines() == [f"- `{it}`: {it} is odd." for it in names]
    monkeypatch.setattr(reference, "load", lambda: None)
    assert other_languages.gather(mine, 2).notes() is None


def test_a_rank_correlation_is_spearmans(others):
    effects = others[3].effects
    its = effects[(effects["claim"] == "f3-accuracy") & (effects["language"] != "")]
    known = pd.DataFrame({"order": its["effect"].rank().to_numpy()}, index=its["language"])
    assert "order, rank correlation +1.00 over 4 languages" in plotting.alt(
        plotting.effects_against(its, known, "f3-accuracy")
    )
    assert "too few languages" in plotting.alt(
        plotting.effects_against(its[:3], known, "f3-accuracy")
    )


def test_without_a_reference_run_the_run_stands_alone(monkeypatch, mine):
    monkeypatch.setattr(reference, "load", lambda: None)
    alone = other_languages.gather(mine, 1)
    assert alone.pooled() is None and alone.kinds() is None
    for view in ("curves", "by_trait", "by_condition", "by_language"):
        assert "This run alone" in getattr(alone, view)("fig-x")["caption"]


def test_the_notebooks_names_of_figures_hold_the_language():
    for source in paths.notebooks().glob("*.py"):
        names = re.findall(r"\"(fig-[^\"]+)\"", source.read_text(encoding="utf-8"))
        assert names and all(name.endswith(LANGUAGE_TOKEN) for name in names), source.stem
        assert len(set(names)) == len(names), source.stem
