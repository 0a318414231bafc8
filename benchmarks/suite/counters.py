"""What the kernel counted in this process's network namespace: bytes and packets of one interface, and what TCP sent again."""

from dataclasses import astuple, dataclass
from pathlib import Path

NET = Path("/proc/self/net")


@dataclass(frozen=True)
class Counts:
    """Since the namespace exists; a packet of an interface may be a super-packet of up to 64 KiB, `retransmitted` counts segments."""

    sent: int = 0
    received: int = 0
    packets_sent: int = 0
    retransmitted: int = 0

    def __sub__(self, other: "Counts") -> "Counts":
        return Counts(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))


def read_counts(interface: str, net: Path = NET) -> Counts:
    """All counts now. Raises `LookupError` when there is no such interface, or no Linux."""
    device = net / "dev"
    for line in device.read_text().splitlines() if device.exists() else []:
        name, _, values = line.partition(":")
        if name.strip() == interface:
            found = [int(value) for value in values.split()]
            return Counts(found[8], found[0], found[9], _tcp(net / "snmp").get("RetransSegs", 0))
    raise LookupError(f"the system counts no bytes of a network interface {interface!r}")


def _tcp(path: Path) -> dict[str, int]:
    """A line of names, then a line of values."""
    lines = [line.split()[1:] for line in path.read_text().splitlines() if line.startswith("Tcp:")] if path.exists() else []
    return {name: int(value) for name, value in zip(*lines, strict=True)} if len(lines) == 2 else {}
