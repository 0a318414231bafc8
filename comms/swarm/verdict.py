"""What proving a run comes to: how often each law was checked, and every line that breaks one."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from thinwire.comms.swarm.history import Event, Place

LAWS = ("same state", "same decision", "once", "gap-free", "untouched", "bytes", "lineage", "whole")
SHOWN = 1000  # violations that are kept; all are counted

Slot = tuple[int, int]  # round, fragment


@dataclass(frozen=True)
class Violation:
    """A law that does not hold, with the lines that show it and what they say."""

    law: str
    places: tuple[Place, ...]
    said: str

    def __str__(self) -> str:
        return f"{self.law}: {self.said} ({', '.join(map(str, self.places))})"


@dataclass
class Verdict:
    """What was found; `green` when every law holds wherever it could be checked."""

    checked: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LAWS, 0))
    broken: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LAWS, 0))
    violations: list[Violation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    forks: list[str] = field(default_factory=list)
    events: int = 0
    members: int = 0
    incarnations: int = 0
    decisions: int = 0

    @property
    def green(self) -> bool:
        return not any(self.broken.values())

    def expect(self, law: str, holds: bool, said: str, *places: Place) -> None:
        """Count a check of a law, and keep what breaks it."""
        self.checked[law] += 1
        if not holds:
            self.broken[law] += 1
            if len(self.violations) < SHOWN:
                self.violations.append(Violation(law, places, said))


def slot_of(event: Event) -> Slot:
    """Which decision an event is about."""
    return event.round, event.fragment


def follows(a: Slot, b: Slot) -> bool:
    """Whether `b` is the slot after `a`: the next fragment, or the next round."""
    return b == (a[0], a[1] + 1) or b == (a[0] + 1, 0)


def named(key: tuple[str, Slot]) -> str:
    """A slot of an epoch, for a person."""
    return f"round {key[1][0]}.{key[1][1]} of epoch {key[0][:8]}"


def short(value: object) -> str:
    """Keys and hashes by their first 16 digits: enough to find them."""
    if isinstance(value, str):
        return value[:16] or "nothing"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{short(a)}: {short(b) if len(b) >= 32 else b}" for a, b in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(short, value)) + "]"
    return str(value)
