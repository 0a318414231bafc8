"""--json and --plain: every verb has them, and says with them what it says to people."""

import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import __main__ as pages
from benchmarks.suite import __main__ as everything
from benchmarks.suite.record import append
from tests.benchmarks.made_up import record
from tests.comms.swarm.made_history import change, end, find, run
from thinwire import cli
from thinwire.comms.swarm.cli import doctor, serve, status
from thinwire.comms.swarm.doctor import Row
from thinwire.comms.swarm.identity import Identity
from thinwire.comms.swarm.invite import Invite
from thinwire.comms.swarm.status import Status
from thinwire.output import Form

SPEAKING = {name: module for name, module in cli.VERBS.items() if name not in cli.SILENT} | cli.SUITES
ADDRESS = f"/ip4/198.51.100.7/tcp/7000/p2p/{Identity.from_seed(bytes(32)).peer_id}"
Told = Callable[..., str]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Told:
    monkeypatch.setattr(sys, "argv", ["thinwire"])

    def of(*words: str, code: int = 0) -> str:
        assert cli.run(list(words))[0] == code
        return capsys.readouterr().out

    return of


def one(text: str) -> dict[str, Any]:
    """The one object on one line."""
    assert text.count("\n") == 1
    value = json.loads(text)
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("name", SPEAKING)
def test_every_verb_that_says_something_has_both_forms(name: str) -> None:
    assert issubclass(cli.load(SPEAKING[name]).Options, Form)


@pytest.mark.parametrize("words", [["join", "tw1", "--json", "--", "true"], ["run", "--plain", "--", "torchrun"], ["completion", "--json"]])
def test_a_verb_without_words_of_its_own_says_so(words: list[str]) -> None:
    code, said = cli.run(words)
    assert code == cli.USAGE
    assert said.startswith(f"error: `thinwire {words[0]}` has no --")
    assert said.endswith("and nothing of its own")


def test_the_forms_of_a_script_are_its_own() -> None:
    assert "this is no invitation" in cli.run(["join", "hello", "--", "script", "--json"])[1]


def test_keygen(told: Told, tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    assert one(told("keygen", str(path), "--json")) == {"key_file": str(path), "public_key": Identity.load(path).key.hex()}


def test_invite(told: Told) -> None:
    made = one(told("invite", "my-run", "--peers", ADDRESS, "--json"))
    invite = Invite.parse(made["invite"])
    assert (made["run"], made["addresses"], made["trust"], made["members"]) == (
        "my-run",
        [ADDRESS],
        "federation",
        [invite.members[0].hex()],
    )
    assert invite.secret.hex() not in str({**made, "invite": ""})
    assert Invite.parse(told("invite", "my-run", "--peers", ADDRESS, "--plain")).run_id == "my-run"


def test_serve_says_one_line_while_it_goes_on(told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Node:
        def addresses(self) -> list[str]:
            return [ADDRESS]

    @asynccontextmanager
    async def standing(*_: object) -> AsyncIterator[Node]:
        yield Node()

    async def interrupted() -> None:
        pass

    monkeypatch.setattr(serve, "standing", standing)
    monkeypatch.setattr(serve, "interrupted", interrupted)
    made = one(told("serve", "my-run", "--folder", str(tmp_path), "--json"))
    assert (made["run"], made["addresses"]) == ("my-run", [ADDRESS])
    plain = told("serve", "my-run", "--folder", str(tmp_path), "--plain").splitlines()
    assert f"  thinwire join {made['invite']} -- python train.py" in plain


@pytest.fixture
def swarm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two members, one of which does not answer."""

    async def ask_all(*_: object) -> dict[bytes, Status | str]:
        return {b"a" * 32: Status(round=9, applied=8, loss=2.0, sent=1000), b"b" * 32: "does not answer"}

    @asynccontextmanager
    async def visitor(*_: object) -> AsyncIterator[None]:
        yield

    monkeypatch.setattr(status, "ask_all", ask_all)
    monkeypatch.setattr(status, "visitor", visitor)


@pytest.mark.usefixtures("swarm")
def test_status(told: Told) -> None:
    invite = str(Invite("my-run", (ADDRESS,)))
    made = one(told("status", invite, "--once", "--json"))
    assert (made["run"], made["round"], made["time"] > 1.7e9) == ("my-run", 8, True)
    assert made["members"][(b"a" * 32).hex()]["loss"] == 2.0
    assert made["members"][(b"b" * 32).hex()] == {"error": "does not answer"}
    plain = told("status", invite, "--once", "--plain")
    assert plain.endswith(" my-run: 1 of 2 members answer | round 8 | lag 0 | loss 2.000 | sent 0.00 MB | rejected 0\n")


@pytest.mark.usefixtures("swarm")
@pytest.mark.parametrize("form", ["--json", "--plain", ""])
def test_status_as_a_page_says_where_it_is(told: Told, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    async def keep(site: Any, *_: object, **__: object) -> None:
        assert site.address == f"http://127.0.0.1:{site.port}/"
        places.append(site.address)

    places: list[str] = []
    monkeypatch.setattr(status, "keep", keep)
    words = [form] if form else []
    said = told("status", str(Invite("my-run", (ADDRESS,))), "--web", "--port", "0", *words)
    if form == "--json":
        assert one(said) == {"address": places[0]}
    elif form == "--plain":
        assert said == f"{places[0]}\n"
    else:
        assert said.splitlines()[0] == f"my-run is shown at {places[0]}"


def test_doctor(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Row("clock", "ok", "right"), Row("port", "failure", "7000 is taken", "another one")]

    def examine(*, progress: Callable[[Row], None], **_: object) -> list[Row]:
        for row in rows:
            progress(row)
        return rows

    monkeypatch.setattr(doctor, "examine", examine)
    made = one(told("doctor", "--json", code=1))
    assert made["failures"] == 1
    assert made["rows"][1] == {"check": "port", "status": "failure", "detail": "7000 is taken", "remedy": "another one"}
    assert told("doctor", "--plain", code=1).splitlines()[1] == "failure port           7000 is taken"


def test_verify(told: Told, tmp_path: Path) -> None:
    end(run(tmp_path))
    made = one(told("verify", str(tmp_path), "--json"))
    assert (made["green"], made["events"], made["violations"]) == (True, 69, [])
    assert all(law["checked"] and not law["broken"] for law in made["laws"].values())
    change(tmp_path, 1, lambda lines: find(lines, "apply", 4).update(sent=1))
    made = one(told("verify", str(tmp_path), "--json", "--violations", "1", code=1))
    assert not made["green"]
    assert [violation["law"] for violation in made["violations"]] == ["bytes"]
    plain = told("verify", str(tmp_path), "--plain", code=1).splitlines()
    assert plain[1] == "law\tchecked\tbroken\tholds"
    assert plain[-1] == "RED"


def test_a_suite_shows_the_records_of_its_file(told: Told, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    append(path, record("training", "a"))
    append(path, record("scaling", "b", status="failed", reason="no route"))
    for suite in ("scaling", "training"):
        made = one(told("bench", suite, "--show", "--results", str(path), "--json"))
        assert made["suite"] == suite
        assert made["records"] == [each for each in map(json.loads, path.read_text().splitlines()) if each["suite"] == suite]
    plain = told("bench", "scaling", "--show", "--results", str(path), "--plain").splitlines()
    assert plain[1].startswith("method\tpeers\tpayload MB")
    assert plain[-1].endswith("failed: no route")


def test_report(told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def nothing(*_: object, **__: object) -> Iterator[None]:
        yield

    append(tmp_path / "r.jsonl", record("training", "a"))
    monkeypatch.setattr(pages, "sections", lambda found: [])
    made = one(told("report", str(tmp_path / "r.jsonl"), "-o", str(tmp_path / "r.html"), "--json"))
    assert (made["page"], made["records"]) == (str(tmp_path / "r.html"), 1)
    assert made["nbytes"] == (tmp_path / "r.html").stat().st_size


def test_all_suites_tell_what_ran_and_how_it_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = everything.Options(quick=True, results=tmp_path, json=True)
    assert everything.run_suites(options, lambda words: int("scaling" in words)) == 1
    made = one(capsys.readouterr().out)
    assert made["status"] == 1
    assert [each["status"] for each in made["commands"]] == [int(suite == "scaling") for suite in everything.ORDER]
    assert made["commands"][0]["command"].startswith("thinwire bench kernels --quick")
    started: list[list[str]] = []
    everything.run_suites(everything.Options(quick=True, results=tmp_path, plain=True), lambda words: started.append(words) or 0)
    assert all(words[-1] == "--plain" for words in started)
