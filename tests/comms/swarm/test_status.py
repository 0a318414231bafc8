"""What a member says of itself is checked like everything that a peer sends."""

import random
from typing import Any

import msgspec
import pytest

from thinwire.comms.swarm.status import MAX_NBYTES, Status, decode, encode

SOUND = Status(
    round=8, applied=7, epoch="ab" * 8, members=4, loss=2.5, sent=10**9, received=3, rejected=1, uptime_s=60,
    reasons={"late": 1}, skipped={"in another lineage": 2}, hashes={50: "ab" * 8}, absent={"cd" * 8: "down"}, payload=9, counted=3,
    state="syncing", entering_s=1.5, member_s=58.2,
)  # fmt: skip


def test_a_status_arrives_as_it_was() -> None:
    assert decode(encode(SOUND)) == SOUND
    assert decode(encode(Status(round=0, applied=0))).loss is None
    assert len(encode(SOUND)) < 384


@pytest.mark.parametrize(
    "told",
    [
        {"round": -1, "applied": 0},
        {"round": 1 << 63, "applied": 0},
        {"round": 1.5, "applied": 0},
        {"round": 1},
        {"round": 1, "applied": 0, "state": "x" * 65},
        {"round": 1, "applied": 0, "state": "\x1b[2J"},
        {"round": 1, "applied": 0, "state": "[red]"},
        {"round": 1, "applied": 0, "uptime_s": float("inf")},
        {"round": 1, "applied": 0, "entering_s": float("nan")},
        {"round": 1, "applied": 0, "member_s": float("inf")},
        {"round": 1, "applied": 0, "member_s": -0.1},
        {"round": 1, "applied": 0, "reasons": {"\x1b[2J": 1}},
        {"round": 1, "applied": 0, "reasons": {"late\n": 1}},
        {"round": 1, "applied": 0, "reasons": {"late": -1}},
        {"round": 1, "applied": 0, "skipped": {str(i): 1 for i in range(9)}},
        {"round": 1, "applied": 0, "hashes": {-1: "ab" * 8}},
        {"round": 1, "applied": 0, "hashes": {1: "AB" * 8}},
        {"round": 1, "applied": 0, "hashes": {i: "ab" * 8 for i in range(9)}},
        {"round": 1, "applied": 0, "absent": {"<b>": "down"}},
        {"round": 1, "applied": 0, "absent": {f"{i:016x}": "down" for i in range(33)}},
        {"round": 1, "applied": 0, "colour": "red"},
        {"round": 1, "applied": 0, "loss": "low"},
        [1, 2],
        None,
    ],
)
def test_what_is_no_status_is_refused(told: Any) -> None:
    with pytest.raises(ValueError, match="no status"):
        decode(msgspec.msgpack.encode(told))


def test_too_much_is_refused_before_it_is_read() -> None:
    with pytest.raises(ValueError, match="at most 4096"):
        decode(b"\x81" * (MAX_NBYTES + 1))


def test_any_bytes_are_a_status_or_a_value_error() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        blob = bytearray(encode(SOUND))
        for _change in range(rng.randint(1, 4)):
            blob[rng.randrange(len(blob))] = rng.randrange(256)
        try:
            decode(bytes(blob[: rng.randint(0, len(blob))]))
        except ValueError:
            continue
    with pytest.raises(ValueError, match="no status"):
        decode(b"\x91" * 4000)  # nested
