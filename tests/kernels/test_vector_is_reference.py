"""The torch kernels hold the bits of the numpy specification, on everything a row may contain."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.kernels.trouble import rows as rows
from thinwire.kernels import reference, vector

KINDS = ["normal", "ties", "zeros", "sparse", "denormal", "specials", "wide"]


def same(mine: torch.Tensor, wanted: np.ndarray) -> None:
    got = mine.numpy()
    assert got.dtype.itemsize == wanted.dtype.itemsize
    assert got.tobytes() == wanted.tobytes()


def clean(x: np.ndarray) -> np.ndarray:
    return np.stack([reference.flush(row)[0] for row in x])


@pytest.mark.parametrize("kind", KINDS)
def test_flush_zeroes_what_the_wire_cannot_carry(kind: str) -> None:
    x = rows(kind, 7, 256, 1)
    same(vector.flush(torch.from_numpy(x)), clean(x))
    assert vector.all_finite(torch.from_numpy(x)) == (sum(reference.flush(row)[1] for row in x) == 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("k", "chunk"), [(1, 64), (32, 4096), (64, 4096), (17, 256), (64, 64), (3, 8)])
def test_top_k_is_the_reference(kind: str, k: int, chunk: int) -> None:
    x = clean(rows(kind, 5, chunk, 2))
    same(vector.top_k(torch.from_numpy(x), k), np.stack([reference.top_k(row, k) for row in x]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("block", "chunk"), [(16, 4096), (64, 4096), (256, 4096), (2, 64), (64, 64)])
def test_block_max_is_the_reference(kind: str, block: int, chunk: int) -> None:
    x = clean(rows(kind, 5, chunk, 3))
    same(vector.block_max(torch.from_numpy(x), block), np.stack([reference.block_max(row, block) for row in x]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 2, 3, 31, 32, 64, 1024])
def test_scales_and_codes_are_the_reference(kind: str, k: int) -> None:
    x = clean(rows(kind, 6, k, 4))
    values = torch.from_numpy(x)
    same(vector.mean_scale(values), np.array([reference.mean_scale(row) for row in x]))
    for qmax in (1, 7, 127):
        scales = np.array([reference.absmax_scale(row, qmax) for row in x])
        same(vector.absmax_scale(values, qmax), scales)
        codes = np.stack([reference.quantise(row, scale, qmax) for row, scale in zip(x, scales, strict=True)])
        same(vector.quantise(values, torch.from_numpy(scales), qmax), codes)
        assert bool(vector.sound_scale(torch.from_numpy(scales), qmax).all())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 2, 3, 31, 32, 1024])
def test_tiny_floats_and_random_rounding_are_the_reference(kind: str, k: int) -> None:
    x = clean(rows(kind, 6, k, 4))
    values = torch.from_numpy(x)
    for tiny in (reference.E4M3, reference.E2M1):
        scales = np.array([reference.absmax_scale(row, tiny.qmax) for row in x])
        codes = np.stack([reference.to_tiny(row, scale, tiny) for row, scale in zip(x, scales, strict=True)])
        same(vector.to_tiny(values, torch.from_numpy(scales), tiny), codes)
        same(vector.from_tiny(torch.from_numpy(codes), tiny), np.stack([reference.from_tiny(row, tiny) for row in codes]))
    for qmax, seed in ((1, 1), (7, 2**32 - 1), (127, 5)):
        scales = np.array([reference.absmax_scale(row, qmax) for row in x])
        each = enumerate(zip(x, scales, strict=True))
        wanted = np.stack([reference.quantise_stochastic(row, scale, qmax, seed, i) for i, (row, scale) in each])
        same(vector.quantise_stochastic(values, torch.from_numpy(scales), qmax, seed), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_casts_are_the_reference(kind: str) -> None:
    x = clean(rows(kind, 4, 1023, 5))
    same(vector.to_bf16(torch.from_numpy(x)), np.stack([reference.to_bf16(row) for row in x]))
    same(vector.to_fp16(torch.from_numpy(x)), np.stack([reference.to_fp16(row) for row in x]))


@given(st.integers(0, 130), st.sampled_from([1, 2, 4, 8]), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_packed_bits_are_the_reference_and_come_back(n: int, bits: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (3, n)).astype(np.uint8)
    packed = vector.pack_bits(torch.from_numpy(codes), bits)
    same(packed, np.stack([reference.pack_bits(row, bits) for row in codes]))
    assert packed.shape[1] == vector.packed_nbytes(n, bits)
    back, sound = vector.unpack_bits(packed, bits, n)
    assert bool(sound.all())
    same(back.contiguous(), codes)


@given(st.integers(1, 64), st.sampled_from([64, 256, 4096]), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_index_codings_are_the_reference_and_come_back(k: int, chunk: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    index = np.stack([np.sort(rng.choice(chunk, k, replace=False)) for _ in range(3)]).astype(np.int64)
    coded = vector.elias_fano(torch.from_numpy(index), chunk)
    same(coded, np.stack([reference.elias_fano(row, chunk) for row in index]))
    assert coded.shape[1] == vector.elias_fano_nbytes(k, chunk)
    back, sound = vector.unpack_elias_fano(coded, k, chunk)
    assert bool(sound.all())
    same(back, index)
    same(vector.bitmap(torch.from_numpy(index), chunk), np.stack([reference.bitmap(row, chunk) for row in index]))
    planes = chunk.bit_length() - 1
    plain = vector.pack_planes(torch.from_numpy(index), planes)
    same(plain, np.stack([reference.pack_planes(row, planes) for row in index]))
    same(vector.unpack_planes(plain, planes, k)[0], index)


def test_product_of_a_scale_and_any_code_is_exact_in_float32() -> None:
    scales = vector.round_up16(torch.rand(1000, generator=torch.Generator().manual_seed(0)) + 1e-3)
    codes = torch.arange(-127, 128, dtype=torch.float32)
    product = scales[:, None] * codes
    assert torch.equal(product.double(), scales.double()[:, None] * codes.double())
