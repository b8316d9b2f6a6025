"""Where things are: in a checkout, in a wheel, and under LANGMERGE_HOME."""

from pathlib import Path

import platformdirs
import pytest

from langmerge import paths

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """langmerge as a wheel installs it: data and notebooks inside the package."""
    package = tmp_path / "site-packages" / "langmerge"
    for name in ("_data/languages", "_notebooks"):
        (package / name).mkdir(parents=True)
    monkeypatch.setattr(paths, "_PACKAGE", package)
    monkeypatch.delenv("LANGMERGE_HOME", raising=False)
    return package


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A LANGMERGE_HOME with a language file in it."""
    monkeypatch.setenv("LANGMERGE_HOME", str(tmp_path))
    (tmp_path / "languages").mkdir()
    (tmp_path / "languages" / "qqq_Latn.yaml").touch()
    return tmp_path


def test_a_checkout_holds_everything(monkeypatch):
    monkeypatch.delenv("LANGMERGE_HOME", raising=False)
    assert paths.checkout() == ROOT
    assert paths.data() == ROOT / "data"
    assert paths.notebooks() == ROOT / "notebooks"
    assert paths.home() == ROOT / "build"
    assert paths.store() == ROOT / "build" / "store"


def test_a_wheel_holds_data_and_computes_in_the_users_cache(wheel):
    assert paths.checkout() is None
    assert paths.data() == wheel / "_data"
    assert paths.notebooks() == wheel / "_notebooks"
    assert paths.home() == Path(platformdirs.user_cache_dir("langmerge"))


@pytest.mark.parametrize("installed", [True, False])
def test_langmerge_home_comes_first(installed, request, tmp_path, monkeypatch):
    if installed:
        request.getfixturevalue("wheel")
    monkeypatch.setenv("LANGMERGE_HOME", str(tmp_path / "elsewhere"))
    assert paths.home() == tmp_path / "elsewhere"
    assert paths.store() == tmp_path / "elsewhere" / "store"
    assert paths.search("profiles")[0] == tmp_path / "elsewhere" / "profiles"
    assert not (tmp_path / "elsewhere").exists(), "asking makes nothing"


def test_an_empty_langmerge_home_is_none(monkeypatch):
    monkeypatch.setenv("LANGMERGE_HOME", "")
    assert paths.home() == ROOT / "build"


def test_langmerge_home_may_be_relative_or_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("LANGMERGE_HOME", "here")
    assert paths.home() == tmp_path / "here"
    monkeypatch.setenv("LANGMERGE_HOME", "~/there")
    assert paths.home() == tmp_path / "me" / "there"


def test_a_users_own_file_is_found_and_listed_beside_the_shipped(own):
    assert paths.find("languages", "qqq_Latn") == own / "languages" / "qqq_Latn.yaml"
    assert paths.find("languages", "eng_Latn") == ROOT / "data" / "languages" / "eng_Latn.yaml"
    assert {"qqq_Latn", "eng_Latn"} <= set(paths.names("languages"))


def test_a_users_own_file_hides_the_shipped_one_of_its_name(own):
    (own / "languages" / "eng_Latn.yaml").touch()
    assert paths.find("languages", "eng_Latn") == own / "languages" / "eng_Latn.yaml"
    assert paths.names("languages").count("eng_Latn") == 1


def test_what_is_nowhere_is_none(own):
    assert paths.find("languages", "no_such") is None
    (own / "languages" / "folder.yaml").mkdir()
    assert paths.find("languages", "folder") is None
    assert paths.names("no_such_kind") == []
