"""The chapter on a larger base: two made-up runs, with effects that differ by what was put in."""

import pytest
import synthetic

from langmerge import book, larger, plotting, plotting_families, profiles, reference

CODES = ("tam_Taml", "ben_Beng", "swh_Latn")
#: What slack gives at the largest budget, and what CT alone knows there, by size.
SLACK = {"smaller": 0.12, "larger": -0.08}
CT = {"smaller": 0.25, "larger": 0.55}


def run(size, languages, seeds, profile):
    plan = profiles.load(profile, languages=list(languages), seeds=list(seeds))
    ties = synthetic.ACCURACY["ties_mean"]
    truth = {
        "ct": lambda step: 0.25 + (CT[size] - 0.25) * step,
        "ties_sv": lambda step: ties(step) + SLACK[size] * step,
    }
    made = synthetic.results(
        accuracy=truth, languages=languages, seeds=seeds, budgets=plan.budgets, items=60
    )
    return synthetic.as_study(made, profile, lab_device="NVIDIA H200")


@pytest.fixture(scope="module")
def runs():
    more = ("zzz_0002", *CODES)
    return {
        reference.PROFILE: run("smaller", more, (0, 1), reference.PROFILE),
        larger.PROFILE: run("larger", CODES, (0,), larger.PROFILE),
    }


@pytest.fixture
def said(runs, monkeypatch, tmp_path):
    monkeypatch.setattr(reference, "load", lambda profile=reference.PROFILE: runs[profile])
    return larger.page(tmp_path)


def test_only_what_both_runs_have_is_compared(runs):
    many, few = runs[reference.PROFILE], runs[larger.PROFILE]
    alike = reference.like(many, few)
    assert (alike.languages, alike.seeds, alike.budgets) == (list(CODES), [0], few.budgets)
    assert alike.profile == many.profile and alike.plan.bases == many.plan.bases
    for name in ("rows", "items"):
        frame = getattr(alike, name)
        assert set(frame["language"]) == set(CODES) and set(frame["seed"]) == {0}
        assert set(frame["ct_tokens"]) == {0, *few.budgets} != set(many.rows["ct_tokens"])


def test_the_table_has_both_sizes_and_what_they_differ_by(said):
    (line,) = [
        it for it in said.splitlines() if it.startswith("| At the largest CT budget, slack m")
    ]
    _, _, small, large, difference, _ = (cell.strip() for cell in line.split("|"))
    value = [float(cell.split()[0].replace("−", "-")) for cell in (small, large, difference)]
    assert value[0] > 5 and value[1] < -3
    assert value[2] == pytest.approx(value[1] - value[0], abs=0.11)
    assert small.endswith("**holds**") and large.endswith("**fails**")
    assert "slack makes the TIES merge better at the tasks: holds on the base that ships" in said


def test_slack_is_held_against_what_the_experts_know_alone(said, runs):
    small = reference.like(runs[reference.PROFILE], runs[larger.PROFILE])
    points = larger.alone(small, runs[larger.PROFILE])
    assert len(points) == 2 * len(CODES)
    mean = points.groupby("which")[["slack", "ct", "sft"]].mean()
    for size in ("smaller", "larger"):
        assert mean.loc[f"{size} base", "slack"] == pytest.approx(SLACK[size], abs=0.05)
        assert mean.loc[f"{size} base", "ct"] == pytest.approx(CT[size], abs=0.1)
    assert larger.rank_correlation(points) > 0.5
    assert f"{larger.rank_correlation(points):+.2f} over all 6 models" in said
    text = plotting.alt(plotting_families.slack_against_alone(points))
    slack = f"{100 * mean.loc['smaller base', 'slack']:+.1f}".replace("-", "−")
    assert f"smaller base {slack} points" in text


def test_it_says_how_much_larger_and_where_it_was_computed(said):
    assert "1,590,400 parameters" in said and "NVIDIA H200" in said
    assert "3 of the 8 that the profile names" in said


def test_the_shipped_base_has_as_many_parameters_as_its_recipe_says():
    from langmerge import base

    counted = sum(tensor.numel() for tensor in base.load().weights.values())
    assert larger._parameters("base") == counted


def test_languages_that_the_larger_base_is_not_ready_for_are_left_out_once(said):
    assert "in Bengali, Swahili only" in said  # Tamil is between on topic alone


def test_without_rows_it_says_what_computes_them(monkeypatch, tmp_path):
    monkeypatch.setattr(reference, "load", lambda profile=reference.PROFILE: None)
    assert "langmerge reference --profile reference-large" in larger.page(tmp_path)
    assert larger.headline() is None and book.other_runs() == []
    assert "_executed/larger.md" in (book.require_checkout() / "book/larger_model.md").read_text()
