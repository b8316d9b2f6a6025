"""A language of the core tier, added as the how-to says, goes through the whole study."""

import re
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import TINY_RECIPE, write_profile
from matplotlib import pyplot as plt

from langmerge import (
    base,
    corpus,
    data_card,
    experts,
    language_check,
    languages,
    model_card,
    paths,
    profiles,
    readiness,
    study,
)

CODE = "epo_Latn"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A home with the example among its languages, and a tiny base that has met it."""
    top = tmp_path_factory.mktemp("core")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANGMERGE_HOME", str(top / "home"))
        patch.setattr(readiness, "PROFILE", "tiny")
        patch.setattr(model_card, "TEXTS", 3)
        patch.setattr(model_card, "FERTILITY_DOCUMENTS", 5)
        # As the shipped profile is to its notebooks: tuned settings, and the models of the fourth.
        tuned = profiles.load("lab").tuned | {"ct_then_sft": {"learning_rate": 1e-3, "steps": 3}}
        write_profile(top / "home", "tiny", tuned=tuned, families=["beyond"])
        own = top / "home" / "languages"
        own.mkdir(parents=True)
        shutil.copy(paths.data() / "examples" / f"{CODE}.yaml", own)
        forget()
        trace = TINY_RECIPE["trace"] | {"languages": [CODE, "zzz_0000", "zzz_0001"]}
        recipe = top / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(TINY_RECIPE | {"trace": trace}))
        built = base.build(top / "base", recipe)
        patch.setenv("LANGMERGE_BASE", str(built))
        yield built
    forget()


def forget():
    languages.load.cache_clear()
    experts.fingerprint.cache_clear()


def test_it_runs_on_the_tasks_that_it_can_say(lab):
    found = study.run(language=CODE, profile="tiny", processes=1, quiet=True)
    assert found.tasks == ["thing", "action"]
    assert set(found.rows["task"]) == {"thing", "action", "text"}
    merged = found.rows[found.rows["method"].isin(["ties_mean", "ties_sv"])]
    assert len(merged) and merged["value"].notna().all()


FINDINGS = sorted(paths.notebooks().glob("0[1-4]*.py"))


@pytest.mark.parametrize("source", FINDINGS, ids=[path.stem for path in FINDINGS])
def test_every_notebook_of_the_study_works_in_it(lab, source):
    code = source.read_text(encoding="utf-8")
    for name, value in {"language": CODE, "profile": "tiny"}.items():
        code, found = re.subn(rf'^{name} = "\w+"', f'{name} = "{value}"', code, flags=re.MULTILINE)
        assert found == 1
    cells = {"__name__": "__main__"}
    # What a notebook sets for its own display is no business of other tests.
    with plt.rc_context(), pd.option_context("display.precision", 6):
        exec(compile(code, source, "exec"), cells)
    plt.close("all")
    assert {item.task for item in cells["shown"]} == {"thing"}, "a core file cannot say a topic"


def test_the_bases_card_has_a_line_for_it(lab):
    card = (lab / "README.md").read_text(encoding="utf-8")
    (line,) = [line for line in card.splitlines() if f"({CODE})" in line]
    assert line.count("–") == 2, "no topic and no kind"


def test_the_data_card_has_it(lab):
    assert CODE in data_card.shown()
    assert "la patrino kuiras la rizon." in data_card.samples()
    assert "| core |" in row(data_card.sizes()), "the tier"
    assert row(data_card.sizes()).endswith("| no |"), "no speaker has checked it"
    assert row(data_card.described()).endswith("| yes |"), "the base has met it"
    assert "Esperanto: the core alone" in data_card.limits()


def row(table):
    """The language's line of a Markdown table."""
    (line,) = [line for line in table.splitlines() if f"`{CODE}`" in line]
    return line


def test_it_is_estimated_as_met(lab):
    found = language_check.learnability(languages.load(CODE), base.load())
    assert found.first_tokens["things"][1] == 42


def test_what_is_said_about_it_changes_no_experiment(lab):
    path = paths.home() / "languages" / f"{CODE}.yaml"
    text = path.read_text(encoding="utf-8")
    before = experts.fingerprint(CODE)
    try:
        path.write_text(text.replace("reviewed: false", "reviewed: true"), encoding="utf-8")
        forget()
        assert languages.load(CODE).reviewed and experts.fingerprint(CODE) == before
        path.write_text(text.replace('"rizon"', '"rizojn"'), encoding="utf-8")
        forget()
        assert experts.fingerprint(CODE) != before
    finally:
        path.write_text(text, encoding="utf-8")
        forget()


def test_its_text_is_made_of_its_words(lab):
    language = languages.load(CODE)
    known = {"la", "kion", "faras", "kun"} | {
        form for kind in language.words.values() for word in kind.values() for form in forms(word)
    }
    documents = corpus.documents(CODE, np.random.default_rng(0))
    for text in (next(documents) for _ in range(200)):
        assert set(text.replace(".", "").replace("?", "").split()) <= known


def forms(word):
    return [word] if isinstance(word, str) else word.values()
