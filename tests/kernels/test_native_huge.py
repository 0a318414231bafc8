"""The C++ library and tensors of more than 2^31 elements: most of them without memory, some in memory that is mostly not there."""

import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import byref, c_double

import torch
from torch import Tensor

from tests.kernels.test_native_is_reference import program_of
from tests.kernels.test_native_misuse import BAD_ARGUMENT, BAD_LAYOUT, BAD_PROGRAM, BLOCKS, CAST, DENSE, SPARSE
from thinwire.kernels import native
from thinwire.kernels.finish import Out, Step
from thinwire.kernels.program import Program
from thinwire.optim.fragment import Fragment

HUGE = [2**31, 2**31 + 1, 2**32, 2**33 - 1, 2**47, 2**55, 2**56, 2**62, 2**63 - 1, -1, -(2**31), -(2**63)]


def test_sizes_that_do_not_fit_are_refused_without_being_computed_wrongly() -> None:
    library, stats = native.library(), (c_double * 3)()
    number = torch.zeros(1)
    for height in (*HUGE, 1, 64):
        for width in (*HUGE, 1, 64):
            for program in (SPARSE, BLOCKS, DENSE, CAST):
                # Neither payload nor residual is wanted, so that the sheet is judged but not read.
                sheet = native._Sheet(number.data_ptr(), 0, height, width)
                code = library.tw_encode(byref(native._Program(*program)), byref(sheet), 1, None, None, 1, 1, None, None, stats, 1)
                cut = max(height, 0) // 64 * (max(width, 0) // 64) if program.side else 0
                rows = cut - (cut * 4096 - height * width) // program.chunk
                fits = height > 0 and width > 0 and rows == program.rows
                assert code == (BAD_ARGUMENT if fits else BAD_LAYOUT), (height, width)
    for size in (2**31, 2**40, 2**50):
        for program in (SPARSE, BLOCKS, DENSE, CAST):
            # As large as it says: everything fits but the buffers, which are not there.
            tall = program._replace(rows=size // 4096) if program.chunk == 4096 else program._replace(rows=size // program.chunk)
            sheet = native._Sheet(number.data_ptr(), 1, tall.rows, tall.chunk)
            if program.side:
                sheet = native._Sheet(number.data_ptr(), 1, 64 * tall.rows, 64)
            arguments = (byref(native._Program(*tall)), byref(sheet), 1, None, None, 1, 1)
            assert library.tw_encode(*arguments, None, None, stats, 1) == BAD_ARGUMENT
            assert library.tw_check(byref(native._Program(*tall)), None, 1) == BAD_ARGUMENT
            wrong = native._Program(*tall._replace(rows=tall.rows + 1))
            assert library.tw_encode(byref(wrong), *arguments[1:], None, None, stats, 1) == BAD_LAYOUT
    for rows in (2**56, 2**62, 2**63 - 1):
        assert library.tw_check(byref(native._Program(*SPARSE._replace(rows=rows))), number.data_ptr(), 1) == BAD_PROGRAM
        assert library.tw_dct_tiles(number.data_ptr(), number.data_ptr(), rows, 64, 0, 1) == BAD_ARGUMENT
        assert library.tw_dct_rows(number.data_ptr(), number.data_ptr(), rows, 0, 1) == BAD_ARGUMENT
        assert library.tw_index_pack(number.data_ptr(), rows, 2, 64, 0, 0, number.data_ptr(), 4, number.data_ptr()) == BAD_ARGUMENT
        assert library.tw_index_unpack(number.data_ptr(), rows, 2, 64, 0, 0, 4, number.data_ptr(), number.data_ptr()) == BAD_ARGUMENT
    for size in HUGE:
        assert library.tw_index_nbytes(size, 4096, 1, 0) == BAD_ARGUMENT
        assert library.tw_index_nbytes(1, size, 1, 0) == BAD_ARGUMENT


HIGH, WIDE = 32_768 + 70, 65_536 + 2  # more than 2^31 numbers, with edges that fill no tile


@contextmanager
def vast(dtype: torch.dtype) -> Iterator[Tensor]:
    """`(HIGH, WIDE)` zeros of which only what is written takes memory."""
    nbytes = HIGH * WIDE * dtype.itemsize
    pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000))
    yield torch.frombuffer(pages, dtype=dtype, count=HIGH * WIDE).view(HIGH, WIDE)


def marks(program: Program, sheet: Tensor) -> dict[int, Tensor]:
    """Views of some rows of the matrix of one vast sheet: tiles before, around and far beyond 2^31 elements, and parts of the pool."""
    across, down = WIDE // 64, HIGH // 64
    tiles = {row: (row // across * 64, row % across * 64) for row in (0, 5, 2**31 // (64 * WIDE) * across, down * across - 1)}
    found = {row: sheet[y : y + 64, x : x + 64] for row, (y, x) in tiles.items()}
    pooled = down * 64 * (WIDE - across * 64)
    # Below the tiles the pool is contiguous: its first whole row there, and the padded last one.
    first = -(-pooled // 4096)
    flat = sheet.view(-1)[down * 64 * WIDE :]
    start = first * 4096 - pooled
    found[down * across + first] = flat[start : start + 4096]
    found[program.rows - 1] = flat[(program.rows - 1 - down * across) * 4096 - pooled :]
    return found


def vast_program() -> Program:
    fragment = Fragment([torch.Size((HIGH, WIDE))], "dct-blockmax64-vote")
    return program_of(fragment.plan)


def alone(program: Program, view: Tensor) -> native.Encoded:
    """One row by itself; a part of the pool is no tile but lies as one."""
    tile = torch.zeros(4096, dtype=view.dtype)
    tile[: view.numel()] = view.reshape(-1)
    return native.encode(program._replace(rows=1), [tile.view(64, 64)])


def test_encoding_reaches_beyond_two_to_the_31() -> None:
    program = vast_program()
    assert program.rows * program.chunk > 2**31
    with vast(torch.bfloat16) as sheet:
        views = marks(program, sheet)
        generator = torch.Generator().manual_seed(1)
        for view in views.values():
            view.copy_(torch.randn(view.shape, generator=generator))
        payload = native.encode(program, [sheet], state=False, threads=2).payload.view(program.rows, -1)
        silent = alone(program, torch.zeros(0)).payload
        assert (payload != silent).any(1).nonzero()[:, 0].tolist() == sorted(views)
        for row, view in views.items():
            assert torch.equal(payload[row], alone(program, view).payload), row


def test_decoding_reaches_beyond_two_to_the_31() -> None:
    program = vast_program()
    dtype, part = torch.bfloat16, 12_289 * mmap.PAGESIZE  # so odd that no two of the marked rows meet
    with vast(dtype) as sheet:
        # All of the weights lie on the same few pages, again and again: most of them are only set to what they were.
        memory = os.memfd_create("weights")
        os.ftruncate(memory, part)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        fixed, nbytes = 0x10, sheet.numel() * dtype.itemsize
        for start in range(0, nbytes, part):
            at = sheet.data_ptr() + start
            size = min(part, nbytes - start)
            assert libc.mmap(at, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | fixed, memory, 0) == at
        os.close(memory)
        views = marks(program, sheet)
        silent = alone(program, torch.zeros(0)).payload
        payload = silent.repeat(program.rows, 1)
        wanted = {}
        generator = torch.Generator().manual_seed(2)
        for row, view in views.items():
            made = alone(program, torch.randn(view.shape, generator=generator))
            payload[row] = made.payload
            out = torch.empty(4096)
            native.decode(program._replace(rows=1), [made.payload], [torch.empty(64, 64)], Out(out))
            wanted[row] = (-out[: view.numel()]).to(dtype).view(view.shape)
        places = {row: (view.data_ptr() - sheet.data_ptr()) % part for row, view in views.items()}
        assert len(set(places.values())) == len(places)
        native.decode(program, [payload.view(-1)], [sheet], Step(1.0), threads=2)
        for row, view in views.items():
            assert torch.equal(view, wanted[row]), row
        folded = torch.frombuffer(bytearray(part), dtype=dtype)
        folded.copy_(sheet.view(-1)[: folded.numel()])
        assert int((folded != 0).sum()) == sum(int((part != 0).sum()) for part in wanted.values())
