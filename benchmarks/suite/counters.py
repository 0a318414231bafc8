"""What the kernel counted in this process's network namespace: bytes and packets of one interface, and what TCP says of itself."""

from dataclasses import astuple, dataclass
from pathlib import Path

NET = Path("/proc/self/net")


@dataclass(frozen=True)
class Counts:
    """Each way since the namespace exists; a packet of an interface may be a super-packet of up to 64 KiB, which TCP counts by segments.

    `segments_sent` counts acknowledgements too, `acks_received` only those that carried no data (nearly: one that did may be among them).
    """

    sent: int = 0
    received: int = 0
    packets_sent: int = 0
    segments_sent: int = 0
    retransmitted: int = 0
    acks_received: int = 0

    def __sub__(self, other: "Counts") -> "Counts":
        return Counts(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))


def read_counts(interface: str, net: Path = NET) -> Counts:
    """All counts now. Raises `LookupError` when there is no such interface, or no Linux."""
    device = net / "dev"
    for line in device.read_text().splitlines() if device.exists() else []:
        name, _, values = line.partition(":")
        if name.strip() == interface:
            found = [int(value) for value in values.split()]
            tcp, more = _table(net / "snmp", "Tcp"), _table(net / "netstat", "TcpExt")
            acks = more.get("TCPPureAcks", 0) + more.get("TCPHPAcks", 0)
            return Counts(found[8], found[0], found[9], tcp.get("OutSegs", 0), tcp.get("RetransSegs", 0), acks)
    raise LookupError(f"the system counts no bytes of a network interface {interface!r}")


def _table(path: Path, protocol: str) -> dict[str, int]:
    """One protocol of /proc/net/snmp or netstat: a line of names, then a line of values."""
    lines = [line.split()[1:] for line in path.read_text().splitlines() if line.startswith(protocol + ":")] if path.exists() else []
    return {name: int(value) for name, value in zip(*lines, strict=True)} if len(lines) == 2 else {}
