"""A topology: regions with the rate of their access link, and the delay, jitter and loss between them; read from a small TOML file.

congestion = "cubic"                        # of every region's TCP
rtt_ms = 40                                 # between any two regions, unless a [[pair]] says otherwise
loss = 0.001                                # of packets, each way
region = [{ name = "eu", up_mbit = 20, down_mbit = 100 }, { name = "us", up_mbit = 20, down_mbit = 100, nat = true }]
[[pair]]
between = ["eu", "us"]
rtt_ms = 90
"""

import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SHIPPED = Path(__file__).parent
MOST_REGIONS = 64
CONGESTIONS = ("cubic", "bbr", "reno")


class TopologyError(ValueError):
    """A topology that cannot be built; the message says what was given and what is allowed."""


def _between(what: str, value: Any, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise TopologyError(f"{what} is {value!r}; give a number from {least:g} to {most:g}")


def _known(what: str, table: dict[str, Any], keys: list[str]) -> None:
    unknown = sorted(set(table) - set(keys))
    if unknown:
        raise TopologyError(f"{what} says {', '.join(unknown)}; known are {', '.join(keys)}")


def _tables(what: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise TopologyError(f"{what} is {value!r}; give a list of tables")
    return value


@dataclass(frozen=True)
class Region:
    """One place: its access link in Mbit/s each way (None: as fast as this machine), perhaps behind a home router (`nat`)."""

    name: str
    up_mbit: float | None = None
    down_mbit: float | None = None
    nat: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.replace("-", "").isalnum() or not self.name.isascii() or len(self.name) > 12:
            raise TopologyError(f"a region is called {self.name!r}; give at most 12 letters, digits and dashes")
        for what, rate in (("up_mbit", self.up_mbit), ("down_mbit", self.down_mbit)):
            if rate is not None:
                _between(f"{what} of region {self.name!r}", rate, 0.01, 10_000)


@dataclass(frozen=True)
class Way:
    """The way between two regions, alike in both directions: round trip and jitter in ms, share of packets lost each way.

    Jitter is added each way: the absolute value of a normal variable of this standard deviation; packets keep their order.
    """

    rtt_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0

    def __post_init__(self) -> None:
        _between("rtt_ms", self.rtt_ms, 0, 10_000)
        _between("jitter_ms", self.jitter_ms, 0, 1000)
        _between("loss", self.loss, 0, 0.5)


@dataclass(frozen=True)
class Topology:
    """Regions, the way between any two of them, and how they do TCP.

    `pairs` are exceptions from `way`, by the two indices, the smaller first. `queue_ms` is how long a packet may wait for its access
    link before it is dropped (a drop-tail queue, never shorter than 128 KiB).

    >>> Topology.uniform(4, mbit=20, rtt_ms=80).way_between(0, 3).rtt_ms
    80
    """

    name: str
    regions: tuple[Region, ...]
    way: Way = Way()
    pairs: tuple[tuple[int, int, Way], ...] = ()
    congestion: str = "cubic"
    queue_ms: float = 200.0

    def __post_init__(self) -> None:
        if not 1 <= len(self.regions) <= MOST_REGIONS:
            raise TopologyError(f"a topology of {len(self.regions)} regions; give 1 to {MOST_REGIONS}")
        names = [region.name for region in self.regions]
        if len(set(names)) < len(names):
            raise TopologyError(f"regions are called {', '.join(names)}; give each a name of its own")
        if self.congestion not in CONGESTIONS:
            raise TopologyError(f"congestion is {self.congestion!r}; choose one of {', '.join(CONGESTIONS)}")
        _between("queue_ms", self.queue_ms, 1, 10_000)

    @classmethod
    def uniform(
        cls, n: int, *, mbit: float | None = None, up_mbit: float | None = None, rtt_ms: float = 0.0, jitter_ms: float = 0.0,
        loss: float = 0.0, congestion: str = "cubic", queue_ms: float = 200.0,
    ) -> "Topology":  # fmt: skip
        """`n` equal regions r0, r1, ...; `up_mbit` where uplinks are thinner than downlinks of `mbit`, no rates for no limit."""
        up = mbit if up_mbit is None else up_mbit
        rate = "unlimited" if mbit is None else f"{mbit:g} Mbit/s" if up == mbit else f"{mbit:g}/{up:g} Mbit/s"
        name = ", ".join([rate, f"{rtt_ms:g} ms", *([f"{100 * loss:g} % loss"] if loss else []), congestion])
        regions = tuple(Region(f"r{i}", up, mbit) for i in range(n))
        return cls(name, regions, Way(rtt_ms, jitter_ms, loss), congestion=congestion, queue_ms=queue_ms)

    @classmethod
    def read(cls, where: str | Path) -> "Topology":
        """From a TOML file, or one that is shipped by its name: home, continents, cloud.

        Raises `TopologyError` when there is no such file, it is no TOML, or says what a topology does not have.
        """
        path = Path(where)
        if not path.exists() and (SHIPPED / f"{where}.toml").exists():
            path = SHIPPED / f"{where}.toml"
        try:
            found = tomllib.loads(path.read_text())
        except (OSError, UnicodeDecodeError) as error:
            shipped = ", ".join(sorted(p.stem for p in SHIPPED.glob("*.toml")))
            raise TopologyError(f"cannot read topology {str(where)!r}: {error}; give a TOML file, or one of {shipped}") from None
        except tomllib.TOMLDecodeError as error:
            raise TopologyError(f"{path} is no TOML: {error}") from None
        try:
            return cls._parse(path.stem, found)
        except TopologyError as error:
            raise TopologyError(f"{path}: {error}") from None

    @classmethod
    def _parse(cls, name: str, found: dict[str, Any]) -> "Topology":
        way_keys = [f.name for f in fields(Way)]
        _known("the topology", found, ["region", "pair", "congestion", "queue_ms", *way_keys])
        tables = _tables("region", found.get("region", []))
        for table in tables:
            _known("a region", table, [f.name for f in fields(Region)])
            if "name" not in table:
                raise TopologyError(f"region {table} has no name; give it one")
        regions = tuple(Region(**table) for table in tables)
        names = [region.name for region in regions]
        way = Way(**{key: found[key] for key in way_keys if key in found})
        pairs = []
        for table in _tables("pair", found.get("pair", [])):
            _known("a pair", table, ["between", *way_keys])
            ends = table.get("between", [])
            if not isinstance(ends, list) or len(ends) != 2 or not all(end in names for end in ends) or ends[0] == ends[1]:
                raise TopologyError(f"a pair is between {ends!r}; name two of the regions {', '.join(names)}")
            a, b = sorted(names.index(end) for end in ends)
            pairs.append((a, b, replace(way, **{key: table[key] for key in way_keys if key in table})))
        return cls(name, regions, way, tuple(pairs), **{key: found[key] for key in ("congestion", "queue_ms") if key in found})

    def way_between(self, a: int, b: int) -> Way:
        """Between regions `a` and `b`, in any order."""
        return next((way for i, j, way in self.pairs if (i, j) == (min(a, b), max(a, b))), self.way)

    @property
    def shaped(self) -> bool:
        """Whether anything is asked of the links at all."""
        asked = self.asked()
        return any(asked[what] for what in ("up_mbit", "down_mbit", "rtt_ms", "jitter_ms", "loss"))

    @property
    def lossy(self) -> bool:
        """Whether any way loses packets."""
        return any(way.loss > 0 for way in (self.way, *(way for *_, way in self.pairs)))

    def asked(self) -> dict[str, Any]:
        """What is asked of the links, as a record keeps it: rates (lowest), round trip (longest), jitter and loss (greatest)."""
        n = len(self.regions)
        ways = [self.way_between(a, b) for a in range(n) for b in range(a + 1, n)] or [self.way]
        ups = [region.up_mbit for region in self.regions if region.up_mbit is not None]
        downs = [region.down_mbit for region in self.regions if region.down_mbit is not None]
        return {
            "topology": self.name,
            "up_mbit": min(ups) if ups else None,
            "down_mbit": min(downs) if downs else None,
            **{key: max(asdict(way)[key] for way in ways) for key in asdict(self.way)},
            "congestion": self.congestion,
        }
