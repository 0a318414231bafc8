"""Of whom a payload is asked, and what the machine is told of links."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from thinwire.comms.swarm.driver import Driver
from thinwire.comms.swarm.effects import Want
from thinwire.comms.swarm.view import Slot

GONE, LINKED, HEARD = b"g" * 32, b"l" * 32, b"h" * 32


@pytest.mark.parametrize(
    ("up", "heard", "asked"),
    [
        ((LINKED, HEARD), (HEARD,), [HEARD]),
        ((LINKED, HEARD), (), [LINKED, HEARD]),
        ((), (), [GONE, LINKED, HEARD]),
    ],
    ids=["who is heard", "before anybody is heard, who has a link", "else everybody"],
)
def test_a_payload_is_asked_of_those_that_are_there(up: Sequence[bytes], heard: Sequence[bytes], asked: list[bytes]) -> None:
    told: list[list[bytes]] = []
    driver: Any = Driver.__new__(Driver)
    driver.machine = SimpleNamespace(others=(GONE, LINKED, HEARD))
    driver.transport = SimpleNamespace(is_up=lambda key: key in up)
    driver._ways = SimpleNamespace(hears=lambda key, now: key in heard)
    driver._now = lambda: 0.0
    driver._fetches = {}
    driver._fetch = lambda want, holders, fetch: told.append(list(holders))
    driver._spawn = lambda work: work
    driver._want(Want(Slot(3), GONE, b"d" * 32, 10, (GONE,)))
    assert told == [asked]


def test_the_machine_is_told_to_which_process_a_link_goes_and_that_a_way_around_does_not_tell() -> None:
    told: list[tuple[Any, ...]] = []
    driver: Any = Driver.__new__(Driver)
    driver.machine = SimpleNamespace(up=lambda key, now, *, process: told.append((key, process)) or ())
    driver.transport = SimpleNamespace(process=lambda key: b"process" + key[:1])
    driver._ways = SimpleNamespace(heard=lambda key, now: None)
    driver._now = lambda: 0.0
    driver._do = lambda effects: None
    driver._up(LINKED)
    driver._turned(HEARD, True)
    assert told == [(LINKED, b"processl"), (HEARD, None)]
