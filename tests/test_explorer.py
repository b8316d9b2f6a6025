"""The explorer's points, what the page holds of them, and what it does with hostile names."""

import json
import math
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
import synthetic

from langmerge import explorer, languages, statistics
from langmerge.errors import LangmergeError

CODES = ("tam_Taml", "uig_Arab", "zzz_0002")


@pytest.fixture(scope="module")
def results():
    """A made-up run of three languages, with the diagnostics of its slack sweep."""
    made = synthetic.results(
        languages=CODES, items=8, concepts=6, seeds=(0, 1), budgets=(1024, 4096)
    )
    plain = made.diagnostics[made.diagnostics["method"] == "ties_mean"]
    swept = [
        plain.assign(method="ties_sv", setting="sweep", slack=slack) for slack in synthetic.SLACKS
    ]
    made.diagnostics = pd.concat([made.diagnostics, *swept], ignore_index=True)
    return made


@pytest.fixture(scope="module")
def found(results):
    return explorer.points(results)


def test_every_language_has_every_point_once(found):
    keys = [(p.language, p.series, p.slack, p.ct_tokens) for p in found]
    assert len(keys) == len(set(keys))
    # At every budget five slacks, CT and CT-then-SFT; SFT alone has no CT.
    assert len(keys) == len(CODES) * (2 * (len(synthetic.SLACKS) + 2) + 1)


@pytest.mark.parametrize("code", CODES)
def test_points_are_what_the_statistics_say(results, found, code):
    """Computed for all models at once, they equal the summaries of one model each."""
    for metric, names in (
        ("accuracy", ("accuracy", "low", "high", "items")),
        ("bits_per_byte", ("bits_per_byte", "bits_low", "bits_high", "texts")),
    ):
        summary = statistics.summarize(results, metric, language=code, method=["ct", "ties_sv"])
        for point in (p for p in found if p.language == code and p.ct_tokens == 4096):
            if point.series == "ct":
                its = summary[(summary["method"] == "ct") & (summary["ct_tokens"] == 4096)]
            elif point.slack == 4:
                its = summary[(summary["slack"] == 4) & (summary["ct_tokens"] == 4096)]
            else:
                continue
            expected = its[["value", "low", "high", "n"]].iloc[0].tolist()
            assert [getattr(point, name) for name in names] == pytest.approx(expected)


def test_the_discarded_share_counts_parameters(results, found):
    (point,) = [
        p for p in found if (p.language, p.slack, p.ct_tokens) == ("uig_Arab", math.inf, 1024)
    ]
    its = (
        results.diagnostics.query("language == 'uig_Arab' and slack == inf and ct_tokens == 1024")
        .groupby("seed")[["outvoted_sft", "kept_sft"]]
        .sum()
    )
    shares = its["outvoted_sft"] / its.sum(axis=1)
    assert point.discarded == pytest.approx(shares.mean())
    assert point.discarded_low <= point.discarded <= point.discarded_high
    assert point.surviving == round(its.to_numpy().sum() / point.seeds)


def test_what_the_script_reads_holds_every_point(results, found):
    told = json.loads(explorer.embedded(explorer.data(results, found)))
    (trim,) = told["trims"]
    assert trim["slacks"] == told["slacks"] == ["0", "0.5", "1", "4", "inf"]
    for point in found:
        slack = "" if point.slack is None else f"{point.slack:g}"
        its = told["points"][point.language][point.series][slack][str(point.ct_tokens)]
        held = dict(zip(told["fields"], its, strict=True))
        assert held["accuracy"] == pytest.approx(point.accuracy, rel=1e-3)
        assert held["seeds"] == 2 and held["items"] == point.items
    assert [it["lang"] for it in told["languages"]] == ["ta-Taml", "ug-Arab", "art-x-zzz0002"]
    assert [it["dir"] for it in told["languages"]] == ["ltr", "rtl", "ltr"]


class Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.scripts = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)

    def handle_data(self, data):
        if self.tags and self.tags[-1] == "script":
            self.scripts.append(data)


HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    '"><img src=x onerror=alert(1)>',
    "``````\n\n# broken out",
    "{raw}`html` ${alert(1)} [a](javascript:alert(1)) \u2028",
]


RAW = re.compile(r"^``````\{raw\} html\n(.*?)^``````$", re.MULTILINE | re.DOTALL)


def parsed(text: str) -> Elements:
    page = Elements()
    page.feed("".join(RAW.findall(text)))
    return page


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_stays_text(results, found, monkeypatch, name):
    clean = explorer.chapter(explorer.data(results, found), "alt", "rests")
    load = languages.load

    def hostile(code):
        return load(code).model_copy(update={"name": name, "autonym": name})

    monkeypatch.setattr(languages, "load", hostile)
    text = explorer.chapter(explorer.data(results, found), "alt", "rests")
    assert len(RAW.findall(text)) == 2
    assert parsed(text).tags == parsed(clean).tags
    told = json.loads(parsed(text).scripts[0])
    assert {it["name"] for it in told["languages"]} == {name}
    outside = RAW.sub("", text)
    assert not re.search(r"(?<!\\)<(?!_executed)|(?<!\\)\]\(|\n#|(?<!\\)`html", outside)


def test_a_point_that_is_missing_names_the_run(results):
    less = results.__class__(**vars(results))
    less.diagnostics = results.diagnostics.query("not (language == 'uig_Arab' and slack == 4)")
    with pytest.raises(LangmergeError, match=r"uig_Arab.*\n?.*langmerge reference"):
        explorer.points(less)
    less = results.__class__(**vars(results))
    less.items = results.items.query("not (language == 'zzz_0002' and method == 'ct')")
    with pytest.raises(LangmergeError, match=r"zzz_0002.*langmerge reference"):
        explorer.points(less)


def test_without_a_reference_run_the_page_says_which_to_make(tmp_path):
    text = explorer.page(None, tmp_path)
    assert "langmerge reference" in text
    assert "figure" not in text and "<div" not in text
    assert not list(tmp_path.iterdir())


def test_the_static_figure_shows_all_slacks_and_says_so(results, found):
    told = explorer.data(results, found)
    fig = explorer.figure(told, "tam_Taml")
    assert len(fig.axes) == 3
    for ax in fig.axes:
        assert ax.get_xlabel() and ax.get_ylabel()
        assert len(ax.containers) == len(synthetic.SLACKS)
    for slack in told["slacks"]:
        assert f"slack {slack}: accuracy" in fig.alt_text
