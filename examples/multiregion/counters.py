"""What the operating system says was sent and received."""

from pathlib import Path

_RECEIVED, _SENT = 0, 8  # columns of /proc/net/dev


def sent_nbytes(interface: str) -> int:
    """Bytes that left `interface` of this process's network namespace since it exists: all protocols, headers included.

    Raises `LookupError` when there is no such interface, or no Linux.
    """
    return _column(interface, _SENT)


def received_nbytes(interface: str) -> int:
    """Bytes that came in by `interface`, like `sent_nbytes`."""
    return _column(interface, _RECEIVED)


def _column(interface: str, which: int) -> int:
    counters = Path("/proc/self/net/dev")
    for line in counters.read_text().splitlines() if counters.exists() else []:
        name, _, values = line.partition(":")
        if name.strip() == interface:
            return int(values.split()[which])
    raise LookupError(f"the system counts no bytes of a network interface {interface!r}")
