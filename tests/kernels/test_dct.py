"""The DCT has one definition: numpy, torch and C++ at every instruction set hold the same bits, and the float64 matrix agrees."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tests.kernels.test_vector_is_reference import KINDS, clean, rows
from thinwire.kernels import dct, dispatch, native

SIDES = (8, 16, 32, 64)


@pytest.fixture
def every_isa() -> Iterator[list[int]]:
    if not native.available():
        pytest.fail("the C++ library is missing: was there a compiler when thinwire was installed?")
    yield sorted({native.set_isa(level) for level in (0, 1, 2)})
    native.set_isa(2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", SIDES)
def test_numpy_torch_and_every_instruction_set_hold_the_same_bits(kind: str, side: int, every_isa: list[int]) -> None:
    for tiles in (0, 1, 17):
        x = clean(rows(kind, max(tiles, 1), side * side, side))[:tiles]
        forward, back = dct.dct_tiles(x, side), dct.idct_tiles(x, side)
        tensor = torch.from_numpy(x)
        assert dct.dct_tiles(tensor, side).numpy().tobytes() == forward.tobytes()
        assert dct.idct_tiles(tensor, side).numpy().tobytes() == back.tobytes()
        for level in every_isa:
            native.set_isa(level)
            assert native.dct_tiles(tensor, side).numpy().tobytes() == forward.tobytes()
            assert native.idct_tiles(tensor, side).numpy().tobytes() == back.tobytes()


def ways_to_go(x: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """A source and where its transform may go: memory of its own, some that is not aligned to vectors, where it is."""
    room = torch.empty(x.numel() + 17)
    first = -(room.data_ptr() // 4) % 16
    for start in (first, first + 1):
        yield x, room[start : start + x.numel()].view(x.shape)
    here = x.clone()
    yield here, here


@pytest.mark.parametrize("count", [1, 3, 4, 5, 15, 16, 17, 33, 100, 1100])
def test_rows_hold_the_same_bits_wherever_they_go(count: int, every_isa: list[int]) -> None:
    x = np.random.default_rng(count).standard_normal((count, 64), dtype=np.float32)
    scale = np.sqrt(np.array([1] + [2] * 63) / 64).astype(np.float32)
    forward = dct._forward(x.T[:, None, :, None], 64, np)[:, 0, :, 0].T * scale
    back = dct._inverse((x * scale).T[:, None, :, None], 64, np)[:, 0, :, 0].T
    for level, threads in ((level, threads) for level in every_isa for threads in (1, 5)):
        native.set_isa(level)
        for wanted, inverse in ((forward, False), (back, True)):
            for source, out in ways_to_go(torch.from_numpy(x)):
                native.dct_rows(source, inverse=inverse, out=out, threads=threads)
                assert np.array_equal(out.numpy(), wanted), (level, threads, inverse)


@pytest.mark.parametrize("side", SIDES)
def test_tiles_hold_the_same_bits_wherever_they_go(side: int, every_isa: list[int]) -> None:
    x = torch.randn(20, side * side, generator=torch.Generator().manual_seed(side))
    for level, threads in ((level, threads) for level in every_isa for threads in (1, 5)):
        native.set_isa(level)
        for transform in (dct.dct_tiles, dct.idct_tiles):
            wanted, mine = transform(x, side), getattr(native, transform.__name__)
            for source, out in ways_to_go(x):
                mine(source, side, out=out, threads=threads)
                assert torch.equal(out, wanted), (level, threads, transform)


@pytest.mark.parametrize("side", SIDES)
def test_it_is_the_orthonormal_dct_in_the_documented_order(side: int) -> None:
    x = rows("normal", 9, side * side, 1)
    i, k = np.arange(side), np.arange(side)[:, None]
    matrix = np.where(k == 0, np.sqrt(1 / side), np.sqrt(2 / side)) * np.cos(np.pi * (2 * i + 1) * k / (2 * side))
    wanted = np.einsum("vj,tij,ui->tvu", matrix, x.reshape(-1, side, side).astype(np.float64), matrix)
    got = dct.dct_tiles(x, side)
    assert np.abs(got.reshape(-1, side, side) - wanted).max() < 2e-5
    assert np.abs(dct.idct_tiles(got, side) - x).max() < 2e-5
    assert not dct.dct_tiles(np.zeros((2, side * side), np.float32), side).any()


def test_cpu_tensors_go_to_the_library_and_its_limits_are_told() -> None:
    x = torch.randn(3, 4096)
    assert torch.equal(dispatch.dct_tiles(x, 64), native.dct_tiles(x, 64))
    assert torch.equal(native.dct_tiles(x[:, ::1][1:], 64), native.dct_tiles(x, 64)[1:])
    with pytest.raises(ValueError, match="sides"):
        native.dct_tiles(torch.zeros(1, 144), 12)
    with pytest.raises(ValueError, match="native DCT needs"):
        native.dct_tiles(x.double(), 64)
