"""What a role tells: one JSON object a line for programs, one sentence a line for people."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, TextIO


class Events:
    """Writes events to `stream`; thread-safe. `alive` turns False once nobody reads any more: the role then ends."""

    def __init__(self, role: str, *, as_json: bool, stream: TextIO | None = None) -> None:
        self._role, self._as_json, self._stream = role, as_json, stream or sys.stdout
        self._lock, self._began = threading.Lock(), time.monotonic()
        self.alive = True

    def say(self, event: str, **numbers: Any) -> None:
        """One event, with the seconds since this role began."""
        at = round(time.monotonic() - self._began, 3)
        if self._as_json:
            line = json.dumps({"role": self._role, "event": event, "at_s": at, **numbers}, separators=(",", ":"))
        else:
            line = f"{at:7.1f} s  {self._role} {event}: " + ", ".join(f"{name} {shown(value)}" for name, value in numbers.items())
        with self._lock:
            try:
                print(line, file=self._stream, flush=True)
            except (BrokenPipeError, ValueError):  # whoever read it is gone
                self.alive = False


def read(line: str) -> dict[str, Any] | None:
    """An event from a line, or None for anything else that a process may print."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and {"role", "event", "at_s"} <= event.keys() else None


def shown(value: Any) -> str:
    """A value in a sentence."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {shown(each)}" for name, each in value.items()) + "}" if value else "none"
    return str(value)
