import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lab.namespaces import LabError
from benchmarks.suite import fleet as fleets
from benchmarks.suite.counters import Counts, read_counts
from benchmarks.suite.fleet import Enough, Fleet, start_here
from benchmarks.suite.record import ROOT
from benchmarks.suite.runs import RunError

REAL = """
import os
from benchmarks.suite.member import serve

class Part:
    def __init__(self, row): self.row, self.rank = row, int(os.environ["RANK"])
    def prepare(self): return self.row["s"][self.rank]
    def run(self, rounds): return [self.rank] * rounds
    def check(self): return self.row["name"]

serve(Part)
"""
# The same protocol by hand: no import of torch.
STUB = """
import json, os, socket, sys
wire = socket.socket(fileno=int(os.environ["FLEET_SOCKET"])).makefile("rwb")
def say(**message):
    wire.write(json.dumps(message).encode() + b"\\n")
    wire.flush()
say(rank=int(os.environ["RANK"]))
row = json.loads(wire.readline())
if row["victim"] == int(os.environ["RANK"]):
    sys.exit("out of luck")
say(ready=0.1)
wire.readline()
wire.readline()
"""


HANGS = (
    STUB.rpartition("wire.readline()")[0]
    + """
say(counts=[0, 0, 0, 0])
wire.readline()
if not (HERE):
    say(seen=1)
wire.readline()
"""
)


def of(program: str, started: list["subprocess.Popen[bytes]"]) -> Callable[..., "subprocess.Popen[bytes]"]:
    def start(rank: int, argv: list[str], env: dict[str, str], **pipes: Any) -> "subprocess.Popen[bytes]":
        started.append(start_here(rank, [sys.executable, "-c", program], env, **pipes))
        return started[-1]

    return start


def test_workers_measure_row_after_row_and_agree_on_the_rounds() -> None:
    started: list[subprocess.Popen[bytes]] = []
    traffic = iter(range(10))
    with Fleet("unused", 2, of(REAL, started)) as fleet:
        first = fleet.ask({"name": "a", "s": [0.1, 0.5]}, Enough(50, 2.0), lambda: next(traffic))
        second = fleet.ask({"name": "b", "s": [9.0, 0.5]}, Enough(50, 2.0))
    assert first.seen == [[0] * 4, [1] * 4]  # the slowest says how many
    assert first.traffic == (0, 1)
    assert first.counts == [Counts(), Counts()]
    assert (second.rounds, second.checked) == (3, ["b", "b"])
    assert all(process.poll() is not None for process in started)


def test_a_worker_that_dies_is_named_with_its_last_words_and_later_rows_are_not_reached() -> None:
    started: list[subprocess.Popen[bytes]] = []
    with Fleet("unused", 3, of(STUB, started)) as fleet:
        with pytest.raises(RunError, match=r"^worker 1 ended with 1: out of luck"):
            fleet.ask({"victim": 1}, Enough())
        with pytest.raises(RunError, match=r"^not reached: worker 1 ended with 1: out of luck"):
            fleet.ask({"victim": 1}, Enough())
        assert all(process.poll() is not None for process in started)


def test_a_worker_that_is_killed_says_so() -> None:
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(RunError, match="worker 0 was ended by SIGKILL; run it again with --keep, with more memory"):
        Fleet("unused", 1, of(killed, []))


def test_a_worker_that_does_not_start_is_named() -> None:
    with pytest.raises(RunError, match=r"worker 0 ended with 1: ZeroDivisionError"):
        Fleet("unused", 1, of("1 / 0", []))


def test_a_worker_that_hangs_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleets, "PATIENCE", 0)
    monkeypatch.setattr(fleets, "LEAST_PATIENCE_S", 0.2)
    monkeypatch.setattr(fleets, "SETTLE_S", 0.0)
    hangs = HANGS.replace("HERE", 'row["hung"] == int(os.environ["RANK"])')
    with Fleet("unused", 2, of(hangs, [])) as fleet, pytest.raises(RunError, match=r"^no answer in 0 s from workers 1: .* --keep"):
        fleet.ask({"victim": None, "hung": 1}, Enough(3))


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_a_worker_that_was_stopped_is_told_from_those_that_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    with Fleet("unused", 2, of(STUB, started)) as fleet:
        started[1].send_signal(signal.SIGSTOP)
        monkeypatch.setattr(fleets, "PATIENCE_S", 1.0)
        with pytest.raises(RunError, match=r"^no answer in 1 s from workers (0, )?1: 1 was stopped \(SIGSTOP\); run it again with --keep$"):
            fleet.ask({"victim": None}, Enough())


def test_links_that_are_gone_end_a_row() -> None:
    def gone() -> None:
        if started:
            raise LabError("the relay ended")

    started: list[subprocess.Popen[bytes]] = []
    with Fleet("unused", 1, of(STUB, []), check=gone) as fleet:
        started += fleet._processes
        with pytest.raises(RunError, match=r"^the relay ended$"):
            fleet.ask({"victim": 1}, Enough())
        assert all(process.poll() is not None for process in started)


def test_numbers_of_rounds_below_zero_are_refused() -> None:
    for rounds, seconds in ((-3, 1.0), (3, -1.0), (3, float("nan"))):
        with pytest.raises(ValueError, match="give numbers above 0"):
            Enough(rounds, seconds)


def test_a_module_that_is_run_as_an_orphan_ends_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text("import sys; print(sys.argv[1], flush=True); import time; time.sleep(100)")
    start = "import subprocess, sys; subprocess.run([sys.executable, '-m', 'benchmarks.suite.orphan', 'waits', 'here'])"
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as said:
        parent = subprocess.Popen([sys.executable, "-c", start], stdout=write_end, env=env)
        os.close(write_end)
        assert said.readline() == b"here\n"
        parent.kill()
        parent.wait()
        assert said.read() == b""  # the end comes when nobody holds the pipe


def test_a_fleet_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Fleet("unused", 1, of(STUB, [])):
        assert list(tmp_path.iterdir()) == []  # nor would one that is killed now


def test_enough_rounds_are_at_least_three_and_fit_the_time() -> None:
    assert [Enough(50, 2.0).of(round_s) for round_s in (0.0, 0.001, 0.1, 100.0)] == [50, 50, 20, 3]


def test_the_kernel_counters_are_read(tmp_path: Path) -> None:
    (tmp_path / "dev").write_text("Inter-|\n face |bytes\n  wan0: 100 2 0 0 0 0 0 0 900 7 0 0 0 0 0 0\n")
    (tmp_path / "snmp").write_text("Ip: A B\nIp: 1 2\nTcp: OutSegs RetransSegs\nTcp: 12 3\n")
    assert read_counts("wan0", tmp_path) == Counts(sent=900, received=100, packets_sent=7, retransmitted=3)
    assert read_counts("wan0", tmp_path) - Counts(800, 40, 5, 1) == Counts(100, 60, 2, 2)
    with pytest.raises(LookupError, match="'wan1'"):
        read_counts("wan1", tmp_path)
