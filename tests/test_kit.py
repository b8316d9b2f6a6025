"""The class kit: whole, the same every time, and enough for a study that trains nothing."""

import json
import zipfile

import conftest
import pandas as pd
import pytest

from langmerge import experts, files, jobs, kit, paths, store, study
from langmerge.errors import LangmergeError


@pytest.fixture(scope="module")
def made(tiny_lab, tmp_path_factory):
    """A kit of the tiny study with a merge of the reader's own in it, and the study's results."""
    conftest.write_profile(tiny_lab.home, "tiny", budgets=[512], slacks=[1], tasks=["topic"])
    results = study.run(profile="tiny", processes=1, quiet=True, elections={"mine": ct_wins})
    out = tmp_path_factory.mktemp("kit") / "kit.zip"
    return kit.build(profile="tiny", out=out, quiet=True), results


def ct_wins(tau_ct, tau_sft):
    return tau_ct.sign()


@pytest.fixture
def elsewhere(tiny_lab, tmp_path, monkeypatch):
    """A home of another reader, with the profile and nothing else."""
    home = tmp_path / "other"
    (home / "profiles").mkdir(parents=True)
    profile = tiny_lab.home / "profiles" / "tiny.yaml"
    (home / "profiles" / "tiny.yaml").write_text(profile.read_text())
    monkeypatch.setenv("LANGMERGE_HOME", str(home))
    return home


def changed(made, target, **members):
    """A copy of a kit with members replaced, added, or left out where they are None."""
    with zipfile.ZipFile(made.path) as source, zipfile.ZipFile(target, "w") as copy:
        held = {name: source.read(name) for name in source.namelist()} | members
        for name, content in held.items():
            if content is not None:
                copy.writestr(name, content)
    return target


def with_manifest(made, target, **values):
    manifest = made.manifest.model_dump() | values
    return changed(made, target, **{kit.MANIFEST: json.dumps(manifest)})


def test_equal_entries_give_equal_bytes(made, tmp_path):
    again = kit.build(profile="tiny", out=tmp_path / "again.zip", quiet=True)
    assert again.digest == made[0].digest == files.sha256(made[0].path)
    note = made[0].path.with_name("kit.zip.sha256").read_text()
    assert note == f"{again.digest}  kit.zip\n"


def test_a_study_with_the_kit_trains_evaluates_and_diagnoses_nothing(made, elsewhere, monkeypatch):
    packed, results = made
    used = kit.use(packed.path)
    assert (used.digest, used.experts, used.results) == (
        packed.digest, packed.experts, packed.results,
    )  # fmt: skip
    work = []
    monkeypatch.setattr(jobs, "run", lambda name, waiting, *_: work.extend(waiting))
    here = study.run(profile="tiny", quiet=True, elections={"mine": ct_wins})
    assert work == []
    for name in ("rows", "items", "diagnostics", "english"):
        pd.testing.assert_frame_equal(getattr(here, name), getattr(results, name))
    assert list((paths.store() / "unfinished").iterdir()) == []


def test_it_holds_each_expert_once_and_the_base(made):
    packed, results = made
    held = {name.rsplit("/", 1)[0] for name in packed.manifest.files}
    weights = {cell.expert.sha256 for cell in results.cells if cell.expert}
    assert packed.experts == len(weights)
    assert "bases/kit" in held
    for tokens in results.budgets:
        assert any(cell.method == "ct" and cell.ct_tokens == tokens for cell in results.cells)


def test_what_is_there_stays_and_what_is_damaged_is_mended(made, elsewhere):
    packed, _ = made
    kit.use(packed.path)
    first, second = sorted((elsewhere / "store" / "sft").iterdir())[:2]
    (first / "mark").touch()
    (second / "model.safetensors").write_bytes(b"half")
    kit.use(packed.path)
    assert (first / "mark").exists()
    assert store.damage_of(second) is None


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"stages": {"ct": 0}}, "another version of its stages"),
        ({"texts": {"tam_Taml": "x"}}, "another language file tam_Taml"),
        ({"bases": {"kit": "x"}}, "another base"),
        ({"plan": {}}, "another profile tiny"),
        ({"format": 99}, "format 99"),
        ({"more": 1}, "no kit of this version: more"),
    ],
)
def test_a_kit_that_would_not_be_found_is_refused(made, elsewhere, tmp_path, values, told):
    other = with_manifest(made[0], tmp_path / "other.zip", **values)
    with pytest.raises(LangmergeError, match=told):
        kit.use(other)
    assert not (elsewhere / "store").exists()


def test_damage_is_seen_before_anything_has_its_place(made, elsewhere, tmp_path):
    packed = made[0]
    name = next(name for name in packed.manifest.files if name.endswith("model.safetensors"))
    damaged = changed(packed, tmp_path / "damaged.zip", **{name: b"other"})
    cut = tmp_path / "cut.zip"
    cut.write_bytes(packed.path.read_bytes()[:-100])
    beside = tmp_path / "beside.zip"
    beside.write_bytes(packed.path.read_bytes())
    (tmp_path / "beside.zip.sha256").write_text(f"{'0' * 64}  beside.zip\n")
    for path, told in (
        (damaged, f"{name} is damaged"),
        (cut, "cut off"),
        (beside, "not 0000"),
        (tmp_path / "none.zip", "no kit at"),
        (changed(packed, tmp_path / "bare.zip", **{kit.MANIFEST: None}), "has no kit.json"),
        (changed(packed, tmp_path / "more.zip", **{"store/ct/a/b": b""}), "exactly the files"),
    ):
        with pytest.raises(LangmergeError, match=told):
            kit.use(path)
    with pytest.raises(LangmergeError, match="not abc"):
        kit.use(packed.path, "abc")
    assert not list((elsewhere / "store").glob("[!u]*"))
    assert not list((elsewhere / "store").glob("unfinished/*"))


@pytest.mark.parametrize(
    "name",
    [
        "../x/y/z", "store/ct/../x", "/store/ct/a/b", "store/other/a/b", "store/ct/a/b/c",
        "bases/../x", "profiles/lab.yaml", "store/ct/a/..\\b", "C:/ct/a/b", "store/ct/C:a/b",
    ],
)  # fmt: skip
def test_no_file_leaves_its_place(made, elsewhere, tmp_path, name):
    files_ = made[0].manifest.files | {name: "0"}
    manifest = json.dumps(made[0].manifest.model_dump() | {"files": files_})
    planted = changed(made[0], tmp_path / "p.zip", **{kit.MANIFEST: manifest, name: b"x"})
    with pytest.raises(LangmergeError, match=r"no part of a kit|no kit of this version"):
        kit.use(planted)


def test_keys_of_the_manifest_follow_the_text(made):
    assert made[0].manifest.texts["tam_Taml"] == experts.fingerprint("tam_Taml")
