"""Loss against bytes: the medians of each setting, and those that no other beats in both."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.suite.record import OK, Record, middle

T = TypeVar("T")


@dataclass(frozen=True)
class Spot:
    """A setting in the picture: medians over its seeds of bytes sent a member and of validation loss, the loss's range, its records."""

    label: str
    sent: float
    loss: float
    least: float
    most: float
    records: tuple[Record, ...]


def spots(records: Iterable[Record]) -> list[Spot]:
    """One for each setting, link and length among the runs that went well."""
    groups: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        if record.status == OK and record.bytes is not None and record.bytes.interface_sent is not None:
            where = record.link.asked.topology if record.link else ""
            settings = tuple(sorted((name, repr(value)) for name, value in record.settings.items()))
            groups.setdefault((record.method, settings, record.members, record.steps, where), []).append(record)
    made = []
    for found in groups.values():
        sent = middle(r.bytes.interface_sent for r in found if r.bytes and r.bytes.interface_sent is not None)[0]
        loss, least, most = middle(r.numbers["loss"] or 0.0 for r in found)
        made.append(Spot(found[-1].label, sent, loss, least, most, tuple(found)))
    return made


def front(spots: Sequence[Spot]) -> list[Spot]:
    """The Pareto front, from fewest bytes to least loss."""
    return unbeaten(spots, lambda spot: (spot.sent, spot.loss))


def unbeaten(items: Iterable[T], at: Callable[[T], tuple[float, float]]) -> list[T]:
    """Those that have less of the second than all with less of the first."""
    best: list[T] = []
    for item in sorted(items, key=at):
        if not best or at(item)[1] < at(best[-1])[1]:
            best.append(item)
    return best
