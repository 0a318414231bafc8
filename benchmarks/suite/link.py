"""Links by options, the same for every suite: `--link 100:20` (Mbit/s : round trip in ms), `--topology home`, or neither: unshaped."""

from dataclasses import dataclass
from typing import ClassVar

from benchmarks.lab.topology import Topology, TopologyError


@dataclass(frozen=True)
class LinkOptions:
    """Links between the members; nothing given: as fast as this machine.

    >>> LinkOptions(link="20/100:40").regions(4).name
    '100/20 Mbit/s, 40 ms, cubic'
    """

    COUNT: ClassVar[str] = "--members"  # the option that says how many there are

    link: str = ""
    """Every region's rate in Mbit/s and the round trip in ms: 20:80; or up/down rates: 20/100:40."""
    loss: float = 0.0
    """Share of packets lost each way, with --link."""
    congestion: str = "cubic"
    """Congestion control of TCP, with --link."""
    topology: str = ""
    """A TOML file of a topology, or one that is shipped (home, continents, cloud), instead of --link."""

    def regions(self, members: int) -> Topology:
        """One for each member. Raises `TopologyError` for what cannot be."""
        if not self.topology:
            return Topology.uniform(members, **_parse(self.link), loss=self.loss, congestion=self.congestion)
        if self.link or self.loss or self.congestion != "cubic":
            raise TopologyError("--topology says rates, loss and congestion itself; leave out --link, --loss and --congestion")
        found = Topology.read(self.topology)
        n = len(found.regions)
        if n != members:
            raise TopologyError(f"topology {self.topology!r} has {n} regions, not {members}; give {self.COUNT} {n}")
        return found


def _parse(link: str) -> dict[str, float]:
    if not link:
        return {}
    rates, _, rtt = link.partition(":")
    up, _, down = rates.rpartition("/")
    try:
        return {"mbit": float(down), "rtt_ms": float(rtt)} | ({"up_mbit": float(up)} if up else {})
    except ValueError:
        raise TopologyError(f"--link is {link!r}; give Mbit/s and ms as in 20:80, or up/down Mbit/s as in 20/100:40") from None
