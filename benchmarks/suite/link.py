"""A link by options, the same for every suite: `--link 100:20` (Mbit/s : round trip in ms), or `--topology home`, or neither: unshaped."""

import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lab.namespaces import LabError
from benchmarks.lab.topology import Topology, TopologyError
from benchmarks.lab.wan import Lab, open_lab, open_loopback
from benchmarks.suite.fleet import Fleet
from benchmarks.suite.record import Asked, Link


@dataclass(frozen=True)
class Wanted:
    """Regions and the links between them, as options name them.

    `build` raises `TopologyError` for a link of another form, or a topology of another size.

    >>> Wanted(4, "100:20").build().name
    '100 Mbit/s, 20 ms, cubic'
    """

    members: int
    link: str = ""
    topology: str = ""

    @property
    def shaped(self) -> bool:
        """Whether a link is asked for at all."""
        return bool(self.link or self.topology)

    def build(self) -> Topology:
        """The topology."""
        if self.link and self.topology:
            raise TopologyError("give either --link or --topology, not both")
        if self.topology:
            found = Topology.read(self.topology)
            n = len(found.regions)
            if n != self.members:
                raise TopologyError(f"topology {self.topology!r} has {n} regions, not {self.members}; give --members {n}")
            return found
        if not self.link:
            return Topology.uniform(self.members)
        try:
            mbit, rtt_ms = (float(number) for number in self.link.split(":"))
        except ValueError:
            raise TopologyError(f"link is {self.link!r}; give Mbit/s and round trip in ms such as 100:20") from None
        return Topology.uniform(self.members, mbit=mbit, rtt_ms=rtt_ms)

    def asked(self, lab: str = "namespaces") -> Link:
        """What a record says before anything is measured."""
        return Link(lab, Asked(**self.build().asked()))


@dataclass(frozen=True)
class Opened:
    """A lab with its workers, and its link: verified where one was asked for."""

    lab: Lab
    link: Link
    fleet: Fleet


def open_fleet(stack: ExitStack, wanted: Wanted, module: str) -> Opened:
    """A worker of `python -m module` in each region; `stack` closes it.

    Where nothing is shaped and this user or machine cannot have regions, workers are on the loopback. Raises `LabError` when a link is
    asked for that cannot be had, `Void` when it is not what was asked, and `RunError` when a worker does not start.
    """
    topology = wanted.build()
    try:
        lab = stack.enter_context(open_lab(topology))
    except LabError:
        if wanted.shaped:
            raise
        lab = stack.enter_context(open_loopback(wanted.members))
    link = lab.verify() if wanted.shaped else lab.link()
    return Opened(lab, link, stack.enter_context(fleet_in(lab, module, rtt_s=topology.asked()["rtt_ms"] / 1000)))


def fleet_in(lab: Lab, module: str, *, rtt_s: float) -> Fleet:
    """A worker in each place of a lab."""

    def start(rank: int, argv: list[str], env: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
        return lab.start(rank, argv, env=env, log=log)

    return Fleet(module, len(lab.places), start, interface=lab.interface, rtt_s=rtt_s, check=lab.check, folder=lab.folder)
