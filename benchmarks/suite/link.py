"""A link by options, the same for every suite: `--link 100:20` (Mbit/s : round trip in ms), or `--topology home`, or neither: unshaped."""

from benchmarks.lab.topology import Topology, TopologyError


def topology_of(members: int, link: str = "", topology: str = "") -> Topology:
    """The topology that options ask for, of so many regions.

    Raises `TopologyError` for a link of another form, or a topology of another size.

    >>> topology_of(4, "100:20").name
    '100 Mbit/s, 20 ms, cubic'
    """
    if link and topology:
        raise TopologyError("give either --link or --topology, not both")
    if topology:
        found = Topology.read(topology)
        if len(found.regions) != members:
            raise TopologyError(
                f"topology {topology!r} has {len(found.regions)} regions, not {members}; give --members {len(found.regions)}"
            )
        return found
    if not link:
        return Topology.uniform(members)
    try:
        mbit, rtt_ms = (float(number) for number in link.split(":"))
    except ValueError:
        raise TopologyError(f"link is {link!r}; give Mbit/s and round trip in ms such as 100:20") from None
    return Topology.uniform(members, mbit=mbit, rtt_ms=rtt_ms)
