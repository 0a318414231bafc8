"""The swarm's verbs, as a person types them."""

import asyncio
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.comms.swarm.made_history import change, end, find, run
from thinwire import cli
from thinwire.comms.swarm.identity import Identity
from thinwire.comms.swarm.invite import Invite
from thinwire.comms.swarm.memory import Network
from thinwire.comms.swarm.status import QUESTION, Status, encode


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


# -- keys and invites ----------------------------------------------------------------------------------------------------------


def test_keygen_makes_a_key_that_only_its_owner_can_read_and_never_replaces_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys" / "a.key"
    cli.main(["keygen", str(path)])
    told = capsys.readouterr().out
    assert f"public key: {Identity.load(path).key.hex()}" in told
    assert path.stat().st_mode & 0o077 == 0
    before = path.read_bytes()
    assert ended(["keygen", str(path)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert path.read_bytes() == before


def address(port: int = 7000) -> str:
    return f"/ip4/198.51.100.7/tcp/{port}/p2p/{Identity.from_seed(bytes(32)).peer_id}"


INVITE = str(Invite("my-run", (address(),)))


def test_invite_prints_a_string_that_carries_run_addresses_and_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["invite", "my-run", "--peers", address()])
    first = Invite.parse(capsys.readouterr().out)
    assert (first.run_id, first.addresses, first.trust, len(first.secret)) == ("my-run", (address(),), "federation", 32)
    cli.main(["invite", "--again", str(first), "--peers", address(8000)])
    again = Invite.parse(capsys.readouterr().out)
    assert (again.run_id, again.secret, again.addresses) == (first.run_id, first.secret, (address(8000),))
    cli.main(["invite", "my-run", "--peers", address(), "--trust", "lan", "--member", "ab" * 32])
    lan = Invite.parse(capsys.readouterr().out)
    assert (lan.trust, lan.secret) == ("lan", b"")
    assert bytes.fromhex("ab" * 32) in lan.members


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["invite", "my-run"], "give --peers"),
        (["invite", "--peers", "/ip4/1.2.3.4/tcp/1"], "give the name of a run, or --again"),
        (["invite", "my-run", "--peers", "/ip4/1.2.3.4/tcp/1"], "is no address of a member"),
        (["invite", "my-run", "--peers", address(), "--member", "xyz"], "non-hexadecimal"),
        (["join", "tw1nonsense", "--", "true"], "invitation is damaged"),
        (["join", "hello", "--", "true"], "this is no invitation"),
        (["join", "hello"], "what is to be run? say: thinwire join INVITE -- python train.py"),
        (["status", "hello"], "this is no invitation"),
        (["status", INVITE, "--web", "--once"], "--once looks once and --web goes on; give one of them"),
        (["status", INVITE, "--port", "7000"], "--host and --port say where the page is; give --web with them"),
        (["status", INVITE, "--web", "--port", "70000"], "--port is 70000; give one from 0 to 65535"),
        (["status", INVITE, "--web", "--host", "198.51.100.7"], "give an address of this machine as --host"),
        (["serve", "../etc"], "a run cannot be called"),
        (["serve", "my-run", "--port", "70000"], "--port is 70000"),
        (["chaos", "--members", "1"], "give at least 2 --members"),
        (["chaos", "--kinds", "meteor"], "there is no fault 'meteor'"),
    ],
)
def test_what_cannot_be_is_one_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(words) == 2
    told = capsys.readouterr().err
    assert said in " ".join(told.replace("│", " ").split())
    assert "Traceback" not in told


# -- join ----------------------------------------------------------------------------------------------------------------------

SCRIPT = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print(*(os.environ.get(f"THINWIRE_{name}", "-") for name in ("INVITE", "IDENTITY", "HISTORY")), flush=True)
if len(sys.argv) > 1:
    sys.stdin.read()
"""


def join(*words: str, script: tuple[str, ...] = (), env: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    invite = str(Invite("my-run", (address(),)))
    command = [sys.executable, "-m", "thinwire.cli", "join", invite, *words, "--", sys.executable, "-c", SCRIPT, *script]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | (env or {})
    )


def test_join_gives_the_script_what_from_env_reads(tmp_path: Path) -> None:
    key = tmp_path / "a.key"
    Identity.generate().save(key)
    out, err = join("--identity", str(key), "--history", str(tmp_path / "h")).communicate(timeout=60)
    invite, identity, history = out.split()
    assert Invite.parse(invite).run_id == "my-run", err
    assert (identity, history) == (str(key), str(tmp_path / "h"))


def test_join_leaves_nothing_of_a_join_around_it() -> None:
    out, _ = join(env={"THINWIRE_IDENTITY": "/other.key", "THINWIRE_HISTORY": "/other"}).communicate(timeout=60)
    assert out.split()[1:] == ["-", "-"]


def test_join_passes_signals_on_and_ends_with_the_scripts_status() -> None:
    process = join(script=("wait",))
    assert process.stdout is not None
    assert process.stdout.readline()
    process.terminate()
    assert process.wait(60) == 7  # while it still reads
    process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux ends a process with its parent")
def test_a_killed_join_takes_its_script_with_it() -> None:
    process = join(script=("wait",))
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline()
    process.kill()
    process.wait(60)
    assert process.stdout.read() == ""  # its end closes the pipe: nobody holds it any more
    for pipe in (process.stdin, process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()


def test_join_of_a_command_that_is_not_there_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(["join", str(Invite("my-run", (address(),))), "--", "/no/such/command"]) == 2
    assert "No such file or directory" in capsys.readouterr().err


# -- status --------------------------------------------------------------------------------------------------------------------


def test_status_shows_members_that_answer_and_those_that_do_not() -> None:
    from thinwire.comms.swarm.cli.status import line, table

    answers: dict[bytes, Status | str] = {
        b"a" * 32: Status(round=9, applied=9, epoch="abcd", members=3, loss=2.0, sent=2_000_000, uptime_s=3661),
        b"b" * 32: Status(round=9, applied=7, epoch="abcd", members=3, loss=3.0, sent=1_000_000, rejected=4),
        b"c" * 32: "does not answer",
    }
    assert line("my-run", answers) == "my-run: 2 of 3 members answer | round 9 | lag 2 | loss 2.500 | sent 3.00 MB | rejected 4"
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table("my-run", answers))
    told = console.export_text()
    assert "61616161" in told
    assert "01:01:01" in told
    assert "does not answer" in told
    answers[b"b" * 32] = Status(round=3, applied=3, epoch="ffff")
    assert line("my-run", answers).endswith("2 EPOCHS")
    assert line("my-run", {}) == "my-run: 0 of 0 members answer"


def test_status_asks_all_members_and_bears_with_those_that_answer_nonsense() -> None:
    from thinwire.comms.swarm.watch import ask_all

    async def told() -> dict[bytes, Status | str]:
        net = Network()
        members = [net.node(bytes([i]) * 32) for i in range(3)]
        visitor = net.node(b"v" * 32)
        for node in (*members, visitor):
            await node.start()
        for i, node in enumerate(members):

            async def answer(peer: bytes, request: bytes, i: int = i) -> bytes:
                return b"\xff" if i == 2 else encode(Status(round=i, applied=i))

            node.serve[QUESTION] = answer
            await node.announce("my-run", b"here")
        del members[1].serve[QUESTION]
        answers = await ask_all(visitor, "my-run")
        for node in (*members, visitor):
            await node.close()
        return answers

    answers = asyncio.run(told())
    assert answers[bytes(32)] == Status(round=0, applied=0)
    assert isinstance(answers[b"\1" * 32], str)
    assert str(answers[b"\2" * 32]).startswith("no status")


# -- serve ---------------------------------------------------------------------------------------------------------------------


def test_a_runs_secret_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    from thinwire.comms.swarm.cli.serve import secret_of

    first = secret_of("my-run", tmp_path / "serve")
    assert len(first) == 32
    assert secret_of("my-run", tmp_path / "serve") == first != secret_of("other", tmp_path / "serve")
    path = tmp_path / "serve" / "my-run.secret"
    assert path.stat().st_mode & 0o077 == 0
    path.write_bytes(b"short")
    with pytest.raises(ValueError, match="is no secret of 32 bytes"):
        secret_of("my-run", tmp_path / "serve")


@pytest.mark.slow
def test_serve_prints_an_invite_that_holds_and_ends_in_order(tmp_path: Path) -> None:
    def started() -> "tuple[subprocess.Popen[str], Invite]":
        command = [sys.executable, "-m", "thinwire.cli", "serve", "my-run", "--folder", str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        told = []
        for line in process.stdout:
            told.append(line)
            if "thinwire join" in line:
                return process, Invite.parse(line.split()[2])
        raise AssertionError("".join(told))

    invites = []
    for number in (signal.SIGINT, signal.SIGTERM):
        process, invite = started()
        invites.append(invite)
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert invites[0].secret == invites[1].secret
    assert invites[0].members == invites[1].members
