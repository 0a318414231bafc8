"""Rows whose learners and workers are processes: started by `examples.rl.launch`, here or in regions of the lab, and heard to their end."""

import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

from benchmarks.lab.topology import Topology
from benchmarks.lab.wan import Lab
from benchmarks.suite.record import ROOT
from benchmarks.suite.runs import RunError
from examples.rl.__main__ import changes
from examples.rl.config import load
from examples.rl.launch import Launch, LaunchError, Run

FILES = ROOT / "examples" / "rl"
PATIENCE_S = 3600.0
LOOK_S = 0.5
MBIT, RTT_MS = 20.0, 200.0


@dataclass(frozen=True)
class Wired:
    """A run of the file `config` with some of its values changed: `workers` processes that sample, no verifier, no proofs. With `killed`
    the second learner gets SIGKILL and comes back; with `apart` each process is in a region of its own."""

    name: str
    label: str
    config: str
    changes: tuple[str, ...] = ()
    workers: int = 2
    killed: bool = False
    apart: bool = False

    def launch(self, folder: Path, *, seed: int, updates: int) -> Launch:
        words = ("verify.proofs=false", *self.changes, f"seed={seed}", f"train.updates={updates}")
        path = FILES / self.config
        return Launch(load(path, changes(words)), path, folder, workers=self.workers, verifiers=0, changes=words)

    def topology(self) -> Topology:
        """A region for the trainer and one for each worker."""
        return Topology.uniform(1 + self.workers, mbit=MBIT, rtt_ms=RTT_MS)


WIRED: dict[str, Wired] = {
    row.name: row
    for row in (
        Wired("killed-int4", "2 learners in int4, one killed after 30 updates and started again", "learners.toml", killed=True),
        Wired("link-pull", "pull", "pull.toml", apart=True),
        Wired("link-push_pull", "push_pull, S = 4", "tiny.toml", apart=True),
        Wired("link-s1", "push_pull, S = 1", "tiny.toml", ("train.max_staleness=1",), apart=True),
        Wired("link-s2", "push_pull, S = 2", "tiny.toml", ("train.max_staleness=2",), apart=True),
    )
}


class Placed(Run):
    """The processes of a run, each in the lab's region of its name."""

    lab: Lab | None = None

    def open(self, name: str, command: Sequence[str]) -> "subprocess.Popen[str]":
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
        if self.lab is None:
            return subprocess.Popen(command, cwd=ROOT, **pipes)
        region = 0 if name.startswith("trainer") else 1 + int(name.removeprefix("worker"))
        listen = f"/ip4/{self.lab.places[region].address}/tcp/0"
        process: subprocess.Popen[Any] = self.lab.start(region, [*command, "--listen", listen], cwd=ROOT, **pipes)
        return process


@dataclass
class Killing:
    """SIGKILL to one trainer, which is started again with its folder and key. `at`: after its first update in this range."""

    who: str = "trainer1"
    at: tuple[int, int] = (30, 35)
    away_s: float = 3.0
    killed_at: int | None = None
    back: bool = False
    _gone: bool = False
    _in: bool = False
    _when: float = 0.0

    def look(self, run: Run) -> None:
        """Start it again when it has been away for long enough."""
        if self._gone and not self.back and time.monotonic() - self._when > self.away_s:
            self.back = True
            run.start(self.who, "trainer", run.trainer_keys, run.address)

    def hear(self, run: Run, name: str, event: dict[str, Any]) -> None:
        """Kill it when its time has come. Raises `RunError` when that is over before it was heard of, or the run before it was in again."""
        self._in = self._in or (self.back and name == self.who and event["event"] == "joined")
        if event["event"] == "end" and name != self.who and self.killed_at is not None and not self._in:
            raise RunError(f"{name} was at its end before {self.who} was back, which would wait for it for ever; give more --updates")
        if name != self.who or self.killed_at is not None or event["event"] != "update" or event["update"] < self.at[0]:
            return
        if event["update"] > self.at[1]:
            raise RunError(f"{name} came in at update {event['update']}, later than {self.at[1]}: this machine was too busy; run it again")
        run.children[name].process.kill()
        self.killed_at, self._when = event["update"], time.monotonic()

    def excuses(self, name: str) -> bool:
        """Whether this end is this one's doing: the first one after the signal."""
        ours = name == self.who and self.killed_at is not None and not self._gone
        self._gone = self._gone or ours
        return ours


@dataclass
class Heard:
    """All events of a run by process, in order; those of one that was started again follow those of the first."""

    events: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    killing: Killing | None = None

    def of(self, name: str, event: str) -> list[dict[str, Any]]:
        return [each for each in self.events[name] if each["event"] == event]

    def last(self, name: str, event: str) -> dict[str, Any]:
        """Raises `RunError` for what was never said."""
        found = self.of(name, event)
        if not found:
            raise RunError(f"{name} has never said {event!r}")
        return found[-1]


@contextmanager
def running(launch: Launch, lab: Lab | None) -> Iterator[Run]:
    """Raises `RunError` for what ends too early."""
    run = Placed(launch)
    run.lab = lab
    try:
        with run:
            yield run
    except LaunchError as error:
        raise RunError(str(error)) from None


def heard(run: Run, killing: Killing | None = None, *, patience_s: float = PATIENCE_S) -> Heard:
    """Listen until all trainers have ended. Raises `RunError` when one ends before its time, or not in `patience_s`."""
    told, ended, until = Heard(killing=killing), set[str](), time.monotonic() + patience_s
    while len(ended) < len(run.trainers):
        if time.monotonic() > until:
            raise RunError(f"{', '.join(sorted(set(run.trainers) - ended))}: not at the end after {patience_s:.0f} s")
        if killing is not None:
            killing.look(run)
        try:
            name, event = run.told.get(timeout=LOOK_S)
        except Empty:
            continue
        if event is None:
            if name in run.trainers and name not in ended and not (killing is not None and killing.excuses(name)):
                raise RunError(f"{name} ended: {run.children[name].last_words}")
            continue
        told.events[name].append(event)
        if killing is not None:
            killing.hear(run, name, event)
        if event["event"] == "end" and name in run.trainers:
            ended.add(name)
    return told
