"""Processes that can be killed at any time: forked with everything imported, each on the other end of a pipe."""

import multiprocessing as mp
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

_context = mp.get_context("forkserver")
_context.set_forkserver_preload(["torch", "thinwire"])
MARK = "THINWIRE_CHAOS"  # in the environment of everything that a run starts, so that what it leaves behind can be found

Work = Callable[[Connection, Any], None]


@dataclass
class Member:
    """A process and what it has said; `born` counts incarnations of the run."""

    name: str
    identity: str
    process: Any
    pipe: Connection
    extra: bool = False  # of a storm: it leaves again
    frozen: bool = False
    ending: bool = False  # it was asked to leave, or killed
    addresses: list[str] = field(default_factory=list)

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return int(self.process.pid)

    def tell(self, *words: Any) -> None:
        """Say something to it; a process that is gone hears nothing."""
        with suppress(OSError):
            self.pipe.send(words)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


class Fleet:
    """Members by name. A context: at its end none is left. `preload` is a module that they all need, if no process was started yet."""

    def __init__(self, preload: str | None = None) -> None:
        if preload:
            _context.set_forkserver_preload(["torch", "thinwire", preload])
        self.members: dict[str, Member] = {}
        self._born = 0

    def start(self, identity: str, work: Work, spec: Any, *, extra: bool = False) -> Member:
        """One more process, `work(pipe, spec)`; its name is new, its identity may have been another's."""
        ours, theirs = _context.Pipe()
        process = _context.Process(target=_main, args=(work, theirs, spec), daemon=True)
        process.start()
        theirs.close()
        self._born += 1
        member = Member(f"{identity}.{self._born}", identity, process, ours, extra)
        self.members[member.name] = member
        return member

    def hear(self, timeout_s: float) -> Iterator[tuple[Member, tuple[Any, ...] | None]]:
        """What members say within the time, each with None when it has ended; ended ones are no members any more."""
        pipes = {member.pipe: member for member in self.members.values()}
        for pipe in wait(list(pipes), timeout_s):
            member = pipes[pipe]  # type: ignore[index]
            with suppress(EOFError, OSError):
                while True:
                    yield member, member.pipe.recv()
                    if not member.pipe.poll():
                        break
                continue
            member.process.join(5.0)
            member.process.kill()
            member.process.join()
            member.pipe.close()
            del self.members[member.name]
            yield member, None

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members.values():
            member.signal(signal.SIGKILL)
        for member in self.members.values():
            member.process.join()
            member.pipe.close()
        self.members.clear()


def left_behind(mark: str) -> list[int]:
    """Processes of this machine that a run with this mark has started, but this one."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if wanted in path.read_bytes().split(b"\0") and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
    return found


def _main(work: Work, pipe: Connection, spec: Any) -> None:
    from benchmarks.suite.orphan import end_with_parent

    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and ends the run in order
    work(pipe, spec)
