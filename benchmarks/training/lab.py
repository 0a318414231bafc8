"""Where workers run so that the operating system counts their bytes: a network namespace each, or the loopback of this machine.

As root, with iproute2, every worker gets a namespace with one interface `eth0`; a bridge in a namespace of its own joins them. Deleting
the namespaces deletes everything, and names carry our process id, so runs never meet and leftovers of killed runs are found.
"""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PREFIX = "thinwire"


class LabError(RuntimeError):
    """The lab cannot be built; the message says the remedy."""


@dataclass(frozen=True)
class Lab:
    """How to start worker `i`, where rank 0 listens, and whose counters to read.

    `share` is how many workers' traffic one counter sees.
    """

    prefixes: tuple[tuple[str, ...], ...]
    address: str
    port: int
    interface: str
    share: int

    @property
    def counted_by(self) -> str:
        """Says it in the table."""
        if self.share == 1:
            return f"tx of {self.interface} in each worker's network namespace"
        return f"tx of {self.interface} of this machine / {self.share} workers"


@contextmanager
def lab(workers: int) -> Iterator[Lab]:
    """Namespaces when root, else the loopback; taken down at the end, also after an error, Ctrl-C or SIGTERM."""
    if os.geteuid() != 0:
        yield Lab(((),) * workers, "127.0.0.1", _free_port(), "lo", workers)
        return
    if shutil.which("ip") is None:
        raise LabError("the command `ip` is missing; install it (apt-get install iproute2), or run as a normal user to count the loopback")
    _remove_leftovers()
    names = [f"{PREFIX}-{os.getpid()}-{i}" for i in range(workers)]
    hub = f"{PREFIX}-{os.getpid()}-hub"
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        _build(hub, names)
        yield Lab(tuple(("ip", "netns", "exec", name) for name in names), "10.77.0.1", 29500, "eth0", 1)
    finally:
        for name in [*names, hub]:
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL, check=False)
        signal.signal(signal.SIGTERM, previous)


def _build(hub: str, names: list[str]) -> None:
    _ip("netns", "add", hub)
    _ip("-n", hub, "link", "add", "bridge", "type", "bridge")
    _ip("-n", hub, "link", "set", "bridge", "up")
    for i, name in enumerate(names):
        _ip("netns", "add", name)
        _ip("-n", hub, "link", "add", f"port{i}", "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("-n", hub, "link", "set", f"port{i}", "master", "bridge", "up")
        _ip("-n", name, "address", "add", f"10.77.0.{i + 1}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", name, "link", "set", "lo", "up")


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(
            f"`ip {' '.join(words)}` failed: {done.stderr.strip()}; this kernel or container allows no network namespaces, "
            "run as a normal user to count the loopback"
        )


def _remove_leftovers() -> None:
    """Namespaces of runs that were killed hard: those whose process is gone."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    for line in listed.splitlines():
        name = line.split()[0] if line.strip() else ""
        parts = name.split("-")
        if len(parts) == 3 and parts[0] == PREFIX and parts[1].isdigit() and not Path(f"/proc/{parts[1]}").exists():
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL, check=False)


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
