"""The live view of a run: accuracy, staleness, mismatch-KL, entropy, bytes, and what was refused and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

BARS = " ▁▂▃▄▅▆▇█"
WIDTH = 48
MB = 1e6


@dataclass
class View:
    """All that the processes of a run have said so far."""

    updates_due: int
    trainers: int = 1  # the curves are of the first that is heard
    updates: list[dict[str, Any]] = field(default_factory=list)
    accuracy: list[tuple[int, float]] = field(default_factory=list)  # after how many updates, sampled
    staleness: Counter[int] = field(default_factory=Counter)  # groups trained on, by age in versions
    refused: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    nbytes: dict[str, tuple[int, int]] = field(default_factory=dict)  # by process: sent, received
    processes: dict[str, str] = field(default_factory=dict)  # what each did last
    idle_s: float = 0.0
    ended: dict[str, dict[str, Any]] = field(default_factory=dict)  # trainers, and their last words
    _first: str | None = None

    def hear(self, who: str, event: dict[str, Any]) -> None:
        """One event of the process `who`."""
        kind = event["event"]
        self.processes[who] = kind
        if "sent" in event:
            self.nbytes[who] = (int(event["sent"]), int(event["received"]))
        self._first = self._first or (who if event["role"] == "trainer" else None)
        if kind == "accuracy" and who == self._first:
            self.accuracy.append((int(event["update"]), float(event["accuracy"])))
        elif kind == "update" and who == self._first:
            self.updates.append(event)
            self.staleness.update({int(age): count for age, count in event["staleness"].items()})
            self.refused = Counter(event["refused"])
            self.idle_s += event["waited_s"]
        elif kind == "verdict":
            self.verdicts["accepted" if event["accepted"] else event["reason"]] += 1
        elif kind == "end" and event["role"] == "trainer":
            self.ended[who] = event

    @property
    def done(self) -> bool:
        """Whether all trainers have done all updates."""
        return len(self.ended) >= self.trainers

    # -- drawn -------------------------------------------------------------------------------------------------------------------------

    def __rich__(self) -> Group:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold")
        table.add_column()
        last = self.updates[-1] if self.updates else {}
        table.add_row("updates", f"{len(self.updates)} of {self.updates_due}")
        if self.accuracy:
            table.add_row("accuracy", f"{bars([value for _, value in self.accuracy], top=1.0)} {self.accuracy[-1][1]:.2f}")
        if last:
            table.add_row("reward", f"{bars([each['reward'] for each in self.updates], top=1.0)} {last['reward']:.2f}")
            table.add_row("mismatch-KL", f"{bars([each['mismatch_kl'] for each in self.updates])} {last['mismatch_kl']:.1e}")
            table.add_row("entropy", f"{bars([each['entropy'] for each in self.updates])} {last['entropy']:.3f}")
            table.add_row("staleness", histogram(self.staleness))
            table.add_row("trainer idle", f"{self.idle_s:.1f} s")
        for who, (sent, received) in self.nbytes.items():
            table.add_row(f"bytes {who}", f"{sent / MB:.2f} MB sent, {received / MB:.2f} MB received")
        table.add_row("refused", listed(self.refused))
        table.add_row("verdicts", listed(self.verdicts))
        return Group(Panel(table, title="thinwire rl", title_align="left"), Text(listed(self.processes)))


def bars(values: list[float], *, top: float | None = None) -> str:
    """The last values as a line of blocks.

    >>> bars([0.0, 0.5, 1.0], top=1.0)
    ' ▄█'
    """
    shown = values[-WIDTH:]
    top = top if top is not None else max([*shown, 1e-12])
    return "".join(BARS[max(0, min(len(BARS) - 1, round(value / top * (len(BARS) - 1))))] for value in shown)


def histogram(counts: Counter[int]) -> str:
    """
    >>> histogram(Counter({1: 3, 0: 1}))
    '0: 25 %  1: 75 %'
    """
    total = max(counts.total(), 1)
    return "  ".join(f"{age}: {counts[age] / total:.0%}".replace("%", " %") for age in sorted(counts))


def listed(counts: Counter[str] | dict[str, str]) -> str:
    """
    >>> listed(Counter(stale=2))
    'stale 2'
    """
    return ", ".join(f"{name} {value}" for name, value in counts.items() if value) or "none"
