"""The C++ library and odd arguments: unaligned, empty, wrong and read-only ones."""

import ctypes
import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import byref, c_double
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.codecs import NAMES, named
from tests.kernels.test_native_is_reference import program_of, tensors
from thinwire.comms import Float32, Int8, Pack, Sign, TopK, Vote, chain
from thinwire.kernels import native
from thinwire.kernels.finish import Finish, Out, Sgd, Step
from thinwire.kernels.program import Index, Program, Select, Value
from thinwire.optim.fragment import Fragment

BAD_PROGRAM, BAD_LAYOUT, BAD_ARGUMENT = -2, -3, -4


@pytest.fixture(autouse=True)
def there_is_a_library() -> None:
    if not native.available():
        pytest.fail("the C++ library is missing: was there a compiler when thinwire was installed?")


def equal(a: native.Encoded, b: native.Encoded) -> bool:
    assert a.kept is not None
    assert b.kept is not None
    return torch.equal(a.payload, b.payload) and torch.equal(a.kept, b.kept)


# -- memory ------------------------------------------------------------------------------------------------------------------------


def moved(tensor: Tensor, offset: int) -> Tensor:
    """The same numbers `offset` elements away from where an allocation begins."""
    room = torch.full((tensor.numel() + offset + 1,), 77, dtype=torch.float32).to(tensor.dtype)
    view = room[offset : offset + tensor.numel()].view(tensor.shape)
    return view.copy_(tensor)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("offset", [1, 3])
def test_views_at_any_offset_give_the_same_bytes(name: str, offset: int) -> None:
    fragment = Fragment([torch.Size(shape) for shape in ((70, 130), (4100,))], named(name))
    program = program_of(fragment.plan)
    sources = tensors([tuple(shape) for shape in fragment.shapes], 1, [torch.float32, torch.bfloat16])
    held, anchor = torch.randn(program.rows, program.chunk), torch.randn(fragment.numel)
    wanted = native.encode(program, sources, held=held, anchor=anchor, decay=0.9)
    assert wanted.kept is not None
    there = [moved(source, offset) for source in sources]
    kept = moved(torch.zeros_like(held), offset)
    made = native.encode(program, there, held=moved(held, offset), anchor=moved(anchor, offset), decay=0.9, kept=kept)
    assert equal(made, wanted)
    payload = moved(wanted.payload, offset)
    assert payload.data_ptr() % 2 == 1
    assert native.check(program, payload) == -1

    def finished(place: Callable[[Tensor], Tensor], payload: Tensor) -> list[Tensor]:
        outs = []
        for dtype in native.TARGETS:
            out, at, buffer = place(torch.zeros(fragment.numel)), place(anchor), place(anchor * 2)
            finishes: list[Finish] = [Out(out), Step(0.1, 0.9), Sgd(at, 0.7, 0.9, True, buffer)]
            for finish in finishes:
                targets = [place(source.to(dtype)) for source in sources]
                native.decode(program, [payload, wanted.payload], targets, finish)
                outs += [*targets, out, at, buffer]
        return outs

    pairs = zip(finished(torch.clone, wanted.payload), finished(lambda tensor: moved(tensor, offset), payload), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    if program.side:
        x = torch.randn(3, program.chunk)
        out = moved(torch.zeros_like(x), offset)
        native.dct_tiles(moved(x, offset), program.side, out=out)
        assert torch.equal(out, native.dct_tiles(x, program.side))


@contextmanager
def read_only(tensor: Tensor) -> Iterator[Tensor]:
    """A copy in pages that cannot be written."""
    raw = tensor.contiguous().view(torch.uint8).reshape(-1).numpy().tobytes()
    writable = mmap.mmap(-1, len(raw))
    writable.write(raw)
    shown = torch.frombuffer(writable, dtype=tensor.dtype, count=tensor.numel()).view(tensor.shape)
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    pages = -(-len(raw) // mmap.PAGESIZE) * mmap.PAGESIZE
    assert protect(shown.data_ptr(), pages, mmap.PROT_READ) == 0
    yield shown
    assert protect(shown.data_ptr(), pages, mmap.PROT_READ | mmap.PROT_WRITE) == 0


@pytest.mark.parametrize("name", ["none", "int8", "dct-blockmax", "topk", "blockmax64-vote"])
def test_what_is_only_read_may_be_read_only(name: str) -> None:
    fragment = Fragment([torch.Size((130, 70)), torch.Size((4100,))], named(name))
    program = program_of(fragment.plan)
    sources = tensors([tuple(shape) for shape in fragment.shapes], 1, [torch.float32])
    held, anchor = torch.randn(program.rows, program.chunk), torch.randn(fragment.numel)
    wanted = native.encode(program, sources, held=held, anchor=anchor)
    with read_only(sources[0]) as first, read_only(sources[1]) as second, read_only(held) as hold, read_only(anchor) as at:
        assert equal(native.encode(program, [first, second], held=hold, anchor=at), wanted)
    with read_only(wanted.payload) as payload:
        assert native.check(program, payload) == -1
        outs = [torch.empty(fragment.numel) for _ in range(2)]
        for out, given in zip(outs, (payload, wanted.payload), strict=True):
            native.decode(program, [given], sources, Out(out))
        assert torch.equal(*outs)


def test_memory_that_is_not_contiguous_is_refused() -> None:
    program = program_of(named("blockmax").plan(4))
    x, matrix = torch.randn(128, 128), torch.randn(4, 4096)
    payload = native.encode(program, [x]).payload
    across = torch.randn(4096, 4).t()
    apart = torch.randn(2 * 16384)[::2]
    for bad in (lambda: native.encode(program, [x.t()]), lambda: native.encode(program, [x], held=across)):
        with pytest.raises(ValueError, match=r"contiguous CPU tensors, got .* strides"):
            bad()
    with pytest.raises(ValueError, match="contiguous"):
        native.encode(program, [x], anchor=apart)
    with pytest.raises(ValueError, match="contiguous"):
        native.encode(program, [x], kept=across)
    with pytest.raises(ValueError, match="contiguous"):
        native.decode(program, [payload], [x.t()], Step(0.1))
    with pytest.raises(ValueError, match="contiguous"):
        native.decode(program, [payload], [x], Out(apart))
    with pytest.raises(ValueError, match="contiguous"):
        native.decode(program, [payload], [x], Sgd(apart))
    with pytest.raises(ValueError, match="contiguous"):
        native.dct_tiles(matrix, 64, out=across)
    # Where only a copy is read it may be any view.
    assert native.check(program, torch.stack([payload, payload], 1)[:, 0]) == -1


def test_kept_may_not_be_what_is_held() -> None:
    program = program_of(named("blockmax").plan(4))
    held = torch.randn(4, 4096)
    before = held.clone()
    with pytest.raises(ValueError, match="used twice"):
        native.encode(program, [torch.randn(16384)], held=held, kept=held)
    assert torch.equal(held, before)


# -- sizes and programs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_encoded_and_decoded(name: str) -> None:
    program = program_of(named(name).plan(0, named(name).chunk or 5))
    for sources in ([], [torch.zeros(0)], [torch.zeros(3, 0), torch.zeros(0, 64, 64)]):
        made = native.encode(program, sources)
        assert (made.payload.shape, made.stats.tolist()) == ((0,), [0, 0, 0])
        assert native.check(program, made.payload) == -1
        for finish in (Out(torch.zeros(0)), Step(0.1), Sgd(torch.zeros(0))):
            native.decode(program, [made.payload], sources, finish)
    assert native.dct_tiles(torch.zeros(0, 64), 8).shape == (0, 64)
    assert native.dct_rows(torch.zeros(0, 64)).shape == (0, 64)
    for coding in native.CODINGS:
        for k, rows in ((0, 3), (3, 0), (0, 0)):
            packed, sizes = native.pack_index(torch.zeros(rows, k, dtype=torch.uint16), 64, coding)
            assert native.unpack_index(packed, sizes, k, 64, coding)[0].shape == (rows, k)


@pytest.mark.parametrize("chunk", [8, 16, 64, 4096, 16384])
@pytest.mark.parametrize("value", [Float32(), Int8(), Sign(), Vote()], ids=repr)
def test_all_of_a_row_may_be_chosen(chunk: int, value: Any) -> None:
    plan = chain(TopK(chunk, chunk), value, Pack()).plan(3, chunk)
    x = torch.randn(3, chunk)
    x[1] = 0
    made = native.encode(program_of(plan), [x.view(-1)])
    assert torch.equal(made.payload, plan.encode(x))
    assert native.check(program_of(plan), made.payload) == -1
    out = torch.empty(3 * chunk)
    native.decode(program_of(plan), [made.payload], [x], Out(out))
    assert torch.equal(out.view(3, chunk), plan.decode(made.payload))


SPARSE = Program(4, 4096, 64, Select.TOP_K, 32, 0, Value.INT8, Index.ELIAS_FANO, 1, 72, 0)
BLOCKS = Program(4, 4096, 0, Select.BLOCK_MAX, 64, 64, Value.SIGN, Index.OFFSETS, 1, 60, 0)
DENSE = Program(4, 1024, 0, Select.ALL, 1024, 0, Value.INT4, Index.NONE, 1, 516, 0)
CAST = Program(1, 5000, 0, Select.ALL, 5000, 0, Value.BFLOAT16, Index.NONE, 0, 10000, 0)

FOREIGN = {
    "rows": [-1, -(2**63)],
    "chunk": [-4096, 0, 1, 7, 4095, 2**31, 2**52, 2**62],
    "side": [-64, 1, 7, 63, 65, 2**32 + 64],
    "select": [-1, 3, 2**32],
    "k": [-1, 0, 33, 16385, 2**31, 2**62],
    "block": [-64, 1, 3, 63, 2**62],
    "value": [-1, 10, 2**32],
    "index": [-1, 5, 2**32],
    "scale": [-1, 2],
    "record": [-72, 0, 71, 73, 2**40],
    "seed": [-1, 2**32],
}


@pytest.mark.parametrize("program", [SPARSE, BLOCKS, DENSE, CAST], ids=lambda program: Value(program.value).name)
@pytest.mark.parametrize("field", FOREIGN)
def test_programs_with_a_wrong_field_are_refused(program: Program, field: str) -> None:
    x = torch.randn(program.rows * program.chunk)
    assert native.check(program, native.encode(program, [x.view(-1, 64) if program.side else x]).payload) == -1
    library = native.library()
    for value in FOREIGN[field]:
        wrong = native._Program(*program._replace(**{field: value}))
        stats, finish = (c_double * 3)(), native._Finish(anchor=x.data_ptr())
        sheet = native._Sheet(x.data_ptr(), 0, 1, x.numel())
        out = x.data_ptr()
        assert library.tw_check(byref(wrong), out, 1) == BAD_PROGRAM, value
        assert library.tw_encode(byref(wrong), byref(sheet), 1, None, None, 1, 1, out, out, stats, 1) == BAD_PROGRAM, value
        payloads = (ctypes.c_void_p * 1)(out)
        assert library.tw_decode(byref(wrong), payloads, 1, 0, byref(finish), byref(sheet), 1, 1) == BAD_PROGRAM, value


def test_a_wrong_program_is_told_as_one() -> None:
    with pytest.raises(ValueError, match="a program that the C\\+\\+ kernels do not know"):
        native.encode(BLOCKS._replace(block=63), [torch.randn(16384)])
    with pytest.raises(ValueError, match="do not know"):
        native.check(BLOCKS._replace(k=63), torch.zeros(240, dtype=torch.uint8))
    with pytest.raises(ValueError, match="do not know"):
        native.decode(BLOCKS._replace(scale=2), [torch.zeros(240, dtype=torch.uint8)], [torch.zeros(16384)], Step(0.1))


@pytest.mark.parametrize(
    "shapes", [[], [(16384 - 4096,)], [(16385,)], [(4097,), (4096,), (4096,), (4096,)], [(0,)], [(2**14, 2)]], ids=str
)  # fmt: skip
def test_tensors_that_do_not_fill_the_rows_are_refused(shapes: list[tuple[int, ...]]) -> None:
    given = [torch.zeros(shape) for shape in shapes]
    with pytest.raises(ValueError, match="do not fill its rows"):
        native.encode(BLOCKS, given)
    with pytest.raises(ValueError, match="do not fill its rows"):
        native.decode(BLOCKS, [torch.zeros(240, dtype=torch.uint8)], given, Step(0.1))


def test_buffers_of_another_size_or_dtype_are_refused() -> None:
    x, payload = torch.randn(16384), torch.zeros(240, dtype=torch.uint8)
    for wrong in (torch.zeros(16383), torch.zeros(16384, dtype=torch.float64)):
        for name in ("anchor", "held", "kept"):
            with pytest.raises(ValueError, match=f"{name} is .*, expected 16384 float32"):
                native.encode(BLOCKS, [x], **{name: wrong})
        with pytest.raises(ValueError, match="out is"):
            native.decode(BLOCKS, [payload], [x], Out(wrong))
        with pytest.raises(ValueError, match="anchor is"):
            native.decode(BLOCKS, [payload], [x], Sgd(wrong))
        with pytest.raises(ValueError, match="momentum buffer is"):
            native.decode(BLOCKS, [payload], [x], Sgd(x.clone(), momentum=0.9, buffer=wrong))
    with pytest.raises(ValueError, match="a buffer is missing"):
        native.decode(BLOCKS, [payload], [x], Sgd(x.clone(), momentum=0.9))
    for wrong in (payload[1:], payload.to(torch.int8), payload.view(4, 60)):
        with pytest.raises(ValueError, match="payload is"):
            native.check(BLOCKS, wrong)
        with pytest.raises(ValueError, match="payload is"):
            native.decode(BLOCKS, [payload, wrong], [x], Step(0.1))
    for dtype in (torch.float64, torch.int32):
        with pytest.raises(ValueError, match="native kernels take"):
            native.encode(BLOCKS, [x.to(dtype)])
    with pytest.raises(ValueError, match="native kernels take"):
        native.decode(BLOCKS, [payload], [x.half()], Step(0.1))
    with pytest.raises(ValueError, match="got no payloads"):
        native.decode(BLOCKS, [], [x], Step(0.1))


def test_places_that_cannot_be_packed_are_refused() -> None:
    for coding in native.CODINGS:
        for places in ([3, 3], [5, 4], [4, 64], [0, 65535]):
            index = torch.tensor([[1, 2], places, [7, 9]], dtype=torch.uint16)
            with pytest.raises(ValueError, match="cannot pack"):
                native.pack_index(index, 64, coding, rice=3)
        with pytest.raises(ValueError, match="cannot code"):
            native.pack_index(torch.zeros(1, 65, dtype=torch.uint16), 64, coding)
        packed, sizes = native.pack_index(torch.tensor([[1, 2]], dtype=torch.uint16), 64, coding, rice=3)
        with pytest.raises(ValueError, match="cannot unpack"):
            native.unpack_index(packed[:, :-1], sizes, 2, 64, coding, rice=3)
    for size in (-1, packed.shape[1] + 1):
        with pytest.raises(ValueError, match="cannot unpack"):
            native.unpack_index(packed, torch.tensor([size]), 2, 64, "rice", rice=3)
    with pytest.raises(ValueError, match="low bits"):
        native.pack_index(torch.zeros(1, 1, dtype=torch.uint16), 64, "rice", rice=16)


def test_members_that_name_a_place_again_and_again_do_no_harm() -> None:
    # Nobody checked these payloads: one place is counted many more times than there are members.
    k = 16384
    program = Program(1, k, 0, Select.TOP_K, k, 0, Value.VOTE, Index.PLANES, 1, 4 + 14 * k // 8 + k // 8, 0)
    every = native.encode(program, [torch.ones(k)]).payload
    one = torch.zeros_like(every)
    one[:4] = every[:4]
    assert (native.check(program, every), native.check(program, one)) == (-1, 0)
    out = torch.empty(k)
    native.decode(program, [every] + [one] * 200, [torch.empty(k)], Out(out))
    with pytest.raises(ValueError, match="cannot be meant"):
        native.decode(SPARSE, [torch.zeros(288, dtype=torch.uint8)] * 65536, [torch.empty(64, 256)], Step(0.1))
