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

    def __init__(self, name: str, command: Sequence[str], told: queue.Queue[tuple[str, dict[str, Any] | None]]) -> None:
        self.name, self.last_words = name, ""
        self._told = told
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
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
        self.view = View(launch.config.train.updates)
        self._trainer = self._key("trainer")
        self._verifiers = [self._key(f"verifier{i}") for i in range(launch.verifiers)]

    def _key(self, name: str) -> Identity:
        return Identity.load_or_create(self._launch.folder / name / "key")

    def __enter__(self) -> Run:
        first = self.start("trainer", "trainer")
        address = self._first_word(first)
        for i in range(self._launch.verifiers):
            self.start(f"verifier{i}", "verifier", address)
        for i in range(self._launch.workers):
            self.start(f"worker{i}", "worker", address)
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children.values():
            child.end()

    def start(self, name: str, role: str, address: str | None = None) -> Child:
        """One more process."""
        command = [
            sys.executable,
            "-m",
            "examples.rl",
            role,
            "--config",
            str(self._launch.path),
            "--folder",
            str(self._launch.folder / name),
        ]
        command += ["--json", "--trainers", self._trainer.key.hex()]
        command += ["--verifiers", *(one.key.hex() for one in self._verifiers)] if self._verifiers else []
        command += ["--peers", address] if address else []
        command += ["--set", *self._launch.changes] if self._launch.changes else []
        self.children[name] = Child(name, command, self.told)
        return self.children[name]

    def hear(self, timeout_s: float) -> bool:
        """Take in one event; False when there was none. Raises `LaunchError` when the trainer has ended too early."""
        try:
            name, event = self.told.get(timeout=timeout_s)
        except queue.Empty:
            return False
        if event is not None:
            self.view.hear(name, event)
            self._on_event(name, event)
        elif name == "trainer" and self.view.done is None:
            raise LaunchError(f"the trainer ended: {self.children[name].last_words}")
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
            while run.view.done is None:
                run.hear(1.0)
        else:
            with Live(run.view, console=console, refresh_per_second=4):
                while run.view.done is None:
                    run.hear(1.0)
        return run.view
