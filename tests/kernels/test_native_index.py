"""Index coding by the C++ library is that of torch and so of numpy: bytes, what comes back, and which rows are refused."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.kernels.test_native_is_reference import levels, same
from thinwire.kernels import native, vector
from thinwire.kernels.rice import rice_nbytes, rice_parameter, rice_rows, unpack_rice_rows

PLACES = [(1, 8), (8, 8), (3, 777), (64, 777), (1, 4096), (31, 4096), (64, 4096), (128, 4096), (2048, 4096), (4096, 4096), (300, 16384)]


def places(k: int, chunk: int) -> Tensor:
    rng = np.random.default_rng(k)
    index = np.stack([np.sort(rng.choice(chunk, k, replace=False)) for _ in range(40)]).astype(np.int64)
    index[1], index[2] = np.arange(k), np.arange(chunk - k, chunk)
    return torch.from_numpy(index)


def noise(packed: Tensor, sizes: Tensor, seed: int) -> Tensor:
    """Half of the rows with a bit changed, some all random, two of one bit."""
    generator = torch.Generator().manual_seed(seed)
    n, out = len(packed), packed.clone()
    at = torch.randint(2**31, (n,), generator=generator) % sizes.clamp(min=1)
    out[torch.arange(0, n, 2), at[::2]] ^= (1 << (at[::2] % 8)).to(torch.uint8)
    out[3::8] = torch.randint(256, out[3::8].shape, generator=generator, dtype=torch.uint8)
    out[5], out[7] = 0, 255
    return out


def first_wrong(sound: Tensor) -> int:
    wrong = (~sound).nonzero()
    return int(wrong[0]) if len(wrong) else -1


@pytest.mark.parametrize("coding", ["planes", "elias-fano", "bitmap"])
@pytest.mark.parametrize(("k", "chunk"), PLACES)
def test_index_fields_are_those_of_torch(k: int, chunk: int, coding: str) -> None:
    planes, index = (chunk - 1).bit_length(), places(k, chunk)
    if coding == "planes":
        wanted = vector.pack_planes(index, planes)
    else:
        wanted = vector.elias_fano(index, chunk) if coding == "elias-fano" else vector.bitmap(index, chunk)
    changed = noise(wanted, torch.full((40,), wanted.shape[1]), 1) if wanted.shape[1] else wanted
    if coding == "planes":
        back, sound = vector.unpack_planes(changed, planes, k)
        sound = sound & (back[:, 1:] > back[:, :-1]).all(1) & (back < chunk).all(1)
    elif coding == "elias-fano":
        back, sound = vector.unpack_elias_fano(changed, k, chunk)
    else:
        bits, padded = vector.unpack_bits(changed, 1, chunk)
        back, sound = vector.set_positions(bits, k)
        sound = sound & padded
    for _ in levels():
        packed, sizes = native.pack_index(index.to(torch.uint16), chunk, coding)
        same(packed, wanted.numpy())
        assert sizes.tolist() == [wanted.shape[1]] * 40
        again, bad = native.unpack_index(packed, sizes, k, chunk, coding)
        assert bad == -1
        same(again.to(torch.int64), index.numpy())
        got, bad = native.unpack_index(changed, sizes, k, chunk, coding)
        assert bad == first_wrong(sound)
        same(got[sound].to(torch.int64), back[sound].numpy())
        assert bool((got.to(torch.int64) < chunk).all())


@pytest.mark.parametrize(("k", "chunk"), PLACES)
def test_golomb_rice_streams_are_those_of_torch(k: int, chunk: int) -> None:
    index = places(k, chunk)
    for b in sorted({0, 1, rice_parameter(k, chunk), 15}):
        wanted, lengths = rice_rows(index, chunk, b)
        changed = noise(wanted, lengths, b)
        back, sound = unpack_rice_rows(changed, lengths, k, chunk, b)
        for _ in levels():
            packed, sizes = native.pack_index(index.to(torch.uint16), chunk, "rice", rice=b)
            assert packed.shape == (40, rice_nbytes(k, chunk, b))
            assert torch.equal(sizes, lengths)
            behind = torch.arange(packed.shape[1]) >= sizes[:, None]
            same(packed.masked_fill(behind, 0), wanted.numpy())
            again, bad = native.unpack_index(packed, sizes, k, chunk, "rice", rice=b)
            assert bad == -1
            same(again.to(torch.int64), index.numpy())
            got, bad = native.unpack_index(changed, sizes, k, chunk, "rice", rice=b)
            assert bad == first_wrong(sound)
            same(got[sound].to(torch.int64), back[sound].numpy())
