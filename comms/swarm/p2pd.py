"""One libp2p daemon (hivemind's p2pd) as a child that cannot outlive us, and a client for it.

We start it ourselves rather than through hivemind's `P2P.create`, for what that does not give: death with the parent, sockets in a
private folder that goes too, a bootstrap peer that may be away, Ed25519 identities.
"""

import asyncio
import ipaddress
import os
import secrets
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thinwire.comms.swarm import guard
from thinwire.comms.swarm.hive import hive
from thinwire.comms.swarm.identity import key_of, raw_peer_id_of
from thinwire.comms.swarm.transport import Key, PeerError

if TYPE_CHECKING:
    from asyncio.subprocess import Process

STARTUP_S = 60.0
_CLOSE_S = 5.0
_PREFIX = "thinwire-p2p-"
_P2P, _CIRCUIT = 421, 290  # codes of multiaddr
_MAX_ANSWER_NBYTES = 1 << 20  # of p2pd, about itself


@dataclass(frozen=True)
class DaemonOptions:
    """What p2pd is told; addresses are multiaddrs.

    - `listen`: where to take connections; port 0 is any, and stays the same when p2pd is started again.
    - `announce`: what others are told instead of the addresses found here; then `listen` must name the port.
    - `relays`: peers through which to be reached when nobody reaches this machine itself, which libp2p finds out within half a minute by
      having a peer call back; () are the initial peers, None is nobody. Connections through a relay try to become direct ones.
    - `public`: others reach this machine, for certain: it relays for those that nobody reaches without finding out first.
    - `client_mode`: takes no part in routing for others.
    - `port_map`: ask the router (UPnP, NAT-PMP) for a port.
    - `punches`: dial from the port that is listened on, without which no hole can be punched through a home router. Two who then dial each
      other in the same moment take each other for the one who was dialled, fail, and libp2p lets neither try again for five seconds. None
      is only where a hole could be needed (`Node`).
    """

    listen: Sequence[str] = ("/ip4/0.0.0.0/tcp/0",)
    announce: Sequence[str] = ()
    relays: Sequence[str] | None = ()
    public: bool = False
    client_mode: bool = False
    port_map: bool = True
    punches: bool | None = None
    startup_s: float = STARTUP_S

    def __post_init__(self) -> None:
        if self.announce and any(_port_is_open(address) for address in self.listen):
            raise ValueError("announced addresses need a fixed port: say listen=('/ip4/0.0.0.0/tcp/PORT',)")
        if any(_port_is_open(address) for address in self.announce):
            raise ValueError("an announced address needs its port")

    def arguments(self) -> list[str]:
        """The command line of p2pd, without identity and socket."""
        said = {
            "hostAddrs": ",".join(self.listen),
            "announceAddrs": ",".join(self.announce),
            "trustedRelays": ",".join(self.relays or ()),
            "autoRelay": int(bool(self.relays)),
            "relayDiscovery": 0,  # else p2pd asks its DHT for relays, and never those that it was given
            "relay": 1,
            "forceReachabilityPublic": int(self.public),
            "natPortMap": int(self.port_map),
            "autonat": 1,
            "connManager": 1,
            "tls": 1,
            "idleTimeout": "90s",
            "dhtClient" if self.client_mode else "dhtServer": 1,
            "noListenAddrs": int(not self.listen),
        }
        return [f"-{name}={value}" for name, value in said.items() if value != ""]

    def environment(self) -> dict[str, str]:
        """What p2pd is told besides."""
        return {
            "GOLOG_LOG_LEVEL": os.environ.get("GOLOG_LOG_LEVEL", "error"),
            "LIBP2P_TCP_REUSEPORT": "false" if self.punches is False else os.environ.get("LIBP2P_TCP_REUSEPORT", "true"),
        }

    def with_ports_of(self, found: Sequence[str]) -> "DaemonOptions":
        """The same, with the ports that p2pd chose."""
        ports = {address.split("/")[1]: address.split("/")[4] for address in found if address.count("/") >= 4 and "/tcp/" in address}
        listen = [
            address.replace("/tcp/0", f"/tcp/{ports[family]}", 1) if _port_is_open(address) and family in ports else address
            for address, family in ((address, address.split("/")[1]) for address in self.listen)
        ]
        return replace(self, listen=tuple(listen))


def _port_is_open(address: str) -> bool:
    return "/tcp/0/" in f"{address}/"


class Daemon:
    """A running p2pd. `ended` ends when it has died, whyever; then `close` it and start another."""

    def __init__(self, process: "Process", folder: str) -> None:
        self.folder = folder
        self.p2p: Any = None  # hivemind's P2P
        self._process = process
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._said: deque[str] = deque(maxlen=20)
        self._closing: asyncio.Task[None] | None = None
        self.ended = asyncio.ensure_future(self._watch())

    @classmethod
    async def start(cls, identity_file: str | Path, options: DaemonOptions) -> "Daemon":
        """Start p2pd and connect to it; raises `PeerError` with what it said when it does not come up in time."""
        library = hive()
        guard.sweep(_sockets(), _PREFIX)
        folder = os.path.join(_sockets(), f"{_PREFIX}{secrets.token_hex(8)}")
        socket = f"{folder}/p2pd.sock"
        command = [str(library.p2pd), f"-id={identity_file}", f"-listen=/unix{socket}", *options.arguments()]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), folder, *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C at the terminal is for us: we close p2pd in our own time
            env={**os.environ, **options.environment()},
        )  # fmt: skip
        self = cls(process, folder)
        try:
            await asyncio.wait([self._ready, self.ended], timeout=options.startup_s, return_when=asyncio.FIRST_COMPLETED)
            if not self._ready.done():
                raise PeerError("p2pd did not start", self.last_words() or f"no sign of life in {options.startup_s:.0f} s")
            await self._attach(socket)
        except BaseException:
            await self.close()
            raise
        return self

    async def _attach(self, socket: str) -> None:
        here: Any = type("P2P", (hive().P2P,), {"_UNIX_SOCKET_PREFIX": f"/unix{self.folder}/"})
        self.p2p = await here.replicate(hive().Multiaddr(f"/unix{socket}"))

    async def addresses(self) -> list[str]:
        """Where it can be reached, as it sees that now: multiaddrs without /p2p."""
        _, found = await self.p2p._client.control.identify()
        return [str(address) for address in found]

    async def dial(self, raw_peer_id: bytes, addresses: Sequence[str]) -> None:
        """Make a connection, unless there is one; raises `PeerError`."""
        pb = hive().messages
        try:
            binary_addresses = [binary(address) for address in addresses]
        except Exception as error:  # a multiaddr raises a dozen types
            raise PeerError("bad address", str(error)) from error
        request = pb.Request(type=pb.Request.CONNECT, connect=pb.ConnectRequest(peer=raw_peer_id, addrs=binary_addresses))
        _, writer = await self._call(request)
        writer.close()

    async def open(self, raw_peer_id: bytes, protocol: str) -> "tuple[asyncio.StreamReader, asyncio.StreamWriter]":
        """A stream to a peer; raises `PeerError`."""
        pb = hive().messages
        wish = pb.StreamOpenRequest(peer=raw_peer_id, proto=[protocol])
        return await self._call(pb.Request(type=pb.Request.STREAM_OPEN, streamOpen=wish))

    async def _call(self, request: Any) -> "tuple[asyncio.StreamReader, asyncio.StreamWriter]":
        """Ask p2pd for something over a connection of its own, which then is what was asked for."""
        pb = hive().messages
        writer = None
        try:
            reader, writer = await asyncio.open_unix_connection(f"{self.folder}/p2pd.sock", limit=1 << 20)
            body = request.SerializeToString()
            writer.write(_varint(len(body)) + body)
            response = pb.Response()
            response.ParseFromString(await _read_prefixed(reader))
            if response.type == pb.Response.ERROR:
                raise PeerError("unreachable", response.error.msg)
        except (OSError, EOFError) as error:
            _close(writer)
            raise PeerError("p2pd is gone", str(error)) from error
        except BaseException:
            _close(writer)
            raise
        return reader, writer

    @property
    def guard_pid(self) -> int:
        return self._process.pid

    def last_words(self) -> str:
        """What p2pd printed last."""
        return " | ".join(self._said)

    async def close(self) -> None:
        """Kill it and remove its sockets; returns when both are gone. Goes on to the end where nobody waits for it any more."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self.p2p is not None:
            self.p2p._terminate()
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            await asyncio.wait_for(asyncio.shield(self._process.wait()), _CLOSE_S)
        except asyncio.TimeoutError:
            self._process.kill()  # the guard; the kernel then kills p2pd
            await self._process.wait()
        await self.ended
        shutil.rmtree(self.folder, ignore_errors=True)

    async def _watch(self) -> None:
        """Read what p2pd prints until it is dead: a full pipe would stop it."""
        assert self._process.stdout is not None
        rest = b""
        while data := await self._process.stdout.read(4096):
            *lines, rest = (rest + data).split(b"\n")
            rest = rest[-4096:]
            for line in lines:
                self._said.append(line.decode(errors="replace"))
                if line.startswith(b"Peer ID:") and not self._ready.done():
                    self._ready.set_result(None)
        self._said.append(rest.decode(errors="replace"))


def binary(address: str) -> bytes:
    """A multiaddr without whom it leads to, as p2pd reads it: ADDRESS[/p2p/ID] or ADDRESS/p2p/RELAY/p2p-circuit[/p2p/ID].

    hivemind would write a relay's id as a CID, which libp2p refuses. Raises `ValueError`.
    """
    way, relayed, _ = address.partition("/p2p-circuit")
    place, *ids = way.removesuffix("/").split("/p2p/")
    told = bytes(hive().Multiaddr(place).to_bytes())
    if not relayed and len(ids) < 2:
        return told
    relay = key_of(ids[0]) if len(ids) == 1 else None
    if relay is None:
        raise ValueError(f"{address} is no way through a relay: it must read ADDRESS/p2p/RELAY/p2p-circuit")
    raw = raw_peer_id_of(relay)
    return told + _varint(_P2P) + _varint(len(raw)) + raw + _varint(_CIRCUIT)


def can_relay(address: str) -> bool:
    """Whether p2pd would take it for a relay's: it does not start with one that it cannot read."""
    try:
        binary(address)
    except Exception:  # a multiaddr raises a dozen types
        return False
    return key_in(address) is not None and "/p2p-circuit" not in address


def is_public(address: str) -> bool:
    """Whether a multiaddr is one of the internet."""
    kind, _, rest = address.removeprefix("/").partition("/")
    if kind not in ("ip4", "ip6"):
        return kind.startswith("dns")
    try:
        return ipaddress.ip_address(rest.partition("/")[0]).is_global
    except ValueError:
        return False


def key_in(address: str) -> Key | None:
    """The member that a multiaddr ends in."""
    _, found, peer_id = address.rpartition("/p2p/")
    return key_of(peer_id) if found else None


def _sockets() -> str:
    """A folder for sockets: their names may have 107 bytes."""
    folder = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    return folder if len(folder) < 48 and os.access(folder, os.W_OK) else "/tmp"


def _close(writer: "asyncio.StreamWriter | None") -> None:
    if writer is not None:
        writer.close()


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


async def _read_prefixed(reader: asyncio.StreamReader) -> bytes:
    """A protobuf with its length, from p2pd."""
    nbytes, shift = 0, 0
    while True:
        (byte,) = await reader.readexactly(1)
        nbytes |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if nbytes > _MAX_ANSWER_NBYTES:
        raise EOFError(f"p2pd sent a message of {nbytes} bytes")
    return await reader.readexactly(nbytes)
