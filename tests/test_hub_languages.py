"""What the hub has for a language: the blocks, the task files and the page agree."""

import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from langmerge import cli, hub_languages, languages, paper, paths
from langmerge.errors import LangmergeError
from langmerge.merging import recipe

PAGE = Path(__file__).parent.parent / "book" / "real_models.md"
CODES = hub_languages.codes()
TEMPLATE = "_default_template_yaml"
BELEBELE = Path(__import__("lm_eval").__file__).parent / "tasks" / "belebele"


@pytest.mark.parametrize("code", CODES)
def test_every_block_is_of_the_schema_and_of_its_language(code):
    it = hub_languages.load(code)
    assert it.code == code
    assert it.in_lab == (code in paths.names("languages"))
    for config in (it.hub.flores, it.hub.fineweb2, it.hub.sib200):
        assert config in (None, code)
    for size, config in ((it.hub.fineweb2_gb, it.hub.fineweb2), (it.hub.mc2_gb, it.hub.mc2)):
        assert config or not size
    named = (it.hub.ct_base, it.hub.ct_text, it.hub.ct_licence)
    assert all(named) if it.hub.ct_checkpoint else not any(named)


@pytest.mark.parametrize("code", CODES)
def test_every_task_of_a_block_has_a_file_for_its_language(code):
    hub = hub_languages.load(code).hub
    for task in hub.lm_eval:
        assert (BELEBELE / f"{task}.yaml").is_file()
    for task in hub.own_tasks:
        path = paths.data() / "tasks" / f"{task}.yaml"
        written = yaml.safe_load(path.read_text())
        template = yaml.safe_load((path.parent / written["include"]).read_text())
        its, config = hub_languages.task_set(task)
        assert written["task"] == task
        assert template["dataset_path"] == its.dataset
        assert template["test_split"] == its.split
        assert its.metric in [metric["metric"] for metric in template["metric_list"]]
        if its.file:
            assert config == hub.milic_eval
            assert written["dataset_kwargs"]["data_files"] == {"test": its.file.format(code=config)}
        else:
            assert config == code == written["dataset_name"]


def lm_evals(path):
    """A task file of lm-eval's; its tags for functions are left as their names."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: node.value)
    return yaml.load((BELEBELE.parent / path).read_text(), Loader)


def columns_of(*templates):
    return {name for one in templates for name in re.findall(r"\{\{[^}]*?(\w+)[^}\w]*\}\}", one)}


def test_belebele_is_as_lm_eval_reads_it():
    its, theirs = hub_languages.catalogue().tasks["belebele"], lm_evals(BELEBELE / TEMPLATE)
    assert its.dataset == theirs["dataset_path"]
    asked = theirs["doc_to_text"].replace(".strip()", "")
    assert set(its.columns) == columns_of(asked, theirs["doc_to_target"])
    assert its.group in its.columns
    for code in CODES:
        for task in hub_languages.load(code).hub.lm_eval:
            own = lm_evals(BELEBELE / f"{task}.yaml")
            assert (own["dataset_name"], own["test_split"]) == (code, its.split)


def test_sib_200_is_as_lm_eval_reads_it_for_african_languages():
    its = hub_languages.catalogue().tasks["sib200"]
    ours = yaml.safe_load((paths.data() / "tasks" / "_sib200").read_text())
    theirs = lm_evals("afrobench/sib/prompt_1/sib")
    swahili = lm_evals("afrobench/sib/prompt_1/sib_swa.yaml")
    assert (its.dataset, its.split) == (theirs["dataset_path"], theirs["test_split"])
    assert ours["doc_to_choice"] == theirs["doc_to_choice"]
    assert set(its.columns) == {theirs["doc_to_target"], *columns_of(swahili["doc_to_text"])}
    assert swahili["dataset_name"] == hub_languages.load("swh_Latn").hub.sib200


def test_every_task_file_is_of_a_language():
    shipped = {path.stem for path in (paths.data() / "tasks").glob("*.yaml")}
    assert shipped == {task for code in CODES for task in hub_languages.load(code).hub.own_tasks}


def test_checkpoints_are_those_of_the_shipped_recipes():
    triple = paper.read_study().triples["paper"]
    for code in CODES:
        if checkpoint := hub_languages.load(code).hub.ct_checkpoint:
            made = recipe.read(checkpoint.rsplit("-", 1)[1])
            assert made.references_and_base() == [triple.base, checkpoint, triple.sft]
    laptop = paper.read_study().triples["laptop"]
    made = recipe.read("laptop")
    assert made.references_and_base() == [laptop.base, laptop.ct, laptop.sft]


@pytest.mark.parametrize("code", hub_languages.hub_only())
def test_the_lab_refuses_a_language_that_only_the_hub_has(code):
    with pytest.raises(LangmergeError, match=rf"{code} is known by its published data alone"):
        languages.load(code)
    done = CliRunner().invoke(cli.app, ["run", "--language", code, "--profile", "smoke"])
    assert "published data alone" in cli.explain(done.exception)


def test_a_block_with_an_unknown_key_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("LANGMERGE_HOME", str(tmp_path))
    folder = tmp_path / "hub_languages"
    folder.mkdir()
    text = (paths.data() / "hub_languages" / "tha_Thai.yaml").read_text()
    (folder / "tha_Thai.yaml").write_text(text.replace("  sib200:", "  sib20:"))
    with pytest.raises(LangmergeError, match=r"tha_Thai\.yaml.*sib20"):
        hub_languages.load("tha_Thai")
    with pytest.raises(LangmergeError, match="did you mean tha_Thai"):
        hub_languages.load("tha_Tha")


def test_the_page_names_the_released_checkpoints_and_commands():
    text = PAGE.read_text(encoding="utf-8")
    released = {hub_languages.load(code).hub.ct_checkpoint for code in CODES} - {None}
    assert set(re.findall(r"`(pkupie/Llama-2-7b-[a-z]{3})`", text)) == released
    help_ = CliRunner().invoke(cli.app, ["paper", "--help"], env={"COLUMNS": "200"}).output
    commands = re.findall(r"^langmerge (.*)$", text, re.MULTILINE)
    assert commands
    for command in commands:
        assert command.split()[0] == "paper"
        for option in (word for word in command.split() if word.startswith("--")):
            assert option in help_, command
