"""The link that a run is asked for on the command line, as a topology."""

from dataclasses import dataclass

from benchmarks.lab.topology import Topology, TopologyError


@dataclass(frozen=True)
class LinkOptions:
    """Links between the workers; nothing given: as fast as this machine."""

    link: str = ""
    """Every region's rate in Mbit/s and the round trip in ms: 20:80; or up/down rates: 20/100:40."""
    loss: float = 0.0
    """Share of packets lost each way, with --link."""
    congestion: str = "cubic"
    """Congestion control of TCP, with --link."""
    topology: str = ""
    """A TOML file of a topology, or one that is shipped (home, continents, cloud), instead of --link."""

    def asks(self) -> bool:
        """For anything at all."""
        return bool(self.link or self.topology or self.loss)

    def regions(self, workers: int) -> Topology:
        """One for each worker. Raises `TopologyError` for what cannot be."""
        if not self.topology:
            return Topology.uniform(workers, **_parse(self.link), loss=self.loss, congestion=self.congestion)
        if self.link or self.loss or self.congestion != "cubic":
            raise TopologyError("--topology says rates, loss and congestion itself; leave out --link, --loss and --congestion")
        found = Topology.read(self.topology)
        if len(found.regions) != workers:
            raise TopologyError(f"topology {found.name} has {len(found.regions)} regions; give --workers {len(found.regions)}")
        return found


def _parse(link: str) -> dict[str, float]:
    if not link:
        return {}
    rates, _, rtt = link.partition(":")
    up, _, down = rates.rpartition("/")
    try:
        asked = {"mbit": float(down), "rtt_ms": float(rtt or 0)}
        return asked | ({"up_mbit": float(up)} if up else {})
    except ValueError:
        raise TopologyError(f"--link is {link!r}; give Mbit/s and ms as in 20:80, or up/down Mbit/s as in 20/100:40") from None
