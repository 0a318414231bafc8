"""Nodes over libp2p on loopback: messages, blobs, questions, the board, and what is left when things die."""

import asyncio
import fcntl
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.comms.swarm.world import LOOPBACK, Diary, World, p2pd_pid
from thinwire.comms.swarm import guard
from thinwire.comms.swarm.blobs import Blob
from thinwire.comms.swarm.identity import Identity, raw_peer_id_of
from thinwire.comms.swarm.node import Node
from thinwire.comms.swarm.p2pd import DaemonOptions, binary, can_relay
from thinwire.comms.swarm.transport import PeerError


@pytest.fixture(scope="module")
def pair(world: World) -> tuple[Node, Node]:
    a, b = world.node(), world.node()

    async def start() -> None:
        await a.start()
        b.initial_peers = a.addresses()
        await b.start()

    world.run(start())
    return a, b


async def up(a: Node, b: Node) -> tuple[Diary, Diary]:
    """Both see each other up; fresh diaries."""
    diaries = Diary(a), Diary(b)
    for node, other, diary in ((a, b, diaries[0]), (b, a, diaries[1])):
        node.connect(other.key, other.addresses())
        if not node.is_up(other.key):
            await diary.until("up", other.key)
        diary.lines.clear()
    return diaries


def test_messages_in_order_both_ways(world: World, pair: tuple[Node, Node]) -> None:
    async def scene() -> None:
        a, b = pair
        first, second = await up(a, b)
        for i in range(1000):
            a.send(b.key, b"%d" % i)
            b.send(a.key, bytes(i))
        await second.until(a.key, b"999")
        await first.until(b.key, bytes(999))
        assert (a.process(b.key), b.process(a.key), a.process(bytes(32))) == (b.nonce, a.nonce, None)
        assert [line[1] for line in second.lines if line[0] == a.key] == [b"%d" % i for i in range(1000)]
        assert [line[1] for line in first.lines if line[0] == b.key] == [bytes(i) for i in range(1000)]
        a.send(b.key, bytes(64 << 10))
        await second.until(a.key, bytes(64 << 10))
        with pytest.raises(ValueError, match="65537"):
            a.send(b.key, bytes(65537))

    world.run(scene())


@pytest.mark.parametrize("nbytes", [0, 1, 512 << 10, (512 << 10) + 1, 9_000_000])
@pytest.mark.parametrize("filled", [os.urandom, bytes])
def test_blobs_are_pushed_and_fetched(world: World, pair: tuple[Node, Node], nbytes: int, filled: Callable[[int], bytes]) -> None:
    async def scene() -> None:
        a, b = pair
        blob = Blob.of(filled(nbytes))
        arrived: list[tuple[bytes, bytes, bytes]] = []
        b.accept_blob = lambda peer, digest, size: (peer, digest, size) == (a.key, blob.digest, nbytes)
        b.on_blob = lambda peer, digest, data: arrived.append((peer, digest, data))
        await a.push(b.key, blob)
        assert arrived == [(a.key, blob.digest, blob.data)]
        await a.push(b.key, blob)  # it has it
        assert len(arrived) == 1
        into = bytearray(nbytes)
        assert await a.fetch(blob.digest, nbytes, [b.key], memoryview(into)) == b""
        assert bytes(into) == blob.data
        assert a.traffic.saved_nbytes == 0 or filled is bytes
        b.blobs.drop(blob.digest)
        with pytest.raises(PeerError, match="does not hold it"):
            await a.fetch(blob.digest, max(nbytes, 1), [b.key])
        b.accept_blob = lambda *_: False
        with pytest.raises(PeerError, match="refused"):
            await a.push(b.key, blob)

    world.run(scene())


def test_questions(world: World, pair: tuple[Node, Node]) -> None:
    async def scene() -> None:
        a, b = pair

        async def double(peer: bytes, request: bytes) -> bytes:
            if peer != a.key:
                raise PeerError("refused", "lr differs")
            return request * 2

        a.serve["double"] = b.serve["double"] = double
        assert await a.ask(b.key, "double", b"12") == b"1212"
        assert await a.ask(b.key, "double", bytes(60_000), 120_000) == bytes(120_000)
        with pytest.raises(PeerError, match="too large"):
            await a.ask(b.key, "double", b"12", 3)
        with pytest.raises(PeerError, match="lr differs"):
            await b.ask(a.key, "double", b"")
        with pytest.raises(PeerError, match="no such question"):
            await a.ask(b.key, "what", b"")

    world.run(scene())


def test_the_board(world: World, pair: tuple[Node, Node]) -> None:
    async def scene() -> None:
        a, b = pair
        await a.announce("run", b"a")
        await b.announce("run", b"b")
        await b.announce("run", b"b again")
        for node in pair:
            assert await node.lookup("run") == {a.key: b"a", b.key: b"b again"}
            found = await node._board.get("run")
            assert {key: record.body for key, record in found.items()} == {a.key: b"a", b.key: b"b again"}
            assert await node.lookup("another run") == {}

    world.run(scene())


def test_a_killed_p2pd_comes_back_under_the_same_name_and_port(world: World, pair: tuple[Node, Node]) -> None:
    async def scene() -> None:
        a, b = pair
        first, second = await up(a, b)
        before, restarts = b.addresses(), b.restarts
        assert b._daemon is not None
        os.kill(p2pd_pid(b._daemon), signal.SIGKILL)
        killed = asyncio.get_running_loop().time()
        await first.until("down", b.key)
        assert asyncio.get_running_loop().time() - killed < 1  # typically 0.01 s
        await first.until("up", b.key)
        await second.until("up", a.key)
        assert (b.addresses(), b.restarts) == (before, restarts + 1)
        a.send(b.key, b"again")
        await second.until(a.key, b"again")
        await b.announce("run", b"b lives")
        assert (await a.lookup("run"))[b.key] == b"b lives"

    world.run(scene())


def test_strangers_are_not_served(world: World, pair: tuple[Node, Node]) -> None:
    async def scene() -> None:
        a, b = pair
        b.disconnect(a.key)
        b.admit = lambda peer: peer != a.key
        before = b.refused["stranger"]
        with pytest.raises(PeerError):
            await a.ask(b.key, "double", b"")
        assert b.refused["stranger"] > before
        b.admit = lambda peer: True

    world.run(scene())


def test_nobody_there(world: World, pair: tuple[Node, Node]) -> None:
    async def scene() -> None:
        a, _ = pair
        nobody = Identity.generate()
        diary = Diary(a)
        a.connect(nobody.key, [f"/ip4/127.0.0.1/tcp/9/p2p/{nobody.peer_id}"])
        await diary.until("down", nobody.key)
        a.send(nobody.key, b"into the queue")
        a.disconnect(nobody.key)
        a.connect(nobody.key, ["nonsense"])
        await diary.until("down", nobody.key, times=2)
        a.disconnect(nobody.key)

    world.run(scene())


def port_of(node: Node) -> int:
    return int(node.addresses()[0].split("/")[4])


def dialled_from(port: int) -> set[int]:
    """Ports of this machine that a connection to `port` comes from."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ends = [tuple(int(end.split(":")[1], 16) for end in row[1:3]) for row in rows if row[3] == "01"]
    return {near for near, far in ends if far == port}


@pytest.mark.parametrize("punches", [False, True])
def test_two_never_dial_each_other_from_where_they_listen_unless_holes_are_punched(world: World, punches: bool) -> None:
    async def scene() -> None:
        a, b = (world.node(options=replace(LOOPBACK, punches=punches)) for _ in range(2))
        await asyncio.gather(a.start(), b.start())
        await up(a, b)
        crossing = port_of(a) in dialled_from(port_of(b)) or port_of(b) in dialled_from(port_of(a))
        assert crossing == punches  # then a connection that both begin at once is one that neither can use
        await asyncio.gather(a.close(), b.close())

    world.run(scene())


def test_holes_are_punched_where_peers_are_on_the_internet_and_this_node_is_not() -> None:
    def punches(address: str, **options: Any) -> bool | None:
        peer = f"/ip4/{address}/tcp/4001/p2p/{Identity.generate().peer_id}"
        return Node(Identity.generate(), initial_peers=[peer], options=DaemonOptions(**options))._options.punches

    assert punches("8.8.8.8")
    assert not punches("10.1.2.3")
    assert not punches("8.8.8.8", public=True)
    assert not punches("8.8.8.8", listen=("/ip4/0.0.0.0/tcp/31337",), announce=("/ip4/1.2.3.4/tcp/31337",))
    assert punches("8.8.8.8", listen=("/ip4/0.0.0.0/tcp/31337",), announce=("/ip4/10.2.3.4/tcp/31337",))
    assert punches("10.1.2.3", relays=(f"/ip4/8.8.8.8/tcp/4001/p2p/{Identity.generate().peer_id}",))
    assert punches("10.1.2.3", punches=True)
    assert not Node(Identity.generate())._options.punches


def test_a_port_must_be_named_where_addresses_are_announced() -> None:
    with pytest.raises(ValueError, match="fixed port"):
        DaemonOptions(announce=("/ip4/1.2.3.4/tcp/31337",))
    with pytest.raises(ValueError, match="needs its port"):
        DaemonOptions(listen=("/ip4/0.0.0.0/tcp/31337",), announce=("/ip4/1.2.3.4/tcp/0",))


def test_a_way_through_a_relay_is_told_as_libp2p_reads_it() -> None:
    relay, target = Identity.generate(), Identity.generate()
    way = f"/ip4/203.0.113.9/tcp/4001/p2p/{relay.peer_id}/p2p-circuit/p2p/{target.peer_id}"
    assert binary(way) == b"\x04\xcb\x00\x71\x09\x06\x0f\xa1" + b"\xa5\x03\x26" + raw_peer_id_of(relay.key) + b"\xa2\x02"
    assert binary(f"/ip4/203.0.113.9/tcp/4001/p2p/{target.peer_id}") == b"\x04\xcb\x00\x71\x09\x06\x0f\xa1"
    for odd in (f"/ip4/203.0.113.9/tcp/4001/p2p/{relay.peer_id}/p2p/{target.peer_id}", "/ip4/203.0.113.9/tcp/4001/p2p/me/p2p-circuit"):
        with pytest.raises(ValueError, match="no way through a relay"):
            binary(odd)
        assert not can_relay(odd)
    assert can_relay(f"/dns4/example.org/tcp/4001/p2p/{relay.peer_id}")
    assert not any(map(can_relay, ("nonsense", f"nonsense/p2p/{relay.peer_id}", "/ip4/203.0.113.9/tcp/4001", way)))


def test_what_a_killed_guard_left_is_swept_away(tmp_path: Path) -> None:
    for name in ("p2p-dead", "p2p-alive", "p2p-made", "other"):
        (tmp_path / name).mkdir()
    for name in ("p2p-dead", "p2p-alive", "other"):
        (tmp_path / name / "lock").touch()
    with open(tmp_path / "p2p-alive" / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        guard.sweep(str(tmp_path), "p2p-")
    assert sorted(os.listdir(tmp_path)) == ["other", "p2p-alive", "p2p-made"]


CHILD = """
import asyncio, os, signal, sys
from thinwire.comms.swarm.node import Node
from tests.comms.swarm.world import LOOPBACK, p2pd_pid
from thinwire.comms.swarm import p2pd

def tell(daemon, worker):
    print(daemon.folder, daemon.guard_pid, p2pd_pid(daemon), worker, flush=True)

async def main():
    node = Node(sys.argv[1], options=LOOPBACK)
    if sys.argv[2] == "start-up":
        async def die(daemon, socket):
            tell(daemon, 0)
            os.kill(os.getpid(), signal.SIGKILL)
        p2pd.Daemon._attach = die
    await node.start()
    worker = os.fork() or signal.pause()  # as of a data loader, with all our file descriptors
    tell(node._daemon, worker)
    await asyncio.sleep(1000)

asyncio.run(main())
"""


@pytest.mark.parametrize("when", ["start-up", "later"])
def test_nothing_is_left_of_a_killed_parent(tmp_path: Path, when: str) -> None:
    Identity.generate().save(tmp_path / "key")
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path / "key"), when], stdout=subprocess.PIPE, env=env)
    assert child.stdout is not None
    words = child.stdout.readline().split()
    folder, guardian, p2pd, worker = words[0], *map(int, words[1:])
    try:
        ends = [os.pidfd_open(pid) for pid in (guardian, p2pd) if Path(f"/proc/{pid}").exists()]
        assert len(ends) == 2 or when == "start-up"
        child.kill()
        child.wait(10)
        for end in ends:
            assert select.select([end], [], [], 5)[0], "it lives on"
            os.close(end)
        assert not os.path.exists(folder)
    finally:
        if worker:
            os.kill(worker, signal.SIGKILL)
        child.stdout.close()
