"""A whole run on this machine: a trainer, workers and a verifier, each a process with a node of its own, over loopback; with a live view.

    python -m examples.rl launch --config examples/rl/tiny.toml

Ends with a picture and one sentence.
"""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from examples.rl.config import Config
from examples.rl.events import read, shown
from examples.rl.live import View
from thinwire.comms.swarm.identity import Identity

START_S = 120.0  # for a process to say its first word: everything is imported once
END_S = 10.0


class LaunchError(RuntimeError):
    """A process of the run ended before its time; says which, and its last words."""


@dataclass(frozen=True)
class Launch:
    """What is started: `changes` are options of the configuration that every process gets."""

    config: Config
    path: Path
    folder: Path
    workers: int = 2
    verifiers: int = 1
    changes: tuple[str, ...] = ()


class Child:
    """One process of the run; its events come into `queue` with its name, and None when it has ended."""

    def __init__(self, name: str, process: subprocess.Popen[str], told: queue.Queue[tuple[str, dict[str, Any] | None]]) -> None:
        self.name, self.process, self.last_words = name, process, ""
        self._told = told
        threading.Thread(target=self._listen, name=f"listen-{name}", daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = read(line)
            if event is None:
                self.last_words = line.strip() or self.last_words
            else:
                self._told.put((self.name, event))
        self._told.put((self.name, None))

    def end(self) -> None:
        """Ask it to end, and see to it."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(END_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Run:
    """The processes of a run. A context: at its end none is left."""

    def __init__(self, launch: Launch, on_event: Callable[[str, dict[str, Any]], None] = lambda name, event: None) -> None:
        self._launch, self._on_event = launch, on_event
        self.told: queue.Queue[tuple[str, dict[str, Any] | None]] = queue.Queue()
        self.children: dict[str, Child] = {}
        self.address = ""  # of the first trainer
        self.trainers = [f"trainer{i}" for i in range(launch.config.learners.count)]
        self.view = View(launch.config.train.updates, trainers=len(self.trainers))
        self.trainer_keys = [self._key(name).key.hex() for name in self.trainers]
        self._verifier_keys = [self._key(f"verifier{i}").key.hex() for i in range(launch.verifiers)]

    def _key(self, name: str) -> Identity:
        return Identity.load_or_create(self._launch.folder / name / "key")

    def __enter__(self) -> Run:
        try:
            self.address = self._first_word(self.start(self.trainers[0], "trainer", self.trainer_keys))
            for name in self.trainers[1:]:
                self.start(name, "trainer", self.trainer_keys, self.address)
            for role, count in (("verifier", self._launch.verifiers), ("worker", self._launch.workers)):
                for i in range(count):  # each works for one of the trainers
                    self.start(f"{role}{i}", role, [self.trainer_keys[i % len(self.trainers)]], self.address)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children.values():
            child.process.terminate()  # all at once: each takes a moment
        for child in self.children.values():
            child.end()

    def start(self, name: str, role: str, trainers: Sequence[str], address: str | None = None) -> Child:
        """One more process."""
        command = [sys.executable, "-m", "examples.rl", role, "--json", "--config", str(self._launch.path)]
        command += ["--folder", str(self._launch.folder / name), "--trainers", *trainers]
        command += ["--verifiers", *self._verifier_keys] if self._verifier_keys else []
        command += ["--peers", address] if address else []
        command += ["--set", *self._launch.changes] if self._launch.changes else []
        self.children[name] = Child(name, self.open(name, command), self.told)
        return self.children[name]

    def open(self, name: str, command: Sequence[str]) -> subprocess.Popen[str]:
        """The process of a command; elsewhere than here, in a subclass."""
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")

    def hear(self, timeout_s: float) -> bool:
        """Take in one event; False when there was none. Raises `LaunchError` when the trainer has ended too early."""
        try:
            name, event = self.told.get(timeout=timeout_s)
        except queue.Empty:
            return False
        if event is not None:
            self.view.hear(name, event)
            self._on_event(name, event)
        elif name in self.trainers and name not in self.view.ended:
            raise LaunchError(f"{name} ended: {self.children[name].last_words}")
        else:
            self.view.processes[name] = f"ended: {self.children[name].last_words}"
            self._on_event(name, {"event": "ended", "words": self.children[name].last_words})
        return True

    def _first_word(self, child: Child) -> str:
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            try:
                name, event = self.told.get(timeout=1.0)
            except queue.Empty:
                continue
            if event is None:
                raise LaunchError(f"{name} ended: {child.last_words}")
            if event["event"] == "listening":
                return str(event["address"])
        raise LaunchError(f"{child.name} said nothing for {START_S:.0f} s; look for what else runs on this machine")


def launch(options: Launch, console: Console, *, plain: bool = False) -> View:
    """Run it to its end, showing it live; Ctrl-C ends all of it."""
    plain = plain or not console.is_terminal

    def tell(name: str, event: dict[str, Any]) -> None:
        if plain:
            told = ", ".join(f"{key} {shown(value)}" for key, value in event.items() if key not in ("role", "event"))
            console.print(f"{name} {event['event']}: {told}", markup=False, highlight=False)

    with Run(options, tell) as run:
        if plain:
            while not run.view.done:
                run.hear(1.0)
        else:
            with Live(run.view, console=console, refresh_per_second=4):
                while not run.view.done:
                    run.hear(1.0)
        return run.view
