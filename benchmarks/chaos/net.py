"""A network of its own for every member, so that it can be cut off: namespaces on one bridge, without delay or limit. Needs root."""

import shutil
import subprocess
from collections.abc import Collection
from contextlib import suppress

from benchmarks.lab import namespaces
from benchmarks.lab.namespaces import LabError, ip

RULES = """
table inet chaos {{
    chain in {{ type filter hook input priority 0; ip saddr {{ {others} }} drop; }}
    chain out {{ type filter hook output priority 0; ip daddr {{ {others} }} drop; }}
}}
"""


class Net:
    """`places` namespaces at 10.78.0.1 ...; a context that takes them down. Raises `LabError` where that is impossible."""

    def __init__(self, tag: str, places: int) -> None:
        self._tag, self._places = tag, places
        self._bridge = f"{tag}-b"

    def __enter__(self) -> "Net":
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
            with suppress(LabError):
                namespaces.kill_all(name)
                ip("netns", "delete", name)

    def namespace(self, place: int) -> str:
        """Its name."""
        return f"{self._tag}-{place}"

    def address(self, place: int) -> str:
        """Its IPv4 address."""
        return f"10.78.0.{place + 1}"

    def cut(self, places: Collection[int]) -> None:
        """Packets between these places and all others vanish."""
        rest = [place for place in range(self._places) if place not in places]
        for place in range(self._places):
            self._drop(place, rest if place in places else places)

    def heal(self) -> None:
        """All packets arrive again."""
        for place in range(self._places):
            self._drop(place, ())

    def link(self, place: int, *, up: bool) -> None:
        """Its cable is in, or out."""
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


def can_cut() -> bool:
    """Whether this machine and user can have such a network."""
    try:
        namespaces.refuse_if_impossible(nat=True)
    except LabError:
        return False
    return shutil.which("nft") is not None
