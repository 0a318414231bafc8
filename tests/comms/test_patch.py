"""Patches between bfloat16 weights: exact for all bits, never much longer than the weights, and total on hostile bytes."""

import struct
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from thinwire.comms import patch as patches
from thinwire.comms.patch import decode, encode, limit_nbytes
from thinwire.comms.wire import WireError

SIZES = st.sampled_from([0, 1, 2, 3, 31, 127, 257, 1009, 4099])


def weights(words: NDArray[np.integer[Any]]) -> Tensor:
    return torch.from_numpy(words.astype(np.uint16).view(np.int16)).view(torch.bfloat16)


def same(a: Tensor, b: Tensor) -> bool:
    """By bits: NaN equals itself, -0.0 is not 0.0."""
    return torch.equal(a.view(torch.int16), b.view(torch.int16))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Old and new weights of all patterns, a part of which has changed, by little or by anything."""
    numel, seed = draw(SIZES), draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    spread = draw(st.sampled_from([1, 200, 65536]))
    old = (generator.integers(0, spread, numel) + draw(st.sampled_from([0, 0x3C00, 0x7F7F, 0xBC00]))) % 65536
    change = generator.integers(-draw(st.sampled_from([1, 300, 65535])), 2, numel)
    moved = generator.random(numel) < draw(st.sampled_from([0.0, 0.001, 0.1, 0.9, 1.0]))
    return weights(old), weights(np.where(moved, (old + change) % 65536, old))


@given(pairs(), st.booleans())
@settings(max_examples=200, deadline=None)
def test_old_and_patch_are_new_and_a_patch_is_never_long(pair: tuple[Tensor, Tensor], small_blocks: bool) -> None:
    old, new = pair
    before = old.clone()
    with pytest.MonkeyPatch.context() as monkeypatch:
        if small_blocks:
            monkeypatch.setattr(patches, "BLOCK", 100)
        for base in (old, None):
            patch = encode(base, new)
            assert same(decode(base, patch, len(new)), new)
            assert len(patch) <= limit_nbytes(len(new)) <= 1.05 * 2 * len(new) + (1 if not small_blocks else len(new))
            assert encode(base, new) == patch
    assert same(old, before)


def test_every_pattern_to_every_other_kind_survives() -> None:
    every = np.arange(65536)
    kinds = [0x0000, 0x8000, 0x0001, 0x8001, 0x7F80, 0xFF80, 0x7F81, 0x7FC0, 0xFFC1, 0xFFFF, 0x3F80]
    for kind in kinds:
        old, new = weights(every), weights(np.full(65536, kind))
        assert same(decode(old, encode(old, new), 65536), new)
        assert same(decode(new, encode(new, old), 65536), old)
    assert same(decode(None, encode(None, weights(every)), 65536), weights(every))


def test_minus_zero_is_another_value_than_zero() -> None:
    old, new = torch.zeros(5, dtype=torch.bfloat16), torch.tensor([0.0, -0.0, 0.0, 0.0, -0.0], dtype=torch.bfloat16)
    assert same(decode(old, encode(old, new), 5), new)
    assert len(encode(old, old)) == 1


def test_weights_take_two_thirds_from_nothing_and_noise_takes_no_more_than_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    usual = torch.randn(100_000, generator=generator).mul_(0.02).to(torch.bfloat16)
    assert len(encode(None, usual)) < 0.7 * 200_000
    noise = weights(np.random.default_rng(0).integers(0, 65536, 100_000))
    assert len(encode(None, noise)) == len(encode(usual, noise)) == 200_001


def test_few_changes_far_apart_cost_a_few_bytes_each() -> None:
    old = torch.ones(1_000_003, dtype=torch.bfloat16)
    new = old.clone()
    new[::9973] = 1.0078125  # one unit up
    patch = encode(old, new)
    assert len(patch) < 3 * 101
    assert same(decode(old, patch, len(old)), new)


@given(pairs(), st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_patch_decodes_to_something_or_is_refused(pair: tuple[Tensor, Tensor], data: st.DataObject) -> None:
    old, new = pair
    patch = bytearray(encode(old, new))
    for _ in range(data.draw(st.integers(1, 3))):
        if patch:
            at = data.draw(st.integers(0, len(patch) - 1))
            action = data.draw(st.sampled_from(["flip", "cut", "put"]))
            if action == "flip":
                patch[at] ^= 1 << data.draw(st.integers(0, 7))
            elif action == "cut":
                del patch[at:]
            else:
                patch[at:at] = data.draw(st.binary(max_size=4))
    for base in (old, None):
        try:
            decoded = decode(base, bytes(patch), len(new))
        except WireError:
            continue
        assert decoded.shape == new.shape


@given(st.binary(max_size=300), SIZES)
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_weights_or_refused(data: bytes, numel: int) -> None:
    try:
        assert decode(None, data, numel).numel() == numel
    except WireError:
        pass


def section(raw: bytes, *, deflate: bool = True) -> bytes:
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    coded = coder.compress(raw) + coder.flush() if deflate else raw
    return struct.pack("<I", len(coded) | deflate << 31) + coded


def sparse(
    count: int, shift: int, gaps: bytes, rest: bytes = b"", low: bytes = b"", high: bytes = b"", *, nbytes: int | None = None
) -> bytes:
    head = struct.pack("<BIBI", 3, count, shift, len(gaps) if nbytes is None else nbytes)
    return head + section(gaps) + section(rest) + section(low) + section(high)


@pytest.mark.parametrize(
    ("data", "numel", "why"),
    [
        (b"", 1000, "0 bytes for 1000"),
        (bytes(3000), 1000, "3000 bytes for 1000"),
        (b"\x00\x00", 1000, "1 bytes behind"),
        (b"\x07", 1000, "form 7"),
        (b"\x01abc", 1000, "end early"),
        (b"\x02" + section(bytes(50_000_000)[:1001]) + section(bytes(1000)), 1000, "does not inflate to 1000"),
        (b"\x02" + section(bytes(999), deflate=False) + section(bytes(1000)), 1000, "section of 999 bytes"),
        (b"\x02" + b"\x05\x00\x00\x80xxxxx" + section(bytes(1000)), 1000, "cannot be inflated"),
        (b"\x02\xff\xff\xff\xff", 1000, "end early"),
        (sparse(1001, 0, bytes(1001), low=bytes(1001), high=bytes(1001)), 1000, "1001 places among 1000"),
        (sparse(1, 200, b"\0"), 1000, "1 places among 1000"),
        (sparse(2**32 - 1, 0, b"", nbytes=2**32 - 1), 1000, "4294967295 places"),
        (sparse(2, 0, b"\0"), 1000, "2 places among 1000 in 1 bytes"),
        (sparse(1, 0, b"\0\0"), 1000, "gaps of 2 places, expected 1"),
        (sparse(1, 0, b"\0\xff"), 1000, "gaps of"),
        (sparse(1, 10, b"\xfe", b"\xff\x03", b"\1", b"\0"), 2000, "a place at 261119 among 2000"),
        (sparse(900, 1, bytes(900), bytes(113), bytes(900), bytes(900)), 1000, "900 places among 1000"),
    ],
)
def test_what_no_encoder_sends_is_refused(data: bytes, numel: int, why: str) -> None:
    with pytest.raises(WireError, match=why):
        decode(None, data, numel)


def test_a_deflated_bomb_is_not_inflated() -> None:
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    coded = bomb.compress(bytes(200_000_000)) + bomb.flush()
    numel = len(coded)  # so that its length alone is no reason
    with pytest.raises(WireError, match="does not inflate"):
        decode(None, b"\x02" + struct.pack("<I", len(coded) | 1 << 31) + coded, numel)


def test_weights_that_are_no_flat_bfloat16_or_of_another_length_are_refused() -> None:
    flat = torch.zeros(4, dtype=torch.bfloat16)
    for wrong in (torch.zeros(4), torch.zeros(2, 2, dtype=torch.bfloat16)):
        with pytest.raises(ValueError, match="1-D bfloat16 weights on the CPU"):
            encode(None, wrong)
    with pytest.raises(ValueError, match="old weights have 3 values, new ones 4"):
        encode(flat[:3], flat)
    with pytest.raises(ValueError, match="old weights have 4 values, the patch is for 5"):
        decode(flat, b"", 5)
