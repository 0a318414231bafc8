"""What of this machine would stop a member of a swarm, and what to do about it: one row a fact, nothing is changed.

Each check is a function that returns rows and does not raise; `examine` runs them all.
"""

import asyncio
import ipaddress
import os
import resource
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from thinwire.comms.swarm.identity import Identity
from thinwire.comms.swarm.node import CLOCK, Node
from thinwire.comms.swarm.p2pd import DaemonOptions, key_in
from thinwire.comms.swarm.transport import PeerError

Status = Literal["ok", "warning", "failure"]
_WRONG_CLOCK_S = 3.0
_NEEDED = {"torch": "2.8", "numpy": "", "xxhash": "", "hivemind": "1.1", "cryptography": "40", "msgspec": "0.18"}


@dataclass(frozen=True)
class Row:
    """One fact; `remedy` says what to do where it is not ok."""

    check: str
    status: Status
    detail: str
    remedy: str = ""


def examine(
    *, options: DaemonOptions | None = None, peers: Sequence[str] = (), progress: Callable[[Row], None] = lambda row: None
) -> list[Row]:
    """All checks, also against `peers` (multiaddrs) where some are given; takes seconds. `progress` is told each row when it is there."""
    options = options or DaemonOptions()
    rows: list[Row] = []
    quick = (versions, processes, files, network_card, tunnel, library, codec_self_test, lambda: ports(options))
    for check in quick:
        for row in check():
            rows.append(row)
            progress(row)
    if not any(row.check == "hivemind" and row.status == "failure" for row in rows):
        for row in asyncio.run(daemon(options, peers)):
            rows.append(row)
            progress(row)
    return rows


def versions() -> list[Row]:
    """Python and the packages that the swarm needs."""
    rows = [Row("python", "ok", sys.version.split()[0])]
    for name, least in _NEEDED.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            rows.append(Row(name, "failure", "is not installed", "pip install 'thinwire[swarm]'"))
            continue
        if least and _numbers(found) < _numbers(least):
            rows.append(Row(name, "warning", f"{found}; tested from {least} on", f"pip install -U {name}"))
        else:
            rows.append(Row(name, "ok", found))
    return rows


def processes() -> list[Row]:
    """Whether p2pd can be kept from outliving us, and processes be made."""
    if sys.platform != "linux":
        return [Row("processes", "warning", f"{sys.platform}: only Linux is tested", "run on Linux, or in a container")]
    try:
        subprocess.run([sys.executable, "-I", "-S", "-c", ""], check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        remedy = "raise the limit: ulimit -u, or the pids limit of the container"
        return [Row("processes", "failure", f"no process can be made: {error}", remedy)]
    return [Row("processes", "ok", "can be made")]


def files() -> list[Row]:
    """Descriptors, room for sockets, room on the disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    rows = [
        Row("open files", "ok", f"{soft} allowed")
        if soft >= 1024
        else Row("open files", "warning", f"{soft} allowed, a stream takes two", f"ulimit -n {min(hard, 4096)}")
    ]
    try:
        with tempfile.TemporaryDirectory(prefix="thinwire-doctor-") as folder, socket.socket(socket.AF_UNIX) as sock:
            sock.bind(f"{folder}/s")
        rows.append(Row("sockets", "ok", f"in {tempfile.gettempdir()}"))
    except OSError as error:
        rows.append(
            Row("sockets", "failure", f"none can be made in {tempfile.gettempdir()}: {error}", "set TMPDIR to a short, writable folder")
        )
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < 1 << 30:
        rows.append(Row("disk", "warning", f"{free >> 20} MB free in {tempfile.gettempdir()}", "make room, or set TMPDIR"))
    return rows


def network_card() -> list[Row]:
    """The card that the default route uses, and whether the host's own name leads astray."""
    card = default_card()
    rows = [
        Row("network card", "ok", f"{card[0]}, {card[1]}")
        if card
        else Row("network card", "warning", "there is no default route", "only peers of the same machine or network can be reached")
    ]
    try:
        own = socket.gethostbyname(socket.gethostname())
    except OSError:
        own = ""
    if not own or ipaddress.ip_address(own).is_loopback:
        remedy = f"for torchrun and gloo: export GLOO_SOCKET_IFNAME={card[0]}" if card else "fix /etc/hosts"
        rows.append(Row("host name", "warning", f"{socket.gethostname()} means {own or 'nothing'}; the swarm does not mind", remedy))
    return rows


def default_card() -> tuple[str, str] | None:
    """Name and IPv4 address of the card of the default route; no packet is sent."""
    try:
        with open("/proc/net/route") as table:
            names = [line.split()[0] for line in table if line.split()[1:2] == ["00000000"]]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("192.0.2.1", 9))
            return (names[0], sock.getsockname()[0]) if names else None
    except OSError:
        return None


def ports(options: DaemonOptions) -> list[Row]:
    """Whether the ports to listen on are free."""
    rows = []
    for address in options.listen:
        words = address.split("/")
        if len(words) < 5 or words[3] != "tcp" or words[4] == "0":
            continue
        family = socket.AF_INET6 if words[1] == "ip6" else socket.AF_INET
        try:
            with socket.socket(family) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((words[2], int(words[4])))
            rows.append(Row("port", "ok", f"{words[4]} is free"))
        except (OSError, ValueError) as error:
            rows.append(Row("port", "failure", f"{address}: {error}", "stop what uses it (ss -ltnp), or listen on another port"))
    return rows


def tunnel() -> list[Row]:
    """What the WAN lab of the benchmarks needs; training does not."""
    if os.geteuid() == 0 and os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return [Row("/dev/net/tun", "ok", "the benchmarks' WAN lab can run")]
    return [Row("/dev/net/tun", "warning", "the benchmarks' WAN lab cannot run; training can", "root, and: modprobe tun")]


def library() -> list[Row]:
    """Whether the C++ kernels are there."""
    from thinwire.kernels import native

    if native.available():
        return [Row("C++ library", "ok", f"instruction set {native.isa()} of 2")]
    return [Row("C++ library", "warning", "is missing: compression runs in torch, slower", "install a C++ compiler and reinstall thinwire")]


def codec_self_test() -> list[Row]:
    """Whether this machine computes the same bits as the specification: a member that does not would diverge."""
    import numpy as np
    import torch

    from thinwire.comms.recipes import codec
    from thinwire.kernels import native, reference_chain

    if not native.available():
        return []
    wrong = []
    x = np.random.default_rng(0).standard_normal((4, 4096)).astype(np.float32)
    for name in ("blockmax", "dct-topk"):
        program = codec(name).plan(4, 4096).program
        if program is None:
            continue
        wanted = reference_chain.encode_rows(program, x, None, 1.0)[0]
        got = native.encode(program, [torch.from_numpy(x)]).payload
        if got.numpy().tobytes() != wanted.tobytes():
            wrong.append(name)
    if wrong:
        return [Row("codecs", "failure", f"{', '.join(wrong)} give other bits than the specification", "report this machine's processor")]
    return [Row("codecs", "ok", "give the bits of the specification")]


async def daemon(options: DaemonOptions, peers: Sequence[str] = ()) -> list[Row]:
    """Whether p2pd starts, which addresses it would announce, whether peers answer and what time they have."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="thinwire-doctor-") as folder:
        key = Path(folder) / "key"
        Identity.generate().save(key)
        node = Node(key, initial_peers=peers, options=replace(options, startup_s=min(options.startup_s, 60.0)))
        began = time.monotonic()
        try:
            await node.start()
        except (PeerError, ImportError) as error:
            remedy = "port in use, no free memory, or a processor other than x86-64 / arm64; its last words are above"
            return [Row("p2pd", "failure", f"does not start: {error}", remedy)]
        try:
            rows.append(Row("p2pd", "ok", f"starts in {time.monotonic() - began:.1f} s"))
            rows += reachability(node.addresses(), announced=bool(options.announce))
            for address in peers:
                rows += await peer_check(node, address)
        finally:
            await node.close()
    return rows


def reachability(addresses: Sequence[str], *, announced: bool = False) -> list[Row]:
    """From where the addresses found (multiaddrs) can be reached: a guess at NAT."""
    plain = [address.rpartition("/p2p/")[0] or address for address in addresses]
    kinds = {address: _kind(address) for address in plain}
    rows = [Row("address", "ok", f"{address} ({kind})") for address, kind in kinds.items()]
    found = set(kinds.values())
    if announced or found & {"public", "named"}:
        return rows
    if "odd" in found:
        rows.append(Row("NAT", "warning", "an address that libp2p does not pass on (198.18/15, 100.64/10 and the like)", _BEHIND))
    elif "private" in found:
        rows.append(Row("NAT", "warning", "only private addresses: this machine is behind NAT, or in a local network", _BEHIND))
    else:
        rows.append(Row("NAT", "warning", "nobody outside this machine can reach it", "listen on /ip4/0.0.0.0/tcp/0"))
    return rows


_BEHIND = (
    "members of the same network can join; others only while a peer of the invite that everybody reaches passes their traffic on; "
    "better forward a port and announce it (announce=)"
)


async def peer_check(node: Node, address: str) -> list[Row]:
    """Whether a peer answers, and whether its clock agrees."""
    peer = key_in(address)
    if peer is None:
        return [Row("peer", "failure", f"{address} names no member", "it must end in /p2p/12D3Koo...")]
    before, began = time.time(), time.monotonic()
    try:
        answer = await node.ask(peer, CLOCK, b"", 8)
        took = time.monotonic() - began
        (theirs,) = struct.unpack("<d", answer)
    except (PeerError, struct.error) as error:
        remedy = "is it running, is its port open to you, does it know your key?"
        return [Row("peer", "failure", f"{address} does not answer: {error}", remedy)]
    return [Row("peer", "ok", f"{address} answers in {took * 1e3:.0f} ms"), clock(theirs - (before + took / 2))]


def clock(offset_s: float) -> Row:
    """What a clock that is off does here: nothing but keep a member out of the DHT's board."""
    if abs(offset_s) <= _WRONG_CLOCK_S:
        return Row("clock", "ok", f"{offset_s:+.2f} s from the peer's")
    detail = f"this clock and the peer's are {abs(offset_s):.0f} s apart; records in the DHT are not believed, known peers still find you"
    return Row("clock", "warning", detail, "timedatectl set-ntp true, on the machine that is wrong")


def _kind(address: str) -> str:
    words = address.split("/")
    if len(words) < 3 or words[1] not in ("ip4", "ip6"):
        return "named" if words[1:2] and words[1].startswith("dns") else "relayed" if "p2p-circuit" in address else "odd"
    if "p2p-circuit" in address:
        return "relayed"
    ip = ipaddress.ip_address(words[2])
    if ip.is_loopback:
        return "this machine only"
    odd = ("198.18.0.0/15", "100.64.0.0/10", "169.254.0.0/16")
    if isinstance(ip, ipaddress.IPv4Address) and any(ip in ipaddress.ip_network(net) for net in odd):
        return "odd"
    return "public" if ip.is_global else "private"


def _numbers(text: str) -> tuple[int, ...]:
    words = text.split("+")[0].split(".")[:3]
    return tuple(int("".join(filter(str.isdigit, word)) or 0) for word in words)
