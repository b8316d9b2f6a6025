"""The command line: help, and errors that a user can mend."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command
from typer.testing import CliRunner

from langmerge import cli
from langmerge.errors import LangmergeError

LIBRARY = Path(cli.__file__).parents[2]


def langmerge(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(LIBRARY)}
    command = [sys.executable, "-m", "langmerge", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["bok"], "bok"),
        (["run", "--profil", "lab"], "--profil"),
        (["run", "--seeds", "0,one"], "'one'"),
        (["run", "--seeds", "1,1"], "differ"),
        (["book", "--language", "tam_Tamil"], "tam_Taml"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(arguments, told):
    done = langmerge(*arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_every_command_has_help_with_an_example():
    runner = CliRunner()
    names = list(commands(get_command(cli.app)))
    expected = {"run", "book", "tune", "base", "languages", "show", "test", "bench"}
    expected |= {"base extend", "language new", "language check", "language attest"}
    assert expected <= set(names)
    for name in names:
        shown = runner.invoke(cli.app, [*name.split(), "--help"])
        assert shown.exit_code == 0
        assert f"langmerge {name}" in shown.output, name


def commands(group, within=""):
    """The names of all commands, those of a group behind its own."""
    for name, command in group.commands.items():
        yield within + name
        if hasattr(command, "commands"):
            yield from commands(command, f"{within}{name} ")


def failing(error):
    def app():
        raise error

    return app


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENOTDIR])
def test_what_the_system_refuses_is_named(monkeypatch, capsys, number):
    monkeypatch.setattr(cli, "app", failing(OSError(number, "refused", "/some/place")))
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    told = capsys.readouterr().err
    assert os.strerror(number) in told
    assert "/some/place" in told


def test_a_full_disk_is_seen_through_what_libraries_make_of_it(monkeypatch, capsys):
    wrapped = RuntimeError("Error while serializing: I/O error: no room (os error 28)")
    monkeypatch.setattr(cli, "app", failing(wrapped))
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    assert os.strerror(errno.ENOSPC) in capsys.readouterr().err


@pytest.mark.parametrize("error", [ZeroDivisionError(), OSError(errno.EIO, "broken")])
def test_a_bug_keeps_its_traceback(monkeypatch, error):
    monkeypatch.setattr(cli, "app", failing(error))
    with pytest.raises(type(error)):
        cli.main()


def test_a_cause_that_can_be_mended_is_found():
    try:
        try:
            raise LangmergeError("mend this")
        except LangmergeError as error:
            raise ValueError("wrapped") from error
    except ValueError as error:
        assert cli.explain(error) == "mend this"


@given(st.lists(st.integers(0, 10**6), min_size=1, unique=True), st.sampled_from([",", " ", ", "]))
def test_seeds_are_read_as_written(seeds, separator):
    assert cli.parse_seeds(separator.join(map(str, seeds))) == seeds


@given(st.text(max_size=8))
def test_seeds_that_are_no_integers_are_refused_with_an_own_error(text):
    try:
        seeds = cli.parse_seeds(text)
    except LangmergeError:
        return
    assert all(isinstance(seed, int) and seed >= 0 for seed in seeds)


def test_languages_are_listed_even_without_a_sound_base(monkeypatch):
    monkeypatch.setattr(cli.languages, "_met_by_base", lambda: None)
    shown = CliRunner().invoke(cli.app, ["languages"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert "tam_Taml" in shown.output
    assert "தமிழ்" in shown.output
