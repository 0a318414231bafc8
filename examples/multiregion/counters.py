"""What the operating system says was sent."""

from pathlib import Path


def sent_nbytes(interface: str) -> int:
    """Bytes that left `interface` of this process's network namespace since it exists: all protocols, headers included.

    Raises `LookupError` when there is no such interface, or no Linux.
    """
    counters = Path("/proc/self/net/dev")
    for line in counters.read_text().splitlines() if counters.exists() else []:
        name, _, values = line.partition(":")
        if name.strip() == interface:
            return int(values.split()[8])
    raise LookupError(f"the system counts no bytes of a network interface {interface!r}")
