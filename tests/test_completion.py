"""`thinwire completion`: bash completes with what it prints."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from thinwire import cli
from thinwire.verbs import completion
from thinwire.verbs.completion import Command, commands, script


@pytest.fixture(scope="module")
def known() -> list[Command]:
    return list(commands())


@pytest.fixture(scope="module")
def bash(known: list[Command], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "thinwire.bash"
    path.write_text(script("bash", known))
    return path


def completed(path: Path, *words: str) -> list[str]:
    """What bash offers for the last word."""
    code = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _thinwire; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "--norc", "-c", code, "-", str(path), "thinwire", *words], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_verbs_and_suites(bash: Path) -> None:
    assert set(completed(bash, "")) == {*cli.VERBS, "bench"}
    assert completed(bash, "st") == ["status"]
    assert completed(bash, "bench", "") == list(cli.SUITES)
    assert completed(bash, "bench", "s") == ["scaling", "swarm"]
    assert completed(bash, "nonsense", "-") == []


def test_every_verb_has_its_options_and_those_of_another_stay_away(bash: Path, known: list[Command]) -> None:
    for command in known:
        assert set(completed(bash, *command.name.split(), "-")) == {name for name in command.options if name}, command.name
    assert completed(bash, "serve", "--po") == ["--port"]
    assert completed(bash, "status", "tw1", "--on") == ["--once"]
    assert "--violations" in completed(bash, "verify", "--")  # the verb
    assert "--violations" not in completed(bash, "bench", "verify", "--")  # the suite


def test_what_an_option_may_be(bash: Path) -> None:
    assert completed(bash, "serve", "my-run", "--trust", "") == ["lan", "federation", "open"]
    assert completed(bash, "run", "--region", "p") == ["process"]
    assert completed(bash, "completion", "") == ["bash", "zsh", "fish"]


def test_files_are_left_to_bash_and_another_command_too(bash: Path) -> None:
    assert completed(bash, "inspect", "chec") == []
    assert completed(bash, "join", "tw1", "--", "python", "--i") == []
    registered = subprocess.run(
        ["bash", "--norc", "-c", 'source "$1"; complete -p thinwire', "-", str(bash)], capture_output=True, text=True
    )
    assert registered.stdout == "complete -o bashdefault -o default -F _thinwire thinwire\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_name_every_verb_and_are_well_formed(shell: str, known: list[Command], tmp_path: Path) -> None:
    made = script(shell, known)
    assert all(f"{name.split()[-1]}" in made for name in (command.name for command in known))
    path = tmp_path / "script"
    path.write_text(made)
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    subprocess.run([shell, "-n", str(path)], check=True)


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish here")
def test_fish_completes_with_it(known: list[Command], tmp_path: Path) -> None:
    (tmp_path / "thinwire.fish").write_text(script("fish", known))

    def offered(line: str) -> set[str]:
        code = f"source {tmp_path}/thinwire.fish; complete -C '{line}'"
        env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
        told = subprocess.run(["fish", "--no-config", "-c", code], env=env, capture_output=True, text=True, check=True).stdout
        return {entry.split("\t")[0] for entry in told.splitlines()}

    assert offered("thinwire st") == {"status"}
    assert offered("thinwire bench s") == {"scaling", "swarm"}
    assert offered("thinwire bench scaling --pe") == {"--peers"}
    assert offered("thinwire serve --trust ") == {"federation", "lan", "open"}


def test_a_verb_that_lacks_its_extra_is_told_and_completed_without_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lacking(module: str) -> ModuleType:
        raise cli.UsageError("no module 'tyro'; pip install 'thinwire[cli]'")

    monkeypatch.setattr(cli, "load", lacking)
    assert [command.options for command in commands()] == [{}] * (len(cli.VERBS) + len(cli.SUITES))
    assert "`thinwire serve` is completed without its options: no module 'tyro'" in capsys.readouterr().err


def test_the_command_prints_it_and_only_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["thinwire"])
    monkeypatch.setattr(completion, "commands", lambda: iter([Command("serve", "Be a peer.", {"--port": ()})]))
    cli.main(["completion", "fish"])
    told = capsys.readouterr()
    assert "complete -c thinwire -n 'not __fish_seen_subcommand_from bench; and __fish_seen_subcommand_from serve' -l port" in told.out
    assert told.err == ""
    assert cli.run(["completion", "tcsh"])[0] == cli.USAGE
