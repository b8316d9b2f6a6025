"""The intervals hold the truth as often as they say: a small simulation, and the shipped one."""

import pytest

from langmerge import coverage, paths, verdicts
from langmerge.errors import LangmergeError


@pytest.fixture(scope="module")
def small():
    return coverage.simulate(trials=2_000, bootstrap_trials=100)


def at(table, **wanted):
    for column, value in wanted.items():
        table = table[table[column] == value]
    (found,) = table["coverage"]
    return found


def test_at_60_clusters_a_95_percent_interval_is_one(small):
    shipped = coverage.load()
    for table in (small, shipped):
        assert at(table, units="concepts", number="60") == pytest.approx(0.95, abs=0.02)
    assert at(shipped, number="60", spread="normal", interval="t") == pytest.approx(0.95, abs=0.02)


def test_with_few_units_the_bootstrap_falls_short_and_t_does_not():
    shipped = coverage.load()
    for number in ("3", "5", "7"):
        its = {"number": number, "spread": "normal"}
        assert at(shipped, interval="t", **its) == pytest.approx(0.95, abs=0.02)
        assert at(shipped, interval="percentile", **its) < 0.93
        assert at(shipped, interval="BCa", **its) < 0.93


def test_the_wider_interval_holds_where_either_alone_does_not(small):
    for table in (small, coverage.load()):
        its = table[table["units"] == "languages and bases"]
        lowest = its.groupby("interval")["coverage"].min()
        assert lowest["the wider"] > 0.93
        assert lowest["over languages"] < 0.75 and lowest["over bases"] < 0.85


def test_the_shipped_table_is_of_the_present_designs(small):
    keys = ["units", "number", "spread", "interval"]
    shipped = coverage.load()
    assert shipped[keys].to_numpy().tolist() == small[keys].to_numpy().tolist()
    assert (shipped["low"] <= shipped["coverage"]).all()
    assert (shipped["coverage"] <= shipped["high"]).all()
    text = verdicts._coverage(shipped)
    assert f"{100 * at(shipped, units='concepts', number='5'):.1f}" in text


def test_a_missing_table_names_the_command(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "data", lambda: tmp_path)
    with pytest.raises(LangmergeError, match="langmerge coverage"):
        coverage.load()
