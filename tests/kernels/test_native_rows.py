"""Rows that the C++ takes a shortcut for beside rows that it may not: residuals go out beside the next row, bounds come from the last."""

from itertools import product

import numpy as np
import pytest
import torch

from tests.codecs import named
from tests.kernels.test_native_is_reference import levels, program_of, same, source_of
from tests.kernels.test_vector_is_reference import rows
from thinwire.comms import DCT, Float32, Pack, TopK, chain
from thinwire.kernels import native, reference_chain
from thinwire.kernels.finish import Out

CODECS = [
    "dct-topk",
    "dct-topk-fp16",
    "dct-blockmax128-vote",
    "topk64-bf16",
    "topk4096-fp16",
    "blockmax",
    "blockmax16-int8",
    "int8",
    "bf16",
]
F32 = np.float32


def one(kind: str, chunk: int, seed: int) -> np.ndarray:
    """A row of one kind of trouble; the kinds below have it in one number only."""
    x = rows("normal" if kind in ("nan", "inf", "large", "at the end", "minus zero", "huge") else kind, 1, chunk, seed)
    place = chunk - 1 if kind == "at the end" else seed * 37 % chunk
    marks = {"nan": np.nan, "inf": -np.inf, "large": 2.0**100.5, "at the end": np.nan, "minus zero": -0.0, "huge": 2.0**64}
    if kind in marks:
        x[0, place] = marks[kind]
    return x


MIXED = [
    "normal",
    "nan",
    "normal",
    "inf",
    "large",
    "normal",
    "minus zero",
    "huge",
    "normal",
    "specials",
    "denormal",
    "normal",
    "at the end",
    "zeros",
]


def mixed(chunk: int, seed: int) -> np.ndarray:
    return np.concatenate([one(kind, chunk, seed + i) for i, kind in enumerate(MIXED)])


@pytest.mark.parametrize("name", CODECS)
def test_unusual_rows_among_usual_ones_are_the_reference(name: str) -> None:
    chunk = named(name).chunk or 4096
    program = program_of(named(name).plan(len(MIXED), chunk))
    x, held = mixed(chunk, 1), mixed(chunk, 100)[::-1].copy()
    for before, (decay, gain) in product((None, held), ((1.0, 1.0), (0.875, 0.3), (2.0**-30, 1.0), (0.5, -17.0))):
        payload, kept, bad = reference_chain.encode_rows(program, x, before, decay, gain)
        for _ in levels():
            given = None if before is None else torch.from_numpy(before)
            made = native.encode(program, [source_of(program, x)], held=given, decay=decay, gain=gain, threads=1)
            same(made.payload, payload)
            same(made.kept, kept)
            assert made.stats[0] == bad > 0
            alone = native.encode(program, [source_of(program, x)], held=given, decay=decay, gain=gain, state=False, threads=1)
            same(alone.payload, payload)
            assert native.check(program, alone.payload) == -1


@pytest.mark.parametrize("name", ["dct-topk", "blockmax", "topk64-bf16"])
def test_a_residual_may_lie_anywhere(name: str) -> None:
    chunk = named(name).chunk or 4096
    program = program_of(named(name).plan(5, chunk))
    x, held = rows("normal", 5, chunk, 1), rows("normal", 5, chunk, 2)
    payload, kept, _ = reference_chain.encode_rows(program, x, held, 0.9)
    for _, shift in product(levels(), (0, 1, 3, 16)):
        into = torch.full((5 * chunk + 16,), 7.0)
        mine = into[shift : shift + 5 * chunk].view(5, chunk)
        made = native.encode(program, [source_of(program, x)], held=torch.from_numpy(held), decay=0.9, kept=mine)
        same(made.payload, payload)
        same(mine, kept)
        assert (into[:shift] == 7).all()
        assert (into[shift + 5 * chunk :] == 7).all()


SELECTIONS = [(chunk, k) for chunk in (64, 256, 1024, 4096) for k in (1, 2, 31, 32, 33, 48, 64, 100, 128, 129) if k <= chunk]


@pytest.mark.parametrize(("chunk", "k"), SELECTIONS)
def test_selections_do_not_depend_on_the_row_before(chunk: int, k: int) -> None:
    program = program_of(chain(TopK(k, chunk=chunk), Float32(), Pack()).plan(12, chunk))
    kinds = [("normal", 0), ("normal", -60), ("normal", 60), ("ties", 0), ("sparse", 0), ("zeros", 0), ("ties", -100), ("wide", 0)] * 2
    x = np.concatenate([rows(kind, 1, chunk, i) * F32(2.0**power) for i, (kind, power) in enumerate(kinds[:12])])
    payload, kept, _ = reference_chain.encode_rows(program, x, None, 1.0)
    for _ in levels():
        made = native.encode(program, [torch.from_numpy(x).view(-1)], threads=1)
        same(made.payload, payload)
        same(made.kept, kept)


@pytest.mark.parametrize("members", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("name", ["dct-topk", "dct8-blockmax16-int2", "topk64-bf16", "blockmax"])
def test_means_of_tiny_sums_are_the_reference(name: str, members: int) -> None:
    program = program_of(named(name).plan(2, named(name).chunk or 4096))
    scale = F32(2.0**-97)  # the smallest that is sent: a mean of sixteen is below it, and coefficients may be far below
    sources = [rows("normal", 2, program.chunk, seed) * scale for seed in range(members)]
    sent = np.stack([reference_chain.encode_rows(program, source, None, 1.0)[0] for source in sources])
    wanted = reference_chain.decode_rows(program, sent, False)
    if program.side:
        wanted = native.idct_tiles(torch.from_numpy(wanted), program.side).numpy()
    for _ in levels():
        out = torch.empty(wanted.size)
        native.decode(program, [torch.from_numpy(part.copy()) for part in sent], [source_of(program, wanted)], Out(out))
        same(out.view(wanted.shape), wanted)


def crowded(columns: int) -> np.ndarray:
    """A tile with equals in all rows 0, 4, 8 .. of some columns, and little else: many numbers in few of the groups that bound the k-th."""
    x = rows("normal", 1, 4096, 7).reshape(64, 64) * F32(2.0**-10)
    x[::4, :columns] = 3.0
    x[0, :columns:2] = -3.0
    return x.reshape(1, 4096)


@pytest.mark.parametrize("k", [1, 31, 32, 33, 64, 100, 128, 129])
def test_selections_of_a_tile_are_the_reference(k: int) -> None:
    program = program_of(chain(DCT(), TopK(k), Float32(), Pack()).plan(14, 4096))
    kinds = ["normal", "ties", "sparse", "zeros", "wide", "ties", "normal", "denormal"]
    held = np.concatenate(
        [*(rows(kind, 1, 4096, i) for i, kind in enumerate(kinds)), *(crowded(columns) for columns in (1, 2, 4, 16, 17, 64))]
    )
    x = np.zeros_like(held)  # whose transform is zero: what is held is selected from as it is
    payload, kept, _ = reference_chain.encode_rows(program, x, held, 1.0)
    for _ in levels():
        made = native.encode(program, [source_of(program, x)], held=torch.from_numpy(held), threads=1)
        same(made.payload, payload)
        same(made.kept, kept)
