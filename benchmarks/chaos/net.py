"""A network of its own for every member, so that it can be cut off: namespaces on one bridge, or regions of the lab. Needs root."""

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import cycle, islice
from typing import Protocol

from benchmarks.lab import namespaces
from benchmarks.lab.namespaces import LabError, ip
from benchmarks.lab.topology import Topology
from benchmarks.lab.wan import Lab, open_lab

PREFIX = "twc"
RULES = """
table inet chaos {{
    chain in {{ type filter hook input priority 0; ip saddr {{ {others} }} drop; }}
    chain out {{ type filter hook output priority 0; ip daddr {{ {others} }} drop; }}
}}
"""


class Places(Protocol):
    """Places by number, each with a network namespace of this name and an IPv4 address."""

    def namespace(self, place: int) -> str: ...
    def address(self, place: int) -> str: ...
    def cut(self, places: Collection[int], others: Collection[int] | None = None) -> None:
        """Packets between these places and others (None: all others) vanish."""
        ...

    def heal(self) -> None:
        """All packets arrive again."""
        ...

    def link(self, place: int, *, up: bool) -> None:
        """Its cable is in, or out."""
        ...


class Net:
    """`places` namespaces at 10.78.0.1 ..., without delay or limit; a context that takes them down. Raises `LabError` where it cannot.

    Their names hold the process id, so that the next one finds what a killed run has left.
    """

    def __init__(self, places: int) -> None:
        self._tag, self._places = f"{PREFIX}{os.getpid()}", places
        self._bridge = f"{self._tag}-b"

    def __enter__(self) -> "Net":
        take_down_leftovers()
        try:
            ip("netns", "add", self._bridge)
            ip("-n", self._bridge, "link", "add", "b0", "type", "bridge")
            ip("-n", self._bridge, "link", "set", "b0", "up")
            for i in range(self._places):
                self._add(i)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in (*(self.namespace(i) for i in range(self._places)), self._bridge):
            take_down(name)

    def namespace(self, place: int) -> str:
        return f"{self._tag}-{place}"

    def address(self, place: int) -> str:
        return f"10.78.0.{place + 1}"

    def cut(self, places: Collection[int], others: Collection[int] | None = None) -> None:
        rest = [place for place in range(self._places) if place not in places] if others is None else others
        for place in (*places, *rest):
            self._drop(place, rest if place in places else places)

    def heal(self) -> None:
        for place in range(self._places):
            self._drop(place, ())

    def link(self, place: int, *, up: bool) -> None:
        ip("-n", self._bridge, "link", "set", f"v{place}", "up" if up else "down")

    def _add(self, place: int) -> None:
        name = self.namespace(place)
        ip("netns", "add", name)
        ip("-n", self._bridge, "link", "add", f"v{place}", "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("-n", self._bridge, "link", "set", f"v{place}", "master", "b0", "up")
        lines = f"link set lo up\naddr add {self.address(place)}/16 dev eth0\nlink set eth0 up\n"
        ip("-n", name, "-batch", "-", lines=lines)

    def _drop(self, place: int, others: Collection[int]) -> None:
        rules = "table inet chaos\ndelete table inet chaos\n"  # named first, so that deleting it cannot fail
        if others:
            rules += RULES.format(others=", ".join(self.address(other) for other in others))
        with namespaces.inside(self.namespace(place)):
            done = subprocess.run(["nft", "-f", "-"], input=rules, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"nft cannot cut a network: {done.stderr.strip()}; leave out the faults that cut (--kinds)")


def take_down(name: str) -> None:
    """A namespace with all that runs in it."""
    with suppress(LabError):
        namespaces.kill_all(name)
        ip("netns", "delete", name)


def take_down_leftovers() -> None:
    """Networks of runs whose process is gone."""
    for line in ip("netns", "list").splitlines():
        found = re.match(rf"{PREFIX}(\d+)-", line)
        if found and not os.path.exists(f"/proc/{found[1]}"):
            take_down(line.split()[0])


class LabNet:
    """The same over the shaped links of a lab."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def namespace(self, place: int) -> str:
        return self._lab.spaces[place]

    def address(self, place: int) -> str:
        return self._lab.places[place].address

    def cut(self, places: Collection[int], others: Collection[int] | None = None) -> None:
        self._lab.cut(*places, others=None if others is None else list(others))

    def heal(self) -> None:
        self._lab.cut(*range(len(self._lab.places)), mend=True)

    def link(self, place: int, *, up: bool) -> None:
        self._lab.cut(place, mend=up)


@contextmanager
def open_lab_net(name: str, places: int) -> Iterator[LabNet]:
    """The lab of this topology with as many regions as there are places, its own over and over."""
    topology = Topology.read(name)
    regions = islice(cycle(topology.regions), places)
    with open_lab(replace(topology, regions=tuple(replace(region, name=f"r{i}") for i, region in enumerate(regions)))) as lab:
        yield LabNet(lab)


def can_cut() -> bool:
    """Whether this machine and user can have such a network."""
    try:
        namespaces.refuse_if_impossible(nat=True)
    except LabError:
        return False
    return shutil.which("nft") is not None
