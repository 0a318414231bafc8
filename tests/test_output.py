"""One output in three forms: what the verbs share."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import tyro
from rich.table import Table
from rich.text import Text

from thinwire.output import Form, Output, encoded, lines, one_sentence, parse


def table() -> Table:
    made = Table(title="two peers", box=None)
    made.add_column("member")
    made.add_column("MB", justify="right")
    made.add_row("a", "1.50")
    made.add_row("[red]does not\nanswer[/red]", "-")
    return made


SHOWN = (table(), "3 [red]of 4\nmembers", Text("RED", style="red"))


def test_plain_is_a_line_a_row_without_colours_or_boxes(capsys: pytest.CaptureFixture[str]) -> None:
    out = Form(plain=True).output()
    out.say(*SHOWN)
    out.tell({"not": "said"})
    assert capsys.readouterr().out.splitlines() == [
        "two peers", "member\tMB", "a\t1.50", "does not\\nanswer\t-", "3 [red]of 4", "members", "RED",
    ]  # fmt: skip


def test_json_is_one_line_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    out = Form(json=True).output()
    out.say(*SHOWN)
    out.tell({"members": 2})
    out.aside.print("on the way")
    told = capsys.readouterr()
    assert told.out == '{"members": 2}\n'
    assert told.err == "on the way\n"


def test_people_get_tables_and_no_json(capsys: pytest.CaptureFixture[str]) -> None:
    out = Form().output()
    out.say(*SHOWN)
    out.tell({"not": "said"})
    told = capsys.readouterr().out
    assert "two peers" in told
    assert "3 [red]of 4\nmembers\nRED\n" in told
    assert "not" not in told.replace("does not", "")
    assert not out.live  # nobody looks at a pipe


def test_a_long_line_is_not_cut_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    Output(width=20).say("word " * 50)
    assert capsys.readouterr().out.count("\n") == 1


def test_who_has_read_enough_ends_the_command_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as gone:
        monkeypatch.setattr("sys.stdout", gone)
        with pytest.raises(SystemExit) as caught:
            Output(plain=True).say("a line")
    assert caught.value.code == 141


def test_both_forms_at_once_are_refused() -> None:
    with pytest.raises(ValueError, match="--json and --plain are two forms of one output; give one of them"):
        Form(json=True, plain=True).output()


def test_what_a_peer_sent_does_not_steer_the_terminal() -> None:
    assert list(lines("\x1b[2J\x9bold\rnew")) == ["\\x1b[2J\\x9bold\\rnew"]


@dataclass(frozen=True)
class Options(Form):
    """How many."""

    many: tyro.conf.Positional[int] = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.many < 0:
            raise ValueError("many is negative; give 0 or more")


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--sed", "3"], "--sed"), (["--seed", "x"], "--seed"), (["--many"], "--many"), (["--", "-1"], "give 0 or more")],
)
@pytest.mark.parametrize("form", ["--plain", "--json"])
def test_wrong_options_are_one_line_without_a_box(words: list[str], told: str, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(Options, [form, *words], None, program="thinwire many")
    assert re.fullmatch(r"error: [\x20-\x7e]*", str(caught.value.code))
    assert told in str(caught.value.code)
    assert capsys.readouterr() == ("", "")


def test_help_is_shown_in_every_form(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(Options, ["--plain", "--help"], "About it.", program="thinwire many")
    assert caught.value.code == 0
    assert "About it." in capsys.readouterr().out


class Struct(msgspec.Struct):
    loss: float
    blob: bytes


def test_json_has_structs_dataclasses_paths_and_no_nan() -> None:
    value = {"a": [Struct(float("inf"), b"\1\2"), Form(json=True)], 3: Path("x"), "set": {2, 1}, "none": None}
    assert json.loads(encoded(value)) == {
        "a": [{"loss": None, "blob": "0102"}, {"json": True, "plain": False}], "3": "x", "set": [1, 2], "none": None,
    }  # fmt: skip
    with pytest.raises(TypeError, match="JSON has nothing for object"):
        encoded(object())


@pytest.mark.parametrize("error", [ValueError("no such codec"), OSError("no such file"), ImportError("no such extra")])
def test_what_cannot_be_ends_in_a_sentence(error: Exception) -> None:
    with pytest.raises(SystemExit, match=f"^error: {error}$"), one_sentence():
        raise error
    with pytest.raises(KeyError), one_sentence():  # a mistake of ours is none
        raise KeyError
