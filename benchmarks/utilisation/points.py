"""The grid: which links, codecs, steps a round and overlaps are measured; blocks around one surface, not a full cross."""

from dataclasses import dataclass

from benchmarks.lab.topology import Topology
from benchmarks.suite.record import key_of

MEMBERS = 4
RTT_MS = 80.0
PACE_MS = 20.0  # of one step: a declared sleep, so that four regions can compute at once on two cores
CODECS = ("none", "int8", "blockmax64")


@dataclass(frozen=True)
class Point:
    """One point: the link of every region and what `thinwire.DiLoCo` does on it."""

    mbit: float
    sync_every: int
    codec: str
    overlap: int = 0
    up_mbit: float | None = None  # where it differs from `mbit`
    loss: float = 0.0
    congestion: str = "cubic"

    @property
    def topology(self) -> Topology:
        """Equal regions."""
        return Topology.uniform(
            MEMBERS, mbit=self.mbit, up_mbit=self.up_mbit, rtt_ms=RTT_MS, loss=self.loss, congestion=self.congestion
        )  # fmt: skip

    @property
    def warm_rounds(self) -> int:
        """Windows before those that count: one where a window takes seconds, next to which bringing members together is nothing."""
        thin = (self.up_mbit or self.mbit) <= 20 or (self.loss > 0 and self.congestion == "cubic")
        return 1 if self.sync_every >= 100 or (thin and self.codec != "blockmax64") else 2

    @property
    def label(self) -> str:
        """For a person."""
        overlap = f", overlap {self.overlap}" if self.overlap else ""
        return f"{self.codec}, H={self.sync_every}{overlap}, {self.topology.name}"

    @property
    def key(self) -> str:
        """For the results file."""
        link = self.topology.name.replace(" ", "")
        return key_of("diloco", codec=self.codec, sync_every=self.sync_every, overlap=self.overlap, link=link)


def surface() -> list[Point]:
    """Bandwidth x steps a round, for each codec."""
    return [Point(mbit, h, codec) for codec in CODECS for mbit in (20, 100, 1000) for h in (5, 20, 100)]


def overlapped() -> list[Point]:
    """The exchange beside half a round's steps."""
    return [Point(mbit, 20, codec, overlap=10) for codec in CODECS for mbit in (20, 100)]


def asymmetric() -> list[Point]:
    """Home links: the uplink a fifth of the downlink."""
    return [Point(100, 20, codec, up_mbit=20) for codec in CODECS]


def lossy() -> list[Point]:
    """What loss does to each congestion control."""
    return [
        Point(100, 20, codec, loss=loss, congestion=congestion)
        for codec in CODECS for congestion in ("cubic", "bbr") for loss in (0.0, 0.001, 0.01)
        if (loss, congestion) != (0.0, "cubic")
    ]  # fmt: skip


def quick() -> list[Point]:
    """A corner of each block, in a minute."""
    return [
        Point(100, 20, "none"),
        Point(100, 20, "blockmax64"),
        Point(100, 20, "blockmax64", overlap=10),
        Point(100, 20, "blockmax64", loss=0.01),
        Point(100, 20, "blockmax64", loss=0.01, congestion="bbr"),
    ]


def full() -> list[Point]:
    """All blocks, those of one link next to each other: it is measured once for them."""
    points = [*surface(), *overlapped(), *asymmetric(), *lossy()]
    links = list(dict.fromkeys(point.topology for point in points))
    return sorted(points, key=lambda point: links.index(point.topology))
