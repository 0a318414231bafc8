"""Envelopes: what is changed, replayed, or from somewhere else is refused with its reason, in bounded memory."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.comms.swarm import envelope
from thinwire.comms.swarm.envelope import MAX_BODY_NBYTES, OVERHEAD_NBYTES, EnvelopeError, Envelopes, Place
from thinwire.comms.swarm.identity import Identity

A, B, C = (Identity.from_seed(bytes([i]) * 32) for i in range(3))
PLACE = Place(plan=2**63 + 5, epoch=bytes(range(16)), round=2**40, fragment=7)


def pair(**options: object) -> tuple[Envelopes, Envelopes]:
    return Envelopes(A, "run", trust="lan", **options), Envelopes(B, "run", trust="lan", **options)  # type: ignore[arg-type]


def reason(receiver: Envelopes, frame: bytes, peer: bytes | None = A.key) -> str:
    before = sum(receiver.refused.values())
    with pytest.raises(EnvelopeError) as caught:
        receiver.open(frame, peer)
    assert sum(receiver.refused.values()) == before + 1
    assert receiver.refused[caught.value.reason] >= 1
    return caught.value.reason


def test_what_was_sealed_comes_out() -> None:
    a, b = pair()
    for body in (b"", b"x", bytes(MAX_BODY_NBYTES)):
        frame = a.seal(body, PLACE)
        assert len(frame) == len(body) + OVERHEAD_NBYTES
        letter = b.open(frame, A.key)
        assert (letter.sender, letter.nonce, letter.place, letter.body) == (A.key, a.nonce, PLACE, body)
    assert letter.counter == 3
    with pytest.raises(ValueError, match="above"):
        a.seal(bytes(MAX_BODY_NBYTES + 1))


def test_any_changed_byte_is_noticed() -> None:
    a, b = pair()
    frame = a.seal(b"body", PLACE)
    for at in range(len(frame)):
        changed = frame[:at] + bytes([frame[at] ^ 0x10]) + frame[at + 1 :]
        assert reason(b, changed) in {"malformed", "wrong run", "wrong sender", "bad signature"}
    assert b.open(frame, A.key).body == b"body"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_garbage_is_malformed(frame: bytes) -> None:
    _, b = pair()
    assert reason(b, frame) == "malformed"
    assert reason(b, a_frame()[:4] + frame) in {"malformed", "wrong run"}


def a_frame() -> bytes:
    return pair()[0].seal(b"")


def test_too_large_or_too_small() -> None:
    _, b = pair()
    assert reason(b, bytes(1 << 20)) == "malformed"
    assert reason(b, a_frame()[: OVERHEAD_NBYTES - 1]) == "malformed"


def test_other_run_sender_plan() -> None:
    a, b = pair()
    assert reason(b, Envelopes(A, "another run", trust="lan").seal(b"")) == "wrong run"
    assert reason(b, a.seal(b""), C.key) == "wrong sender"
    assert b.open(a.seal(b"relayed"), None).sender == A.key
    b.plan = 1
    assert reason(b, a.seal(b"", replace(PLACE, plan=2))) == "wrong plan"
    assert b.open(a.seal(b"", replace(PLACE, plan=1)), A.key).place.plan == 1


def test_a_federation_takes_only_keys_on_the_list() -> None:
    b = Envelopes(B, "run", trust="federation", allow=[A.key])
    assert b.open(Envelopes(A, "run").seal(b"in"), A.key).body == b"in"
    assert reason(b, Envelopes(C, "run").seal(b"out"), C.key) == "not allowed"
    with pytest.raises(ValueError, match="lan, federation, open"):
        Envelopes(A, "run", trust="everybody")  # type: ignore[arg-type]


def test_each_is_read_once_in_any_order() -> None:
    a, b = pair()
    frames = [a.seal(b"%d" % i) for i in range(1000)]
    random.Random(1).shuffle(frames)
    assert {b.open(frame, A.key).body for frame in frames} == {b"%d" % i for i in range(1000)}
    for frame in frames[::50]:
        assert reason(b, frame) == "replayed"


def test_what_comes_very_late_counts_as_replayed() -> None:
    a, b = pair()
    frames = [a.seal(b"") for _ in range(1026)]
    b.open(frames[-1], A.key)
    assert reason(b, frames[0]) == "replayed"
    assert reason(b, frames[1]) == "replayed"
    b.open(frames[2], A.key)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 3000) | st.integers(2**64 - 3000, 2**64 - 1), max_size=60))
def test_the_window_against_a_set(counters: list[int]) -> None:
    window, seen, highest = envelope._Window(), set[int](), 0
    for counter in counters:
        new = counter > 0 and counter not in seen and counter > highest - 1024
        assert window.is_new(counter) == new
        if new:
            window.mark(counter)
            seen.add(counter)
            highest = max(highest, counter)


def test_incarnations_have_windows_of_their_own() -> None:
    a, b = pair()
    frame = a.seal(b"before")
    b.open(frame, A.key)
    again = Envelopes(A, "run", trust="lan")
    assert b.open(again.seal(b"after"), A.key).nonce == again.nonce != a.nonce
    assert reason(b, frame) == "replayed"


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope, "MAX_SENDERS", 8)
    _, b = pair()
    for i in range(3, 43):
        who = Identity.from_seed(bytes([i]) * 32)
        b.open(Envelopes(who, "run", trust="lan").seal(b""), who.key)
    for _ in range(20):
        b.open(Envelopes(A, "run", trust="lan").seal(b""), A.key)
    assert len(b._windows) == 8
    assert len(b._windows[A.key]) == 4


def test_a_refused_frame_leaves_no_trace() -> None:
    a, b = pair()
    frame = a.seal(b"")
    assert reason(b, frame[:-1] + bytes([frame[-1] ^ 1])) == "bad signature"
    assert not b._windows
    b.open(frame, A.key)
