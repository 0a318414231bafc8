"""Die by SIGKILL as the leader of a round, at a given state of its protocol: before, between or after what it sends."""

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

INPUTS = ("start", "holds", "receive", "up", "down", "tick", "leave")  # of the round machine, each returns effects


class Doom:
    """`state` is one of `faults.LEADER_STATES`, or nothing; `round` is the first in which it counts.

    It stands between the round machine and whoever drives it: a leader that is to die "before" never returns, "half" reaches half of
    the recipients, "after" all; the next input then ends it, when what it sent is on its way.
    """

    def __init__(self, tell: Callable[[str], None], kill: Callable[[], None] | None = None) -> None:
        self.state, self.round = "", -1
        self._tell, self._kill = tell, kill or (lambda: os.kill(os.getpid(), signal.SIGKILL))
        self._sent = False

    def watch(self, machine: Any) -> None:
        """Stand before every input of this machine."""
        for name in INPUTS:
            setattr(machine, name, self._around(machine, name, getattr(machine, name)))

    def _around(self, machine: Any, name: str, act: Callable[..., Sequence[Any]]) -> Callable[..., Sequence[Any]]:
        def input(*words: Any, **named: Any) -> Sequence[Any]:
            if self._sent:
                self._end()
            if self.state and self._leads(machine):
                if name == self.state == "start":
                    self._end()
                if self.state == "accept heard" and name == "receive" and any(type(word).__name__ == "Accept" for word in words):
                    self._end()
            leads = self._leads(machine)  # before a decision moves it on
            effects = act(*words, **named)
            return self._judge(effects) if self.state and leads else effects

        return input

    def _judge(self, effects: Sequence[Any]) -> Sequence[Any]:
        kept = []
        for effect in effects:
            what = type(effect).__name__
            if what == "Decided" and self.state == "apply":
                self._end()
            message = type(effect.message).__name__.lower() if what == "Send" else ""
            if message and self.state.startswith(message):
                when = self.state.removeprefix(f"{message} ")
                if when == "before":
                    self._end()
                self._sent = True
                if when == "half":
                    effect = replace(effect, to=effect.to[: len(effect.to) // 2])
            kept.append(effect)
        return kept

    def _leads(self, machine: Any) -> bool:
        """Whether the first ballot of the slot that is due is this member's, and the round has come."""
        if not machine.is_member or machine.next_slot.round < self.round or self.round < 0:
            return False
        return bool(machine._round.ballots.leader(0) == machine._seat.me)  # no user needs to know, so the machine does not tell

    def _end(self) -> None:
        self._tell(self.state)
        self._kill()
