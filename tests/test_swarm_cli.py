"""The swarm's verbs, as a person types them."""

import sys
from pathlib import Path

import pytest

from tests.comms.swarm.made_history import change, end, find, run
from thinwire import cli


@pytest.fixture(autouse=True)
def _same_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["thinwire"])


def ended(words: list[str]) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(words)
    assert isinstance(caught.value.code, int)
    return caught.value.code


# -- verify --------------------------------------------------------------------------------------------------------------------


def test_verify_prints_every_law_and_is_green(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    end(run(tmp_path))
    cli.main(["verify", str(tmp_path)])
    told = capsys.readouterr().out
    assert "69 events of 4 members in 4 incarnations; 6 decisions, 0 declared forks" in told
    assert "green: every law holds" in told
    assert "nothing to check" not in told


def test_verify_is_red_and_names_the_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    end(run(tmp_path))
    change(tmp_path, 1, lambda lines: find(lines, "apply", 4).update(sent=1))
    assert ended(["verify", str(tmp_path), "--violations", "1"]) == 1
    told = capsys.readouterr().out
    assert "RED" in told
    assert "bytes: reported 401 bytes sent in all, the transport counted 500 (" in told
    assert "... and 2 more" in told


@pytest.mark.parametrize("content", [None, '{"kind": "commit"}\n{}\n'])
def test_verify_of_what_is_no_history_is_one_sentence(content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if content:
        (tmp_path / "00ff-00ff.jsonl").write_text(content)
    assert ended(["verify", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert "holds no history" in told or "00ff-00ff.jsonl:1 is no event" in told


def test_every_verb_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--help"])
    told = capsys.readouterr().out
    assert all(f"thinwire {verb} " in told for verb in (*cli.SWARM, "chaos"))
