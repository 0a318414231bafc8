"""Workers that are started once and then measure row after row; see `member` for what is said between them and the parent."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from math import ceil
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from benchmarks.lab.namespaces import LabError
from benchmarks.suite.counters import Counts
from benchmarks.suite.record import ROOT
from benchmarks.suite.runs import RunError

ORPHAN = "benchmarks.suite.orphan"  # whose worker ends with us
TAIL = 1500  # characters of a dead worker's output worth showing
LEAST_ROUNDS = 3
SETTLE_S = 0.05  # acknowledgements are delayed by at most 40 ms
PATIENCE_S = 300.0  # for one answer, two rounds of warming up among them: who takes longer hangs
PATIENCE, LEAST_PATIENCE_S = 5, 60.0  # rounds may take so many times what the second one took
LOOK_S = 0.5  # between two looks whether the links are still there

Start = Callable[..., "subprocess.Popen[bytes]"]


@dataclass(frozen=True)
class Enough:
    """How many rounds are measured: at most `rounds`, no more than fit into `seconds`, and at least three."""

    rounds: int = 50
    seconds: float = 2.0

    def __post_init__(self) -> None:
        if self.rounds < 0 or not self.seconds >= 0:
            raise ValueError(f"rounds are {self.rounds} in {self.seconds:g} seconds; give numbers above 0")

    def of(self, round_s: float) -> int:
        """For rounds that take so long.

        >>> Enough(rounds=50, seconds=2.0).of(0.5), Enough().of(9.0), Enough().of(0.0)
        (4, 3, 50)
        """
        return max(LEAST_ROUNDS, min(self.rounds, ceil(self.seconds / round_s) if round_s > 0 else self.rounds))


@dataclass(frozen=True)
class Seen:
    """What all workers saw of a row, by rank, and what the lab's own counters showed before and after the rounds."""

    rounds: int
    seen: list[Any]
    counts: list[Counts]
    checked: list[Any]
    traffic: tuple[Any, Any]


class Fleet:
    """Processes of `python -m module`, each started by `start(rank, argv, env, **pipes)`; they count bytes of `interface`, if any.

    A worker that dies or hangs ends the fleet: this and every later `ask` raises `RunError` with its last words. So does a `LabError` of
    `check`, which is asked all the while. Nothing here has a name in the file system: whatever ends this process, nothing is left.
    """

    def __init__(
        self, module: str, workers: int, start: Start, *, interface: str = "", rtt_s: float = 0.0, check: Callable[[], None] = lambda: None
    ) -> None:
        self._settle_s, self._check = SETTLE_S + 4 * rtt_s, check
        self._dead: str | None = None
        self._lines: list[socket.socket] = []
        self._wires: list[Any] = []  # the same as files
        self._logs: list[IO[bytes]] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(workers):
                line, theirs = socket.socketpair()
                self._lines.append(line)
                self._wires.append(line.makefile("rwb"))
                self._logs.append(tempfile.TemporaryFile())
                env = os.environ | {
                    "RANK": str(rank),
                    "FLEET_SOCKET": str(theirs.fileno()),
                    "FLEET_INTERFACE": interface,
                    "OMP_NUM_THREADS": "1",
                    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
                }
                with theirs:
                    pipes = {"stdout": self._logs[rank], "stderr": subprocess.STDOUT, "pass_fds": (theirs.fileno(),)}
                    self._processes.append(start(rank, [sys.executable, "-m", ORPHAN, module], env, **pipes))
            self._answers("rank", PATIENCE_S)
        except BaseException:
            self.close()
            raise

    def ask(self, row: dict[str, Any], enough: Enough, traffic: Callable[[], Any] = lambda: None) -> Seen:
        """Measure one row on all workers. Raises `RunError` when one of them dies or does not answer."""
        if self._dead:
            raise RunError(f"not reached: {self._dead}")
        try:
            round_s = max(self._all(row, "ready"))
            rounds = enough.of(round_s)
            time.sleep(self._settle_s)  # what the warm-up still has on its way is not of these rounds
            before, first = self._counts(), traffic()
            seen = self._all({"rounds": rounds}, "seen", LEAST_PATIENCE_S + PATIENCE * rounds * round_s)
            time.sleep(self._settle_s)  # and what they still have on their way is
            after, last = self._counts(), traffic()
            checked = self._all({}, "checked")
        except (RunError, LabError) as error:
            self._dead = str(error)
            self.close()
            raise RunError(str(error)) from None
        return Seen(rounds, seen, [b - a for a, b in zip(before, after, strict=True)], checked, (first, last))

    def _counts(self) -> list[Counts]:
        return [Counts(*counts) for counts in self._all({}, "counts")]

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _all(self, message: dict[str, Any], wanted: str, patience_s: float | None = None) -> list[Any]:
        """Tell all workers, and wait for what they answer under this name."""
        told = json.dumps(message).encode() + b"\n"
        for rank, wire in enumerate(self._wires):
            try:
                wire.write(told)
                wire.flush()
            except OSError:
                raise RunError(self._last_words(rank)) from None
        return self._answers(wanted, PATIENCE_S if patience_s is None else patience_s)

    def _answers(self, wanted: str, patience_s: float) -> list[Any]:
        """What every worker says under this name."""
        answers: dict[int, dict[str, Any]] = {}
        until = time.monotonic() + patience_s
        while len(answers) < len(self._lines):
            silent = [rank for rank in range(len(self._lines)) if rank not in answers]
            heard = wait([self._lines[rank] for rank in silent], min(max(until - time.monotonic(), 0), LOOK_S))
            self._check()
            if not heard and time.monotonic() >= until:
                stopped = next((rank for rank in silent if _is_stopped(self._processes[rank].pid)), None)
                why = "one hangs" if stopped is None else f"{stopped} was stopped (SIGSTOP)"
                which = ", ".join(map(str, silent))
                raise RunError(f"no answer in {patience_s:.0f} s from workers {which}: {why}; run it again with --keep")
            for rank in silent:  # who dies first is heard first: the others may die of it
                if self._lines[rank] in heard:
                    answers[rank] = self._answer(rank)
        return [answers[rank][wanted] for rank in sorted(answers)]

    def _answer(self, rank: int) -> dict[str, Any]:
        try:
            line = self._wires[rank].readline()
        except OSError:
            line = b""
        if not line.endswith(b"\n"):
            raise RunError(self._last_words(rank))
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self, rank: int) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._processes[rank].wait(10)
        code = self._processes[rank].returncode
        if code is not None and code < 0:
            remedy = ", with more memory if it ran out of that" if code == -signal.SIGKILL else ""
            return f"worker {rank} was ended by {signal.Signals(-code).name}; run it again with --keep{remedy}"
        words = written(self._logs[rank]).decode(errors="replace")[-TAIL:].strip()
        last = words.splitlines()[-1] if words else "it said nothing"
        return f"worker {rank} ended with {code}: {last}\n{words}".strip()

    def close(self) -> None:
        """End all workers."""
        for end in [*self._wires, *self._lines, *self._logs]:
            with suppress(OSError):
                end.close()
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        self._wires, self._lines, self._logs, self._processes = [], [], [], []


def start_here(rank: int, argv: list[str], env: dict[str, str], **pipes: Any) -> "subprocess.Popen[bytes]":
    """Start a worker on this machine, in no lab."""
    return subprocess.Popen(argv, env=env, cwd=ROOT, **pipes)


def _is_stopped(pid: int) -> bool:
    """As Linux says; elsewhere nobody knows."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "T"


def written(file: IO[bytes]) -> bytes:
    """All that a worker wrote to a file that was handed to it; the position is the worker's too, and stays."""
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0)
