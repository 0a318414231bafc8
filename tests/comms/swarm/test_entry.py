"""Coming in: one member that lies keeps nobody out, and where members were is known the next day."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import thinwire
from tests.comms.swarm.test_group import Member, Swarm, check
from tests.comms.swarm.test_group import swarm as swarm  # a fixture
from thinwire.comms.swarm import board
from thinwire.comms.swarm.addressbook import AddressBook
from thinwire.comms.swarm.group import SwarmGroup
from thinwire.comms.swarm.history import read
from thinwire.comms.swarm.memory import Network
from thinwire.comms.swarm.offers import KEPT


def test_one_member_that_refuses_everybody_keeps_nobody_out(swarm: Swarm) -> None:
    swarm.gather(3)
    liar = swarm.members[1].group._doorkeeper
    assert liar is not None
    liar._hash = b"another"
    swarm.add()
    swarm.members[0].rounds(3, counted=4)
    swarm.stop()
    check(swarm)


def test_what_members_report_is_what_their_transports_have_counted(swarm: Swarm) -> None:
    first = swarm.add()
    first.rounds(2)
    other = swarm.add()
    first.rounds(3, counted=2)
    swarm.network.cut(first.key, other.key)
    first.rounds(2, counted=1)
    swarm.network.join(first.key, other.key)
    first.rounds(3, counted=2)
    swarm.stop()
    applied = [event for event in read(swarm.folder) if event.kind == "apply"]
    assert all(event.sent and event.sent_counted for event in applied if len(event.counted) > 1)
    check(swarm)


def test_who_is_named_is_asked_while_the_board_is_silent(swarm: Swarm) -> None:
    first, other = swarm.add(), swarm.add()
    first.rounds(2, counted=2)
    newcomer = Member(swarm, first=False)
    newcomer.group._board._named = {first.key: (), other.key: ()}

    async def never(run: str) -> dict[bytes, bytes]:
        return await asyncio.Event().wait() or {}

    newcomer.group._transport.lookup = never
    swarm.members.append(newcomer)
    newcomer.future = swarm.pool.submit(newcomer.train)
    first.rounds(3, counted=3)
    swarm.stop()
    check(swarm)


def test_a_newcomer_on_a_slow_link_gets_the_state_that_it_has_begun_to_take(swarm: Swarm) -> None:
    first = swarm.add()
    swarm.add()
    first.rounds(2, counted=2)
    slow = Member(swarm, first=False)
    transport, fetched = slow.group._transport, list[bytes]()
    fetch = transport.fetch

    async def fetch_slowly(digest: bytes, *others: Any) -> bytes:
        if slow.group._driver is None:  # payloads come at once, afterwards
            fetched.append(digest)
            await asyncio.to_thread(first.rounds, 2 * KEPT)  # by then it would be forgotten
        return await fetch(digest, *others)

    transport.fetch = fetch_slowly
    swarm.members.append(slow)
    slow.future = swarm.pool.submit(slow.train)
    slow.rounds(2, counted=3)
    assert len(fetched) == len(set(fetched)) >= 2  # once
    swarm.stop()
    check(swarm)


def trains(group: SwarmGroup, stop: threading.Event, together: threading.Event, members: int) -> None:
    def hear(info: thinwire.RoundInfo) -> None:
        if len(info.members) >= members:
            together.set()

    net = torch.nn.Linear(4, 4)
    opt = thinwire.DiLoCo(torch.optim.SGD(net.parameters(), lr=0.01), group=group, sync_every=2, on_round=hear)
    while not stop.wait(0.02):
        opt.zero_grad()
        net(torch.ones(1, 4)).square().mean().backward()
        opt.step()
    group.leave()


def test_a_run_is_found_when_the_peer_it_was_joined_through_is_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(board, "RECALL_S", 0.1)
    started: list[tuple[threading.Event, threading.Thread]] = []

    def add(peers: Any) -> SwarmGroup:
        group = SwarmGroup("run", peers, listen=("/ip4/127.0.0.1/tcp/0",))
        stop, together = threading.Event(), threading.Event()
        thread = threading.Thread(target=trains, args=(group, stop, together, 1 if peers is None else 2))
        thread.start()
        started.append((stop, thread))
        assert together.wait(30)
        return group

    def end(stop: threading.Event, thread: threading.Thread) -> None:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()

    try:
        named = add(None).addresses()[:1]
        add(named)
        assert len(AddressBook().recall("run")) == 2
        end(*started[0])
        add(named)
    finally:
        for each in started:
            end(*each)


def test_an_empty_list_of_peers_is_refused() -> None:
    with pytest.raises(ValueError, match="initial_peers is empty: give the address of a member"):
        SwarmGroup("run", [])


def test_without_a_history_no_round_is_kept_for_it() -> None:
    group = SwarmGroup("run", None, transport=lambda identity: Network().node(identity.key))
    net = torch.nn.Linear(4, 4)
    opt = thinwire.DiLoCo(torch.optim.SGD(net.parameters(), lr=0.01), group=group, sync_every=1)
    for _ in range(5):
        net(torch.ones(1, 4)).sum().backward()
        opt.step()
    opt.close()
    assert opt.round == 5
    assert not group._rounds


def test_the_board_is_heard_when_it_answers_late_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "SLOW_S", 0.05)
    monkeypatch.setattr(board, "LOOK_S", 0.0)
    somebody = {b"k" * 32: board.Notice(True, ())}

    async def scene() -> None:
        searches: list[asyncio.Future[dict[bytes, board.Notice]]] = []

        async def announced() -> dict[bytes, board.Notice]:
            searches.append(asyncio.get_running_loop().create_future())
            return await searches[-1]

        looking = board._Looking(announced)
        assert not await looking.look()
        assert not await looking.look()
        assert looking.asked is None
        searches[0].set_result(somebody)
        assert await looking.look()
        assert looking.notices == somebody
        first = looking.asked
        assert first is not None
        assert looking.since(first - 1)
        assert not looking.since(first)
        assert not await looking.look()  # the next search
        await looking.again()
        assert not await looking.look()
        assert [search.cancelled() for search in searches] == [False, True, False]
        assert looking.notices == somebody
        searches[2].set_exception(RuntimeError("of the transport"))
        with pytest.raises(RuntimeError, match="of the transport"):
            await looking.look()
        await looking.close()

    asyncio.run(asyncio.wait_for(scene(), 30))


def test_of_those_who_seek_each_other_the_lowest_key_goes_on_and_only_where_nobody_is_a_member(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(board.time, "monotonic", lambda: now[0])
    low, high = bytes(32), b"\xff" * 32

    def goes_on(key: bytes, seen: list[frozenset[bytes] | None]) -> list[bool]:
        circle = board._Circle(key)
        told = []
        for seekers in seen:
            now[0] += 1.0
            told.append(circle.closed(seekers))
        return told

    others = frozenset({b"\x80" * 32})
    assert goes_on(low, [others] * 5) == [False] * 4 + [True]
    assert not any(goes_on(high, [others] * 20))
    assert not any(goes_on(low, [others, others, None] * 7))  # now and then somebody may be a member
    assert goes_on(low, [frozenset()] * 8) == [False] * 7 + [True]
