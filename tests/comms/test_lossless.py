"""Bytes come back as they were, mostly zeros take little, and foreign bytes are a `WireError` that allocates nothing."""

import os
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.comms import gaps, lossless
from thinwire.comms.lossless import promises, restored, shorter
from thinwire.comms.sections import Reader
from thinwire.comms.wire import WireError


def mostly_zero(numel: int, share: float, seed: int = 0) -> bytes:
    """int8 codes of which `share` are not zero."""
    random = np.random.default_rng(seed)
    codes = np.where(random.random(numel) < share, np.clip(random.normal(0, 40, numel), -127, 127), 0)
    return codes.astype(np.int8).tobytes()


def entropy_nbytes(data: bytes) -> float:
    counts = np.bincount(np.frombuffer(data, np.uint8))
    shares = counts[counts > 0] / len(data)
    return float(-(shares * np.log2(shares)).sum() * len(data) / 8)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=600) | st.builds(mostly_zero, st.integers(0, 5000), st.floats(0, 1), st.integers(0, 9)))
def test_what_was_shortened_comes_back(data: bytes) -> None:
    coded = shorter(data)
    if coded is not None:
        assert len(coded) < len(data)
        assert restored(coded, len(data)).tobytes() == data
        assert coded == shorter(data)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.05, 0.1, 0.2])
def test_mostly_zeros_take_what_their_entropy_says(share: float) -> None:
    data = mostly_zero(1 << 19, share)
    assert promises(data)
    coded = shorter(data)
    assert coded is not None
    assert len(coded) < 1.05 * entropy_nbytes(data) + 256


def test_what_does_not_promise_is_left_alone() -> None:
    assert not promises(os.urandom(1 << 20))
    assert not promises(bytes(lossless.MIN_NBYTES - 1))
    assert promises(bytes(lossless.MIN_NBYTES))
    assert shorter(os.urandom(1 << 16)) is None
    assert shorter(b"") is None


def bomb(nbytes: int) -> bytes:
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    coded = coder.compress(bytes(nbytes)) + coder.flush()
    return (len(coded) | 1 << 31).to_bytes(4, "little") + coded


@pytest.mark.parametrize(
    ("coded", "why"),
    [
        (b"", "end early"),
        (b"\x02abc", "form 2"),
        (b"\x00\x05", "end early"),
        (b"\x00\xff\xff\xff\xff", "end early"),
        (b"\x00" + bomb(1 << 26), "does not inflate to 1000"),
        (b"\x00" + bomb(999), "does not inflate to 1000"),
        (b"\x00" + bomb(1000)[:-1], "end early"),
        (b"\x00" + bomb(1000) + b"x", "1 bytes behind"),
        (b"\x00\x04\0\0\x80\xff\xff\xff\xff", "cannot be inflated"),
        (b"\x01" + gaps.write(np.array([1001]), 1002) + b"\x01\0\0\0a", "a place at 1001 among 1000"),
        (b"\x01" + gaps.write(np.array([1]), 1000) + b"\x02\0\0\0ab", "a section of 2 bytes, expected 1"),
        (b"\x01" + gaps.write(np.arange(1001), 1001), "1001 places among 1000"),
        (b"\x01" + gaps.write(np.array([1]), 1000) + bomb(1 << 26), "does not inflate to 1"),
    ],
)
def test_bombs_and_garbage_are_refused(coded: bytes, why: str) -> None:
    with pytest.raises(WireError, match=why):
        restored(coded, 1000)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80) | st.builds(lambda tail: b"\x01" + tail, st.binary(max_size=60)), st.integers(0, 2000))
def test_any_bytes_are_as_many_as_were_expected_or_an_error(coded: bytes, nbytes: int) -> None:
    try:
        assert len(restored(coded, nbytes)) == nbytes
    except WireError:
        pass


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 3000))
def test_a_damaged_byte_is_another_result_or_an_error(data: st.DataObject, seed: int) -> None:
    raw = mostly_zero(2000, 0.05, seed)
    coded = bytearray(shorter(raw) or b"")
    at = data.draw(st.integers(0, len(coded) - 1))
    coded[at] ^= data.draw(st.integers(1, 255))
    try:
        assert len(restored(coded, len(raw))) == len(raw)
    except WireError:
        pass


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 3000).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, max(n - 1, 0)), max_size=n))))
def test_places_come_back(case: tuple[int, set[int]]) -> None:
    numel, chosen = case
    places = np.array(sorted(chosen), np.intp)
    assert gaps.read(Reader(memoryview(gaps.write(places, numel))), numel).tolist() == places.tolist()
