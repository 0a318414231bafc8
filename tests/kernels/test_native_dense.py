"""Rows where every number is sent are read where they lie, in groups of 64: the bits of the specification wherever a group ends."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.kernels.test_native_is_reference import levels, program_of, same
from tests.kernels.test_vector_is_reference import KINDS, rows
from thinwire.comms.codec import Codec, chain
from thinwire.comms.recipes import codec
from thinwire.comms.stages.pack import Pack
from thinwire.comms.stages.quantise import Int2, Int4, Int8
from thinwire.comms.stages.select import All
from thinwire.kernels import native, reference_chain
from thinwire.kernels.finish import Out
from thinwire.kernels.program import Program

NAMED = ["none", "bf16", "fp16", "int8", "int4", "int2", "fp8", "fp4", "sign"]
RANDOM: dict[str, Codec] = {
    "int8-stochastic": chain(All(), Int8(stochastic=1), Pack()),
    "int4-stochastic": chain(All(), Int4(stochastic=7), Pack()),
    "int2-stochastic": chain(All(), Int2(stochastic=2**32 - 1), Pack()),
}
NAMES = [*NAMED, *RANDOM]
LENGTHS = [1, 15, 63, 64, 65, 127, 128, 130, 256, 1000, 1024, 4097]


def program(name: str, n: int, chunk: int) -> Program:
    """Of rows of any length."""
    plan = program_of((RANDOM[name] if name in RANDOM else codec(name)).plan(1, chunk))
    return plan._replace(rows=n)


def at_offset(x: np.ndarray, offset: int) -> Tensor:
    """x in memory that begins `offset` numbers behind an aligned place, with numbers around it that must not be read."""
    memory = torch.full((x.size + offset + 64,), float("inf"))
    memory[offset : offset + x.size] = torch.from_numpy(x).reshape(-1)
    return memory[offset : offset + x.size]


def expect(of: Program, x: np.ndarray, sources: list[Tensor], anchor: np.ndarray | None = None) -> None:
    """Payload and counts of `sources`, whose matrix is x, without a residual."""
    payload, _, bad = reference_chain.encode_rows(of, x, None, 1.0, anchor=anchor)
    squares = (np.where(np.isfinite(x), x, 0).astype(np.float64) ** 2).sum()
    less = None if anchor is None else torch.from_numpy(anchor).reshape(-1)[: sum(source.numel() for source in sources)]
    for _ in levels():
        made = native.encode(of, sources, anchor=less, state=False)
        same(made.payload, payload)
        assert made.stats[0] == bad
        if anchor is None and not bad and 1e-30 < squares < 1e30:
            assert float(made.stats[1]) == pytest.approx(squares, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_every_length_and_at_every_place_are_the_reference(name: str, kind: str) -> None:
    for offset, chunk in enumerate(LENGTHS):
        x = rows(kind, 3, chunk, chunk)
        expect(program(name, 3, chunk), x, [at_offset(x, offset)])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("special", [np.nan, -np.inf, 2.0**101, -1e-39, -0.0, 2.0**63, 2.0**65, -(2.0**-126), 65520.0])
def test_one_special_number_at_either_end_of_a_row_is_found(name: str, special: float) -> None:
    for chunk in (128, 1000):
        x = rows("normal", 4, chunk, 1)
        x[0, 0] = x[1, -1] = x[2, 64] = special
        expect(program(name, 4, chunk), x, [torch.from_numpy(x).view(-1)])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("exponent", [-125, -101, -94, -50, -47, -41, 19, 22, 28, 58, 63, 66, 90, 99])
def test_rows_of_every_size_of_numbers_are_the_reference(name: str, exponent: int) -> None:
    x = rows("normal", 4, 192, exponent & 255)
    x[1] = rows("ties", 1, 192, 2)
    x[2] *= np.exp2(np.arange(192) % 120 - 119)  # some parts of the largest are tiny
    x[3, 1:] *= np.float32(1e-30)
    x *= np.float32(2.0**exponent)
    expect(program(name, 4, 192), x, [torch.from_numpy(x).view(-1)])


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("none", "bf16", "fp16")])
def test_numbers_beside_the_middle_of_two_codes_are_the_reference(name: str) -> None:
    largest = np.float32(1.7)
    steps = np.arange(-508, 509) / np.float32(508)
    x = np.concatenate([[largest], largest * steps, np.nextafter(largest * steps, 2), np.nextafter(largest * steps, -2)]).astype(np.float32)
    x = x[: x.size // 8 * 8].reshape(1, -1).clip(-largest, largest)
    for scale in (1.0, 127 / 128, 0.3, 7.77):
        y = (x * np.float32(scale)).astype(np.float32)
        expect(program(name, 1, y.size), y, [torch.from_numpy(y).view(-1)])


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_several_tensors_of_any_dtype_and_of_differences_are_the_reference(name: str) -> None:
    generator, of = torch.Generator().manual_seed(0), program(name, 5, 256)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        sizes = [256 + 100, 7, 156, 500, 200]  # the last row is not full
        parts = [torch.randn(size, generator=generator).to(dtype) for size in sizes]
        parts[0][3:9] = torch.tensor([-1e-39, 1e-39, -0.0, 0.0, 1e-45, -(2.0**-126)]).to(dtype)
        flat = torch.cat(parts).float().numpy()
        x = np.pad(flat, (0, 5 * 256 - flat.size)).reshape(5, 256)
        expect(of, x, parts)
        anchor = rows("normal", 5, 256, 1)
        anchor.reshape(-1)[3:9] = [2.0**-126, -(2.0**-126), 1.0, -1e-39, -(1.5 * 2.0**-126), 2.0**-126]
        anchor.reshape(-1)[flat.size :] = 0
        expect(of, x, parts, anchor)


@pytest.mark.parametrize("name", NAMES)
def test_tensors_of_nothing_but_denormals_are_the_reference(name: str) -> None:
    of = program(name, 64, 1024)
    for x in (torch.full((65536,), -1e-40), torch.randn(65536) * 1e-39, torch.randn(65536) * 2.0**-125):
        expect(of, x.numpy().reshape(64, 1024), [x])


def test_the_mean_of_any_number_of_members_is_in_their_order() -> None:
    for name, chunk in ((name, chunk) for name in NAMES for chunk in (1, 63, 65, 130, 4100)):
        of = program(name, 2, chunk)
        payloads = [native.encode(of, [torch.from_numpy(rows("normal", 2, chunk, m)).view(-1)], state=False).payload for m in range(17)]
        for members in (1, 2, 3, 7, 8, 9, 16, 17):
            wanted = reference_chain.decode_rows(of, np.stack([payload.numpy() for payload in payloads[:members]])).reshape(-1)
            for level in levels():
                memory = torch.full((2 * chunk + 24,), 7.0)
                out = memory[level : level + 2 * chunk]
                native.decode(of, payloads[:members], [out], Out(out))
                same(out, wanted)
                assert bool((memory[level + 2 * chunk :] == 7).all())
                assert bool((memory[:level] == 7).all())


# -- memory for a payload ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_payload_goes_into_memory_that_is_given(name: str) -> None:
    of, x = program(name, 3, 130), torch.randn(390)
    wanted = native.encode(of, [x], state=False).payload
    for offset in (0, 1, 5, 64):
        memory = torch.full((of.nbytes + 128,), 0xA5, dtype=torch.uint8)
        into = memory[offset : offset + of.nbytes]
        made = native.encode(of, [x], state=False, payload=into)
        assert made.payload is into
        same(into, wanted.numpy())
        assert bool((memory[:offset] == 0xA5).all())
        assert bool((memory[offset + of.nbytes :] == 0xA5).all())


def test_memory_of_another_kind_is_refused() -> None:
    of, x = program("int8", 2, 64), torch.zeros(128)
    wrong: list[Any] = [
        torch.empty(of.nbytes + 1, dtype=torch.uint8),
        torch.empty(of.nbytes),
        torch.empty(2 * of.nbytes, dtype=torch.uint8)[::2],
    ]
    for payload in wrong:
        with pytest.raises(ValueError, match=r"expected \(136,\) uint8|contiguous"):
            native.encode(of, [x], payload=payload)
    with pytest.raises(ValueError, match="code=False"):
        native.encode(of, [x], code=False, payload=torch.empty(of.nbytes, dtype=torch.uint8))
