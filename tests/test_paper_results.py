"""What is shown and judged of kept rows of released weights, without a hub or a model."""

import re

import pytest
import real_rows
import synthetic

from langmerge import (
    book,
    claims,
    hub_rows,
    paper,
    paper_chapter,
    paper_notebook,
    paper_page,
    paper_results,
    paper_verdicts,
    verdicts,
)
from langmerge.errors import LangmergeError

SHOWN = ("f1-accuracy", "f3-accuracy", "f3-discarded", "f3-language")
TIES, SLACK = "ties weight 0.5 density 0.7", "ties_sv weight 0.5 density 0.7 slack 1"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home of the test's own, and no rows that ship."""
    monkeypatch.setenv("LANGMERGE_HOME", str(tmp_path))
    shipped = paper_results.paths.data() / "results"
    files = paper_results.files
    monkeypatch.setattr(
        paper_results, "files", lambda: [p for p in files() if shipped not in p.parents]
    )
    return tmp_path


def judged(*languages):
    return {v.claim: v for v in paper_verdicts.judge(runs(*languages))}


def runs(*languages):
    return [paper_results.load(real_rows.chosen(code)) for code in languages]


# --- which rows


def test_without_rows_the_command_that_makes_them_is_named():
    it = real_rows.chosen()
    with pytest.raises(LangmergeError, match=r"`langmerge paper --language tam_Taml` makes them"):
        paper_results.load(it)
    with pytest.raises(LangmergeError, match=r"tam_Taml --limit 20` makes them"):
        paper_results.load(it, limit=20)
    with pytest.raises(LangmergeError, match=r"profile 'lab'.*other notebooks"):
        paper_results.check_profile("lab")


def test_trials_other_types_and_earlier_commits_are_not_mixed_in():
    real_rows.keep(limit=20)
    file = real_rows.keep(commit="b" * 40)
    real_rows.keep(dtype="float32")
    it = real_rows.chosen()
    last = paper_results.load(it).rows
    assert set(last["dtype"]) == {"float32"} and last["limit"].isna().all()
    assert len(last) == len(it.models) * len(it.tasks)
    before = paper_results.load(it, dtype="bfloat16").rows
    assert {its["data"].split("@")[1][0] for its in before["repositories"]} == {"b"}
    assert set(paper_results.load(it, limit=20).rows["limit"]) == {20}
    # A part at a new commit: what was merged from the old one is of another state.
    part = paper.Model("sft")
    hub_rows.append(file, [real_rows.row(it, part, it.tasks[0], 0.9, dtype="float32", commit="cc")])
    assert paper_results.load(it).models == ["base", "ct", "sft"]


def test_a_model_that_was_evaluated_twice_is_shown_as_it_was_last():
    file = real_rows.keep()
    it = real_rows.chosen()
    again = real_rows.row(it, paper.Model("ct"), it.tasks[0], 0.75, stderr=None)
    hub_rows.append(file, [again])
    titles, lines = paper_page.scores(paper_results.load(it))
    shown = {line[0]: line[1:] for line in lines}
    assert titles == ["model", *it.tasks]
    assert shown["ct"] == ["0.750", "0.500 ± 0.020"]
    assert [line[0] for line in lines] == [model.title for model in it.models]


# --- what is shown


def test_differences_are_those_of_the_items_with_texts_as_clusters():
    real_rows.keep(gain=0.1)
    (run,) = runs("tam_Taml")
    every = paper_page.differences(run)
    found = {(merge, part): e for merge, part, task, e in every}
    assert found[SLACK, "ct"].estimate == pytest.approx(0.1)
    assert found[SLACK, "ct"].n_clusters == real_rows.TEXTS
    assert found[SLACK, "ct"].n == real_rows.TEXTS * real_rows.QUESTIONS
    assert found[TIES, "ct"].estimate == 0
    assert len(found) == len(run.merges) * 3
    assert "+0.100" in paper_page.difference_table(every).data
    alt = paper_page.difference_figure(every).alt_text
    assert f"of {len(run.merges)}, 1 clearly better and 0 clearly worse than ct" in alt


def test_what_lies_not_beside_the_rows_is_said_and_no_figure_is_empty():
    file = real_rows.keep()
    for path in file.with_suffix("").iterdir():
        path.unlink()
    (run,) = runs("tam_Taml")
    assert "no diagnosis" in paper_page.discarded_table(run).data
    for draw in (paper_page.differences, paper_page.discarded_figure):
        with pytest.raises(LangmergeError, match="beside"):
            draw(run)


def test_a_diagnosis_of_other_commits_is_none():
    real_rows.keep(commit="b" * 40)
    assert runs("tam_Taml")[0].diagnosis() is None
    real_rows.keep()
    assert runs("tam_Taml")[0].diagnosis() is not None


# --- the book


def test_the_book_has_a_page_for_every_run_and_none_without_rows():
    toc = book.read_toc(book.require_checkout() / "_toc.yml")
    assert paper_notebook.extend_toc(toc) == toc
    assert paper_notebook.jobs(toc) == []
    assert paper_chapter.page() == paper_chapter.NONE_YET
    real_rows.keep("tel_Telu")
    real_rows.keep("ind_Latn")
    real_rows.keep("tam_Taml", limit=5)
    grown = paper_notebook.extend_toc(toc)
    jobs = paper_notebook.jobs(grown)
    assert [job.language for job in jobs] == ["laptop-ind_Latn", "paper-tel_Telu"]
    assert book.toc_notebooks(grown) == book.toc_notebooks(toc), "the lab's study stays as it is"
    page = paper_chapter.page()
    for job in jobs:
        assert job.parameters["profile"] == "paper" and job.source.is_file()
        assert f"`/book/_executed/{job.language}/{job.source.stem}`" in page
    assert "Tamil" not in page and "| ct | 0.500 ± 0.020 |" in page


def test_rows_without_their_items_are_a_table_in_the_book_and_no_page():
    file = real_rows.keep()
    next(file.with_suffix("").glob("base-*")).unlink()
    toc = book.read_toc(book.require_checkout() / "_toc.yml")
    assert paper_notebook.extend_toc(toc) == toc
    page = paper_chapter.page()
    assert "| ct | 0.500 ± 0.020 |" in page and "items are not here" in page
    assert "{doc}" not in page


# --- the verdict


def test_a_gain_beyond_its_interval_holds_by_the_rule_of_the_lab():
    real_rows.keep(gain=0.1)
    found = judged("tam_Taml")
    its = found["f3-accuracy"]
    assert its.effect == pytest.approx(0.1)
    assert its.low > 0.03 and its.p_holm < 0.05 and its.verdict == "holds"
    assert its.n == 2 * real_rows.TEXTS * real_rows.QUESTIONS
    assert its.n_clusters == 2 * real_rows.TEXTS, "texts of two tasks are no cluster"
    assert found["f3-discarded"].effect == pytest.approx(-0.3)
    assert found["f3-discarded"].verdict == "inconclusive"
    missing = {name: v.note for name, v in found.items() if v.verdict == "not tested"}
    assert missing.keys() == {"f3-accuracy-tuned", "f3-language", "f3-where-discarded"}
    assert "no text is scored" in missing["f3-language"]
    assert "one CT checkpoint" in missing["f3-where-discarded"]
    shown = paper_verdicts.table(list(found.values())).data
    assert "**holds** | +10.0 points |" in shown and "480 items on 240 texts" in shown


@pytest.mark.parametrize("gain", [0.0, -0.1, 0.01])
def test_no_gain_or_one_too_small_fails(gain):
    real_rows.keep(gain=gain)
    its = judged("tam_Taml")["f3-accuracy"]
    assert its.effect == pytest.approx(gain, abs=0.005)
    assert its.verdict == "fails"


def test_of_several_languages_the_language_is_the_unit():
    for code, gain in (("tam_Taml", 0.10), ("tel_Telu", 0.12), ("ben_Beng", 0.11)):
        real_rows.keep(code, gain, discarded=(0.4, 0.4 - gain))
    found = judged("tam_Taml", "tel_Telu", "ben_Beng")
    its = found["f3-accuracy"]
    assert its.effect == pytest.approx(0.11, abs=0.005)
    assert its.languages == ("tam_Taml", "tel_Telu", "ben_Beng")
    assert its.high - its.low == pytest.approx(2 * 4.303 * 0.01 / 3**0.5, rel=0.3), "t on 2 degrees"
    assert found["f3-discarded"].verdict == "holds"
    assert "3 languages" in paper_verdicts.basis(its)


def test_without_the_judged_slack_or_its_items_nothing_is_tested():
    file = real_rows.keep(gain=0.1)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if '"slack": 1.0}' not in line))
    found = judged("tam_Taml")
    assert {v.verdict for v in found.values()} == {"not tested"}
    assert "no merge by TIES with slack 1" in found["f3-accuracy"].note
    file.write_text("".join(lines))
    next(file.with_suffix("").glob(f"{SLACK.replace(' ', '-')}*")).unlink()
    assert "items of" in judged("tam_Taml")["f3-accuracy"].note
    assert paper_verdicts.at_7b() == {}


# --- the column "at 7B"


def at_7b(lab):
    """What stands there in the verdicts page, by claim."""
    stated = [claim for claim in claims.load() if claim.id in SHOWN]
    text = verdicts.summary(stated, {"lab": claims.judge_all(lab, stated)})
    return dict(re.findall(r"<verdict-([\w-]+)>`\) .*\| ([^|]*) \|$", text, re.M))


def test_rows_of_the_papers_weights_fill_the_column():
    lab = synthetic.results(items=10, seeds=(0,))
    before = at_7b(lab)
    assert set(before.values()) == {"not tested"}
    real_rows.keep("tam_Taml", gain=0.1)
    now = at_7b(lab)
    changed = {claim for claim in now if now[claim] != before[claim]}
    assert changed == {"f3-accuracy", "f3-discarded"}
    assert now["f3-accuracy"].startswith("holds: +10.0 points, 95 % interval +")
    assert now["f3-accuracy"].endswith("480 items on 240 texts (Tamil)")
    assert "| `f3-accuracy` | Tamil | **holds** |" in verdicts.real()
    stated = [claim for claim in claims.load() if claim.id == "f3-accuracy"]
    (its,) = claims.judge(lab, 3, stated)
    assert its.at_7b == now["f3-accuracy"]
    assert "at 7B: holds: +10.0" in its.sentence()


@pytest.mark.parametrize(
    "kept",
    [
        {"language": "ind_Latn"},  # half a billion parameters
        {"limit": 20},
        {"repositories": {r: f"me/{r}@1" for r in paper.ROLES} | {"data": "d@1"}},
    ],
    ids=["laptop", "trial", "other weights"],
)
def test_other_rows_do_not(kept):
    real_rows.keep(gain=0.1, **kept)
    assert paper_verdicts.at_7b() == {}
