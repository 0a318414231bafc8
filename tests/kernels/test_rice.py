"""Golomb-Rice streams: torch holds the numpy bytes, they come back, any other bytes are refused or read as indices; and their length."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.kernels.reference_read import Unsound
from thinwire.kernels.rice import rice, rice_nbytes, rice_parameter, rice_rows, unpack_rice, unpack_rice_rows


def places(rows: int, k: int, chunk: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([np.sort(rng.choice(chunk, k, replace=False)) for _ in range(rows)]).astype(np.int64)


@given(st.data(), st.sampled_from([8, 64, 777, 4096]), st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_streams_come_back(data: st.DataObject, chunk: int, seed: int) -> None:
    k = data.draw(st.sampled_from([1, 2, chunk // 64, chunk // 8, chunk]).filter(bool))
    b = data.draw(st.sampled_from([0, 1, rice_parameter(k, chunk), 15]))
    index = places(3, k, chunk, seed)
    index[1] = np.arange(k)  # the shortest and the longest gaps
    index[2] = np.arange(chunk - k, chunk)
    packed, sizes = rice_rows(torch.from_numpy(index), chunk, b)
    assert packed.shape == (3, rice_nbytes(k, chunk, b))
    for row, stream, size in zip(index, packed.numpy(), sizes.tolist(), strict=True):
        alone = rice(row, chunk, b)
        assert stream[:size].tobytes() == alone.tobytes()
        assert not stream[size:].any()
        assert np.array_equal(unpack_rice(alone, k, chunk, b), row)
    back, sound = unpack_rice_rows(packed, sizes, k, chunk, b)
    assert bool(sound.all())
    assert np.array_equal(back.numpy(), index)


@pytest.mark.parametrize(("k", "chunk"), [(1, 8), (5, 64), (64, 777), (64, 4096)])
@pytest.mark.parametrize("b", [0, 2, 5])
def test_any_other_bytes_are_refused_by_both_or_are_indices(k: int, chunk: int, b: int) -> None:
    rng = np.random.default_rng(k)
    packed, sizes = rice_rows(torch.from_numpy(places(2000, k, chunk, 1)), chunk, b)
    way = torch.from_numpy(rng.integers(0, 5, 2000))
    at = torch.from_numpy(rng.integers(0, 2**31, 2000)) % torch.clamp(sizes, min=1)
    packed[torch.arange(2000), at] ^= torch.where(way < 2, 1 << (at % 8), 0).to(torch.uint8)
    noise = torch.from_numpy(rng.integers(0, 256, packed.shape, dtype=np.uint8))
    packed = torch.where((way == 2)[:, None], noise, packed)
    packed[way == 2, 0] |= 1
    sizes = sizes + torch.where(way == 3, torch.from_numpy(rng.integers(-3, 3, 2000)), 0)
    sizes[:4] = torch.tensor([-1, 0, packed.shape[1], packed.shape[1] + 1])
    packed[5] = 255
    index, sound = unpack_rice_rows(packed, sizes, k, chunk, b)
    assert 0 < int(sound.sum()) < 2000
    for row, (stream, size) in enumerate(zip(packed.numpy(), sizes.tolist(), strict=True)):
        if not 0 <= size <= len(stream):
            assert not sound[row]
            continue
        try:
            wanted = unpack_rice(stream[:size], k, chunk, b)
        except Unsound:
            wanted = None
        assert bool(sound[row]) == (wanted is not None), row
        assert np.array_equal(index[row].numpy(), np.zeros(k) if wanted is None else wanted)
        if wanted is not None:
            assert rice(wanted, chunk, b).tobytes() == stream[:size].tobytes()


def test_64_of_4096_take_seven_and_a_half_bits_each() -> None:
    assert rice_parameter(64, 4096) == 5
    assert [rice_parameter(k, 4096) for k in (1, 8, 32, 128, 2048, 4096)] == [11, 8, 6, 4, 0, 0]
    index = torch.from_numpy(places(2000, 64, 4096, 0))
    length = {b: float(rice_rows(index, 4096, b)[1].double().mean()) * 8 / 64 for b in range(4, 8)}
    assert min(length, key=lambda b: length[b]) == 5
    assert 7.45 < length[5] < 7.6  # the padding to a byte among it; Elias-Fano in the record takes 8
