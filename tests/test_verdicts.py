"""The verdicts page: from claims and runs alone, and "not tested" where data are missing."""

import re
from types import SimpleNamespace

import pytest
import synthetic
from scipy import stats

from langmerge import (
    book,
    claims,
    larger_bases,
    many_seeds,
    other_bases,
    paths,
    reference,
    verdicts,
)

LANGUAGES = ("tam_Taml", "ben_Beng", "zzz_0002")


@pytest.fixture(scope="module")
def stated():
    return claims.load()


@pytest.fixture(scope="module")
def mine():
    return synthetic.results(items=20)


@pytest.fixture(scope="module")
def many():
    return synthetic.results(languages=LANGUAGES, items=20, seeds=(0,))


@pytest.fixture(scope="module")
def pages(many, mine):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "load", lambda *_: many)
        patch.setattr(other_bases, "all_bases", lambda: None)
        return verdicts.page({"tam_Taml": mine})


def rows_of(text):
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]


def test_every_claim_has_its_verdicts_and_what_the_abstract_says(pages, stated, many, mine):
    of_many, of_mine = claims.judge_all(many, stated), claims.judge_all(mine, stated)
    rows = [row for row in rows_of(pages["verdicts_summary.md"]) if row[0] != "Claim"]
    assert len(rows) == len(stated)
    for row, claim in zip(rows, stated, strict=True):
        assert row[0].startswith(" ".join(claim.statement.split()))
        assert f"<verdict-{claim.id}>" in row[0]
        assert row[1] == (claim.abstract or "nothing")
        words = [of_many[claim.id].verdict, of_mine[claim.id].verdict]
        assert row[2:] == [*(f"**{word}**" for word in words), "not tested"]
    assert "{doc}`/book/_executed/tam_Taml/02_saturation`" in pages["verdicts_summary.md"]


def test_the_details_have_effect_interval_and_what_they_rest_on(pages, many):
    (part,) = re.findall(
        r"\(verdict-f1-accuracy\)=\n(.*?)\n\(verdict-", pages["verdicts_details.md"], re.DOTALL
    )
    verdict = claims.judge_all(many)["f1-accuracy"]
    told = {row[0]: row[1] for row in rows_of(part)}
    assert told["effect"] == claims.effect(verdict)
    assert told["95 % interval"].endswith("(over languages)")
    assert told["95 % interval"].split(" (")[0] in verdict.interval()
    assert told["languages"] == "3" and told["bases"] == "1"
    assert told["n"] == f"{verdict.n:,} items, 1 seed each"
    assert " to " in told["BCa interval"] and told["at 7B"] == "not tested"
    mine = {row[0]: row[2] for row in rows_of(part)}
    assert mine["BCa interval"] == "–" and mine["95 % interval"].endswith("(over concepts)")


def test_without_a_reference_run_its_claims_are_not_tested(monkeypatch, mine, stated):
    monkeypatch.setattr(reference, "load", lambda *_: None)
    pages = verdicts.page({"tam_Taml": mine})
    rows = [row for row in rows_of(pages["verdicts_summary.md"]) if row[0] != "Claim"]
    assert {row[2] for row in rows} == {"**not tested**"}
    first = len([claim for claim in stated if claim.finding in claims.PAPERS])
    assert {row[3] for row in rows[:first]} <= {"**holds**", "**fails**", "**inconclusive**"}
    assert "nan" not in pages["verdicts_details.md"]


def test_the_papers_findings_have_a_column_of_several_bases(monkeypatch, mine, stated):
    run = synthetic.results(items=20, languages=LANGUAGES)
    run.plan = SimpleNamespace(bases=["base", "second"])
    monkeypatch.setattr(reference, "load", lambda *_: None)
    monkeypatch.setattr(other_bases, "all_bases", lambda: run)
    pages = verdicts.page({"tam_Taml": mine})
    heads = [row for row in rows_of(pages["verdicts_summary.md"]) if row[0] == "Claim"]
    has = ["2 bases, in the lab" in row for row in heads]
    assert has == [finding in claims.PAPERS for finding in claims.FINDINGS]
    judged = claims.judge_all(run, [claim for claim in stated if claim.finding in claims.PAPERS])
    row = next(
        row for row in rows_of(pages["verdicts_summary.md"]) if "<verdict-f1-accuracy>" in row[0]
    )
    assert row[3] == f"**{judged['f1-accuracy'].verdict}**"
    assert "|  | reference run | 2 bases | Tamil |" in pages["verdicts_details.md"]


def test_a_claim_whose_model_was_not_run_is_not_tested_on_any_page(monkeypatch, stated, tmp_path):
    lacking = synthetic.results(items=20)
    lacking.items = lacking.items[lacking.items["method"] != "ties_mean"]
    runs = {other_bases.PROFILE: None}
    monkeypatch.setattr(reference, "load", lambda name="reference": runs.get(name, lacking))
    text = verdicts.page({"tam_Taml": lacking})["verdicts_summary.md"]
    rows = {row[0].split(" ({ref}")[0]: row[2:4] for row in rows_of(text)}
    for claim in (claim for claim in stated if claim.finding in claims.PAPERS):
        needs = claim.metric == "accuracy" and any(
            term.method == "ties_mean" for term in claim.contrast
        )
        found = rows[" ".join(claim.statement.split())]
        assert (found == ["**not tested**"] * 2) == needs, claim.id
    first = book.verdicts({"tam_Taml": lacking})
    (line,) = [it for it in first.splitlines() if "no longer gets better" in it]
    assert line.count("**not tested** |") == 2 and line.count("interval") == 0
    answer = book.answer({"tam_Taml": synthetic.results(items=20)}, tmp_path)
    assert "**Saturation: not tested.**" in answer and "nan" not in answer


def test_seeds_that_differ_in_all_languages_are_told(stated, mine):
    run = synthetic.results(languages=LANGUAGES, items=40, seeds=(0, 1))
    lucky = run.items["method"].eq("ties_mean") & run.items["seed"].eq(1)
    run.items["correct"] |= lucky
    judged = claims.judge_all(run, stated)["f1-accuracy"]
    (_, plain), (_, better) = judged.by_seed
    assert better > plain and (plain + better) / 2 == pytest.approx(judged.effect)
    said = [claims.as_text("accuracy", mean) for mean in (plain, better)]
    assert f"{said[0]} with seed 0, {said[1]} with seed 1 (points)" in judged.note
    (claim,) = (claim for claim in stated if claim.id == "f1-accuracy")
    assert verdicts._by_seed(claim, judged) == f"{said[0]} (0), {said[1]} (1)"
    assert f"(3 languages together; by run seed {said[0]} and {said[1]})" in book.headlines(run)[0]
    alone = claims.judge_all(mine, stated)["f1-accuracy"]
    assert len(alone.by_seed) == 3 and "seeds differ" not in alone.note


def test_many_seeds_that_differ_widen_the_interval(stated):
    run = synthetic.results(languages=LANGUAGES, items=40, seeds=range(4))
    lucky = run.items["method"].eq("ties_mean") & run.items["seed"].eq(1)
    run.items["correct"] |= lucky
    (claim,) = (claim for claim in stated if claim.id == "f1-accuracy")
    plain = claims.judge_all(run, stated)["f1-accuracy"]
    judged = {it.claim: it for it in claims.judge(run, 1, over_seeds=True)}["f1-accuracy"]
    by_seed = [mean for _, mean in plain.by_seed]
    expected = stats.ttest_1samp(by_seed, 0).confidence_interval()
    assert (judged.low, judged.high) == pytest.approx(tuple(expected))
    assert judged.effect == pytest.approx(plain.effect) and judged.by_seed == plain.by_seed
    assert judged.basis() == "3 languages of 4 seeds, the interval over seeds"
    assert "run seeds differ" in plain.note and judged.note == ""
    assert verdicts._interval(judged).endswith("(over seeds)")
    assert claim.smallest_effect == judged.bound


def test_a_rule_is_told_with_its_bound(stated):
    told = {claim.id: verdicts.rule(claim) for claim in stated}
    assert "better than a loss of 5 % of bits per byte" in told["f1-language"]
    assert "5 points per tenfold CT tokens" in told["f2-discarded"]
    assert "every seed moves" in told["f2-discarded"]
    assert "below 3 points" in told["f1-accuracy"]


@pytest.mark.skipif(paths.checkout() is None, reason="a wheel has no README beside it")
def test_the_readme_says_what_the_reference_run_says():
    readme = (paths.checkout() / "README.md").read_text(encoding="utf-8")
    others = filter(None, (run.headline() for run in (many_seeds, other_bases, larger_bases)))
    for line in (*book.in_short(), *book.headlines(reference.load()), *others, *book.beyond()):
        assert line in readme.splitlines(), f"README.md should say: {line}"
