"""The chapter on the full run and its figures, from a made-up run that has every family."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
import synthetic

from langmerge import arms, book, claims, families, full_run, keeping, plotting, profiles, reference
from langmerge import plotting_families as drawn
from langmerge.errors import LangmergeError
from langmerge.merging.task_vectors import TaskVectors
from langmerge.profiles import BASELINES, BEYOND
from langmerge.statistics import select

CODES = ("tam_Taml", "swh_Latn", "zzz_0004")
#: The one value of a sweep whose answers are those of CT-then-SFT.
WEAK = ("k2", "1")
#: What is put in: the effect of an arm on TIES.
LIFT = {"rate x 2": -0.2, "rate x 0.4": 0.1, "bilingual 10 %": 0.05, "bilingual 30 %": 0.15}


def copied(frame, method, setting="tuned", like="ties_mean", lift=0.0, of=("tuned", "fixed")):
    its = select(frame, method=like, setting=list(of))
    its = its.assign(method=method, setting=setting, cell=its["cell"] + method + setting)
    if "value" in its:
        its["value"] = its["value"].where(its["metric"] != "accuracy", its["value"] + lift)
    return its


def more(frame):
    """The rows or items of a run, with those of all families."""
    parts = [frame]
    parts += [copied(frame, method) for method in (*BEYOND, *BASELINES, "chat_vector")]
    parts += [copied(frame, method, "default") for method in BEYOND]
    parts += [copied(frame, m, s) for m, s, _ in drawn.INTERVENTIONS if m != "ties_mean"]
    for name, (_, _, values) in families.SWEEPS.items():
        for number, value in enumerate(values):
            setting = value if isinstance(value, str) else f"{value:g}"
            like = "ct_then_sft" if (name, setting) == WEAK else "ties_mean"
            parts.append(copied(frame, f"sensitivity/{name}", setting, like, 0.01 * number))
    for arm, lift in LIFT.items():
        for method in ("ct_then_sft", "ties_mean", "ties_sv"):
            up = lift if method == "ties_mean" else 0.0
            parts.append(copied(frame, f"{arm}/{method}", like=method, lift=up))
        without = {"like": "ties_sv", "of": ("without slack",)}
        parts.append(copied(frame, f"{arm}/ties_sv", "without slack", **without))
    parts += [copied(frame, method, "oracle", lift=0.07) for method in ("average", "ties_mean")]
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def full():
    run = synthetic.results(languages=CODES, seeds=(0,), items=8)
    run.rows, run.items = more(run.rows), more(run.items)
    tensors = select(run.diagnostics, method="ties_mean")
    prefixed = [tensors.assign(method=f"{arm}/ties_mean") for arm in LIFT]
    run.diagnostics = pd.concat([run.diagnostics, *prefixed], ignore_index=True)
    run.profile = "reference-full"
    every = [family for name in full_run.PROFILES for family in profiles.load(name).families]
    run.plan = profiles.load("reference-full", families=every)
    return run


def test_every_sweep_intervention_and_arm_has_a_name_for_its_axis():
    assert drawn.AXES.keys() == families.SWEEPS.keys()
    assert {name for family in arms.ARMS.values() for name in family} == LIFT.keys()
    for method, _, _ in drawn.INTERVENTIONS:
        assert plotting.label(method)
    draws = [setting for method, setting, _ in drawn.INTERVENTIONS if method == "random_drop"]
    assert len(draws) == families.DRAWS


def test_the_regime_map_finds_the_effects_that_were_put_in(full):
    names = [*arms.ARMS["rates"]]
    table = drawn.regime_effects(full, names, "now")
    mean = table.groupby(["effect", "arm"])["value"].mean()
    for arm in names:
        for effect, sign in (("TIES over CT-then-SFT", 1), ("slack over none", 0)):
            found = mean[effect, arm] - mean[effect, "now"]
            assert found == pytest.approx(sign * LIFT[arm], abs=1e-9), (effect, arm)
    text = plotting.alt(drawn.regimes(table, ["now", *names]))
    assert all(arm in text for arm in names)
    late = table[table["effect"] == "TIES over its middle budget"].set_index("ct_tokens")["value"]
    middle, last = sorted(full.budgets)[1], max(full.budgets)
    assert (late[middle] == 0).all() and late[last].mean() < 0, "made to saturate"
    at = table[(table["effect"] == "SFT that TIES discards") & (table["arm"] == "now")]
    assert (at["value"] == at["discarded"]).all() and len(at) == 3 * len(full.budgets)


@pytest.mark.parametrize("name", ["k1", "combine"])
def test_a_sweep_draws_the_languages_mean_of_every_budget(full, name):
    fig = drawn.sweep(full, name)
    rows = select(full.rows, method=f"sensitivity/{name}", ct_tokens=full.budgets[0])
    mean = rows[rows["metric"] == "accuracy"].groupby("setting")["value"].mean()
    order = [it if isinstance(it, str) else f"{it:g}" for it in families.SWEEPS[name][2]]
    lines = [line for line in fig.axes[0].lines if len(line.get_ydata()) == len(order)]
    assert np.allclose(lines[0].get_ydata(), mean.loc[order])


def test_without_a_family_its_figures_say_what_is_missing():
    run = synthetic.results(items=8)
    with pytest.raises(LangmergeError, match="mechanism"):
        drawn.interventions(run, run.budgets[:1])
    with pytest.raises(LangmergeError, match="sensitivity"):
        drawn.sweep(run, "k1")


@pytest.fixture(scope="module")
def page(full, tmp_path_factory):
    folder = tmp_path_factory.mktemp("executed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "load", {"reference-full": full}.get)
        return full_run.page(folder), folder


def test_the_page_shows_every_family_and_its_figures_are_there(page):
    text, folder = page
    names = re.findall(r"^```\{figure\} _executed/(.+)$", text, re.M)
    assert len(names) == len(set(names)) == 2 + len(CODES) + len(families.SWEEPS) + 2 + 1
    assert all((folder / name).stat().st_size > 5_000 for name in names)
    assert len(re.findall("^:alt: .{40,}$", text, re.M)) == len(names)
    labels = re.findall("^:name: (.+)$", text, re.M)
    assert len(set(labels)) == len(labels)
    assert "nan" not in text and "six trials" in text


def test_a_claim_stands_in_the_part_that_decides_it(page):
    text, _ = page
    stated = {claim.id: " ".join(claim.statement.split()) for claim in claims.load()}
    assert f"| {stated['f4-widen']} |" in text and f"| {stated['f5-restored']} |" in text
    assert stated["f6-replay"] not in text


def test_a_finding_is_told_over_every_setting_that_was_swept(page, full):
    text, _ = page
    stated = {claim.id: claim for claim in claims.load()}
    now, last = (
        f"{100 * claims.measure(full, stated[claim]).estimate:+.1f}".replace("-", "−")
        for claim in full_run.SETTING_BY_SETTING
    )
    (row,) = [line for line in text.splitlines() if line.startswith(f"| {drawn.AXES['k2']} |")]
    assert row.split(" | ")[1:3] == [f"+0.0 ({WEAK[1]})", f"{now} (0.1)"]
    assert last in row.split(" | ", 3)[3]
    number = sum(len(values) for _, _, values in families.SWEEPS.values())
    told = f"Of the {number} settings {number - 1} put the merge 3 points or more ahead"
    assert told in text and "and 0 as much behind" in text


def test_the_findings_effects_are_told_of_every_arm(page, full):
    text, _ = page
    stated = {claim.id: claim for claim in claims.load()}
    now = full_run.with_interval(full, stated["f3-accuracy"])
    (row,) = [line for line in text.splitlines() if line.startswith("| as in the study |")]
    assert row.endswith(f"| {now} |")
    rows = [line for line in text.splitlines() if re.match(r"\| (bilingual|rate x) ", line)]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == [
        name for family in full_run.NOW for name in arms.ARMS[family]
    ]


@pytest.mark.parametrize(
    ("falls", "ct", "slack", "more", "said"),
    [
        ("holds", "holds", "holds", "holds", ("(saturation) reproduces", "(slack) reproduces")),
        ("holds", "holds", "holds", "inconclusive", ("(saturation) reproduces", "(slack) stays")),
        ("holds", "fails", "fails", "fails", ("(saturation) stays open", "three others misled")),
        ("holds", "not tested", "holds", "holds", ("nothing is said", "missing")),
    ],
)
def test_what_is_said_of_twice_the_rate_follows_the_rule(full, falls, ct, slack, more, said):
    (some, *_) = claims.judge(full, 1)
    verdicts = {"saturates": falls, "ct": ct, "slack": slack, "slack-more": more}
    judged = {
        f"f8-{name}": dataclasses.replace(some, verdict=verdict)
        for name, verdict in verdicts.items()
    }
    told = full_run.outcome(judged)
    assert all(words in told for words in said)


def _late_answers(full, method):
    """The share of right answers by language at the largest budget, all tasks weighing the same."""
    its = select(full.items, method=method, setting="tuned", ct_tokens=max(full.budgets))
    its = its[its["task"].isin(full.tasks)]
    return its.groupby(["language", "task"])["correct"].mean().groupby("language").mean()


def test_the_pages_numbers_are_those_of_the_rows(page, full):
    text, _ = page
    late = select(full.rows, method="widen", setting="tuned", metric="accuracy")
    late = late[late["ct_tokens"] == max(full.budgets)]["value"].mean()
    assert f"| WIDEN | {100 * late:.1f} |" in text
    right = [_late_answers(full, method) for method in ("widen", "ties_sv")]
    difference = f"{100 * (right[0] - right[1]).mean():+.1f}".replace("-", "−")
    assert f"| WIDEN | {difference} (" in text
    both = select(full.rows, method="ties_mean", metric="accuracy").groupby("setting")["value"]
    tuned, own = both.mean()[["tuned", "oracle"]]
    assert f"| TIES (mean) | {100 * tuned:.1f} | {100 * own:.1f} |" in text


def test_a_checkout_without_the_run_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(reference, "load", lambda profile: None)
    said = full_run.page(tmp_path)
    for name, title in full_run.PROFILES.items():
        assert f"## {title}" in said and f"langmerge reference --profile {name}`" in said
    assert "_executed/full.md" in (book.require_checkout() / "book/full_run.md").read_text()


def test_what_a_merge_keeps_is_what_was_put_in():
    import torch

    rng = torch.Generator().manual_seed(3)
    base, ct, sft = ({"w": torch.randn(50, 40, generator=rng)} for _ in range(3))
    vectors = TaskVectors.of(base, ct, sft)
    tau = {"w": 0.7 * vectors.tau_sft["w"] + 0.2 * vectors.tau_ct["w"]}
    found = keeping.shares(tau, vectors.tau_sft, vectors.tau_ct)
    assert found["sft"] == pytest.approx(0.7, abs=1e-5)
    assert found["ct"] == pytest.approx(0.2, abs=1e-5)
    flipped = {"w": torch.where(torch.arange(50)[:, None] < 25, -1.0, 1.0) * vectors.tau_sft["w"]}
    half = keeping.shares(flipped, vectors.tau_sft, vectors.tau_ct)["signs"]
    assert half == pytest.approx(
        float(vectors.tau_sft["w"][25:].square().sum() / vectors.tau_sft["w"].square().sum()),
        abs=1e-5,
    )
