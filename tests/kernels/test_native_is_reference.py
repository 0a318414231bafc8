"""The C++ library holds the bits of the numpy specification and of torch, at every instruction set and thread count."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.attacks.test_mutations import mutate
from tests.codecs import NAMES, named
from tests.kernels.test_vector_is_reference import KINDS, rows
from thinwire.comms.codec import Plan
from thinwire.kernels import native, reference_chain, vector
from thinwire.kernels.finish import Out, Sgd, Step
from thinwire.kernels.program import Program, Value
from thinwire.kernels.triton_shape import QMAX
from thinwire.optim.aggregate import contributors, mean
from thinwire.optim.fragment import Fragment, gather_flat
from thinwire.optim.outer import SGD


def levels() -> Iterator[int]:
    """Each instruction set that this processor has, in use."""
    if not native.available():
        pytest.fail("the C++ library is missing: was there a compiler when thinwire was installed?")
    before = native.isa()
    try:
        for level in range(3):
            if native.set_isa(level) == level:
                yield level
    finally:
        native.set_isa(before)


def program_of(plan: Plan) -> Program:
    assert plan.program is not None
    return plan.program


def same(mine: Tensor | None, wanted: np.ndarray) -> None:
    assert mine is not None
    got = mine.numpy()
    assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
    assert got.tobytes() == wanted.tobytes()


def source_of(program: Program, x: np.ndarray) -> Tensor:
    """A tensor whose matrix is x."""
    return torch.from_numpy(x).view(-1, program.side) if program.side else torch.from_numpy(x).view(-1)


# -- encoding ----------------------------------------------------------------------------------------------------------------------


CASES = {"nothing held": (1.0, 0.3), "all held": (1.0, 1.0), "much held": (0.875, 0.3), "forgotten": (0.0, 1.0), "anchor": (0.95, 1.0)}


def held_for(case: str, n: int, chunk: int) -> np.ndarray | None:
    """A residual unlike what is encoded: of other sizes, with what must be flushed, and a last row that underflows."""
    if case == "nothing held":
        return None
    held = rows("specials" if case == "forgotten" else "wide", n, chunk, 2)
    if n > 1:
        held[-2] = rows("specials", 1, chunk, 3)
    held[-1] *= np.float32(2.0**-120)
    return held


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_encoding_is_the_reference(name: str, kind: str, case: str) -> None:
    chunk, (decay, gain) = named(name).chunk or 777, CASES[case]
    program = program_of(named(name).plan(3, chunk))
    x, held = rows(kind, 3, chunk, 1), held_for(case, 3, chunk)
    anchor = rows("normal", 3, chunk, 4) if case == "anchor" else None
    payload, kept, bad = reference_chain.encode_rows(program, x, held, decay, gain, anchor=anchor)
    flat_anchor = None if anchor is None else source_of(program, anchor).reshape(-1)
    for _ in levels():
        made = native.encode(
            program,
            [source_of(program, x)],
            anchor=None if anchor is None else flat_anchor,
            held=None if held is None else torch.from_numpy(held),
            decay=decay,
            gain=gain,
        )
        same(made.payload, payload)
        same(made.kept, kept)
        assert made.stats[0] == bad
        assert native.check(program, made.payload) == -1


@pytest.mark.parametrize("name", NAMES)
def test_threads_and_what_is_not_asked_for_change_nothing(name: str) -> None:
    codec = named(name)
    n, chunk = (1, 70_001) if codec.chunk is None else (66_000 // codec.chunk + 2, codec.chunk)  # enough for several threads
    program = program_of(codec.plan(n, chunk))
    each = [rows(kind, max(n // len(KINDS), 1), chunk, seed) for seed, kind in enumerate(KINDS)]
    x = np.resize(np.concatenate(each), (n, chunk)) if n > 1 else rows("normal", n, chunk, 1)
    held = held_for("all held", n, chunk)
    assert held is not None
    payload, kept, bad = reference_chain.encode_rows(program, x, held, 0.95)
    whole = reference_chain.accumulate(native_basis(program, x), held, 0.95, 1.0)
    arguments: dict[str, Any] = {"held": torch.from_numpy(held), "decay": 0.95}
    for _ in levels():
        for threads in (1, 2, 5):
            made = native.encode(program, [source_of(program, x)], **arguments, threads=threads)
            same(made.payload, payload)
            same(made.kept, kept)
            assert made.stats[0] == bad
            assert native.check(program, made.payload, threads=threads) == -1
    into = torch.empty(n, chunk)
    alone = native.encode(program, [source_of(program, x)], **arguments, state=False)
    assert alone.kept is None
    same(alone.payload, payload)
    assert native.encode(program, [source_of(program, x)], **arguments, kept=into).kept is into
    same(into, kept)
    unsent = native.encode(program, [source_of(program, x)], **arguments, code=False)
    assert unsent.payload.numel() == 0
    same(unsent.kept, whole)


def native_basis(program: Program, x: np.ndarray) -> np.ndarray:
    """x without what cannot be sent, in the basis."""
    flushed = vector.flush(torch.from_numpy(x))
    return (native.dct_tiles(flushed, program.side) if program.side else flushed).numpy()


@pytest.mark.parametrize("kind", ["normal", "ties", "zeros", "sparse"])
@pytest.mark.parametrize("name", NAMES)
def test_squares_for_the_ledger_are_about_right(name: str, kind: str) -> None:
    chunk = named(name).chunk or 777
    program = program_of(named(name).plan(5, chunk))
    x, held = rows(kind, 5, chunk, 1), rows("normal", 5, chunk, 2)
    whole = reference_chain.accumulate(native_basis(program, x), held, 0.95, 1.0)
    made = native.encode(program, [source_of(program, x)], held=torch.from_numpy(held), decay=0.95)
    assert made.kept is not None
    read, kept, everything = (float((part.astype(np.float64) ** 2).sum()) for part in (x, made.kept.numpy(), whole))
    assert float(made.stats[1]) == pytest.approx(read, rel=1e-5)
    assert float(made.stats[2]) == pytest.approx(kept, rel=1e-5, abs=1e-6 * everything)  # a difference of large sums


SHAPES: list[list[tuple[int, ...]]] = [
    [],
    [(0,), (3, 0)],
    [()],
    [(1,), (1, 1)],
    [(7919,)],
    [(64, 64)],
    [(257, 71)],
    [(), (70,), (130, 133), (8, 3, 5, 5), (127, 3), (0,), (64, 64), (64, 128), (3, 4099)],
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def tensors(shapes: list[tuple[int, ...]], seed: int, dtypes: list[torch.dtype]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtypes[i % len(dtypes)]) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_tensors_of_every_shape_and_dtype_are_the_reference(name: str, shapes: list[tuple[int, ...]]) -> None:
    fragment = Fragment([torch.Size(shape) for shape in shapes], named(name))
    program = program_of(fragment.plan)
    anchor = tensors(shapes, 2, DTYPES[:1])
    before = reference_chain.to_matrix(program, [tensor.numpy() for tensor in anchor])
    for dtypes in ([torch.float32], [torch.bfloat16], [torch.float16], DTYPES):
        mine = tensors(shapes, 1, dtypes)
        x = reference_chain.to_matrix(program, [tensor.float().numpy() for tensor in mine])
        for wanted, given in (
            (reference_chain.encode_rows(program, x, None, 1.0), None),
            (reference_chain.encode_rows(program, x, None, 1.0, anchor=before), gather_flat(anchor)),
        ):
            for _ in levels():
                made = native.encode(program, mine, anchor=given)
                same(made.payload, wanted[0])
                same(made.kept, wanted[1])
                assert made.stats[0] == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_number_of_a_short_dtype_is_widened_exactly(dtype: torch.dtype) -> None:
    source = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    program = program_of(named("none").plan(1, 2**16))
    payload, kept, bad = reference_chain.encode_rows(program, source.float().numpy().reshape(1, -1), None, 1.0)
    for _ in levels():
        made = native.encode(program, [source])
        same(made.payload, payload)
        same(made.kept, kept)
        assert made.stats[0] == bad > 0


# -- decoding ----------------------------------------------------------------------------------------------------------------------


def sent_by(fragment: Fragment, members: int) -> list[Tensor]:
    """Payloads of members that have little in common: numbers, ties, nothing, few."""
    payloads = []
    for member in range(members):
        mine = tensors([tuple(shape) for shape in fragment.shapes], 10 + member, DTYPES[:1])
        if member % 4 == 1:
            mine = [part.round() for part in mine]
        elif member % 4 == 2:
            mine = [part * 0 for part in mine]
        elif member % 4 == 3:
            mine = [part * (part.abs() > 2) for part in mine]
        payloads.append(native.encode(program_of(fragment.plan), mine, state=False).payload)
    return payloads


def step(weights: list[Tensor], update: list[Tensor], rule: Step) -> list[Tensor]:
    """As optim/demo.py moves weights."""
    moved = [weight.clone() for weight in weights]
    for weight, part in zip(moved, update, strict=True):
        if rule.keep != 1:
            weight.mul_(rule.keep)
        weight.sub_((part.sign() if rule.sign else part) * rule.lr)
    return moved


STEPS = [Step(0.01), Step(0.3, sign=True), Step(0.01, 1.0 - 0.01 * 0.1), Step(1.0, 0.5, sign=True)]
OUTER = [SGD(1.0), SGD(0.7), SGD(0.7, 0.9), SGD(0.7, 0.9, True), SGD(1.0, 0.5)]


@pytest.mark.parametrize("members", [1, 2, 3, 8])
@pytest.mark.parametrize("name", NAMES)
def test_decoding_and_finishing_are_the_definition(name: str, members: int) -> None:
    fragment = Fragment([torch.Size(shape) for shape in SHAPES[-1]], named(name))
    plan = fragment.plan
    payloads = sent_by(fragment, members)
    for rule, by_contributors in ((mean, False), (contributors, True)):
        update = fragment.flat(plan.inverse(rule(plan, [plan.values(payload) for payload in payloads])))
        for dtype in native.TARGETS:
            check_finishes(fragment, payloads, update, [dtype], by_contributors)


@pytest.mark.parametrize("shapes", [[(64, 64), (128, 64)], [(70,), (300, 300), (64, 128)]], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_tiles_of_several_dtypes_are_finished_one_after_another(name: str, shapes: list[tuple[int, ...]]) -> None:
    fragment = Fragment([torch.Size(shape) for shape in shapes], named(name))
    plan, payloads = fragment.plan, sent_by(fragment, 3)
    update = fragment.flat(plan.inverse(mean(plan, [plan.values(payload) for payload in payloads])))
    check_finishes(fragment, payloads, update, DTYPES[:2], threads=(1, 2, 5))


def check_finishes(
    fragment: Fragment,
    payloads: list[Tensor],
    update: Tensor,
    dtypes: list[torch.dtype],
    by_contributors: bool = False,
    threads: Sequence[int] = (1,),
) -> None:
    program, shapes = program_of(fragment.plan), [tuple(shape) for shape in fragment.shapes]
    weights = tensors(shapes, 5, dtypes)
    stepped = [step(weights, fragment.split(update), rule) for rule in STEPS]
    anchor, buffer = torch.randn(2, fragment.numel, generator=torch.Generator().manual_seed(6)).unbind()
    moved = [rule(anchor, update, buffer if rule.momentum else None) for rule in OUTER]
    for many in (many for _ in levels() for many in threads):
        decode = partial(native.decode, program, payloads, contributors=by_contributors, threads=many)
        out = torch.full((fragment.numel,), float("nan"))
        decode(weights, Out(out))
        same(out, update.numpy())
        for rule, wanted in zip(STEPS, stepped, strict=True):
            mine = [weight.clone() for weight in weights]
            decode(mine, rule)
            assert all(torch.equal(a, b) for a, b in zip(mine, wanted, strict=True)), rule
        for outer, (after, momentum) in zip(OUTER, moved, strict=True):
            mine, at = [torch.full_like(weight, 7) for weight in weights], anchor.clone()
            held = buffer.clone() if outer.momentum else None
            decode(mine, Sgd(at, outer.lr, outer.momentum, outer.nesterov, held))
            same(at, after.numpy())
            if held is not None and momentum is not None:
                same(held, momentum.numpy())
            assert all(torch.equal(a, b.to(a.dtype)) for a, b in zip(mine, fragment.split(after), strict=True)), outer


@pytest.mark.parametrize("name", NAMES)
def test_sums_of_the_smallest_values_that_nearly_cancel(name: str) -> None:
    fragment = Fragment([torch.Size((130, 133)), torch.Size((70,))], named(name))
    plan, program = fragment.plan, program_of(fragment.plan)
    if not program.scale or program.value not in QMAX:
        pytest.skip("has no scale that could be smaller than others")
    generator = torch.Generator().manual_seed(3)
    few = torch.rand(program.rows, program.chunk, generator=generator) < 16 / program.chunk
    sizes = 2.0 ** (-9 * torch.rand(few.shape, generator=generator))
    source = fragment.flat(plan.inverse(few * sizes))
    sent = [native.encode(program, fragment.split(x), state=False).payload for x in (source, -source, source * 0)]
    least = 2.0 ** -(100 + math.floor(math.log2(QMAX[Value(program.value)])))
    for payload, scale in zip(sent, (least, least * (1 + 2.0**-15)), strict=False):
        payload.view(program.rows, program.record)[:, :4] = torch.tensor([scale]).view(torch.uint8)
    larger = native.encode(program, fragment.split(source), state=False).payload
    for payloads in (sent[:2], sent, [sent[0], larger], [larger, *sent, larger]):
        assert all(native.check(program, payload) == -1 for payload in payloads)
        for rule, by_contributors in ((mean, False), (contributors, True)):
            update = fragment.flat(plan.inverse(rule(plan, [plan.values(payload) for payload in payloads])))
            for _ in levels():
                out = torch.empty(fragment.numel)
                native.decode(program, payloads, fragment.split(source), Out(out), contributors=by_contributors)
                same(out, update.numpy())


@pytest.mark.parametrize("name", NAMES)
def test_threads_decode_the_same(name: str) -> None:
    shapes = [(300, 300), (70,)]
    fragment = Fragment([torch.Size(shape) for shape in shapes], named(name))
    plan, payloads = fragment.plan, sent_by(fragment, 3)
    update = fragment.flat(plan.inverse(mean(plan, [plan.values(payload) for payload in payloads])))
    for _ in levels():
        for threads in (1, 2, 5):
            out = torch.empty(fragment.numel)
            native.decode(program_of(plan), payloads, tensors(shapes, 1, DTYPES), Out(out), threads=threads)
            same(out, update.numpy())


@pytest.mark.parametrize("name", NAMES)
def test_a_decay_that_is_not_finite_gives_the_same_everywhere(name: str) -> None:
    program = program_of(named(name).plan(2, named(name).chunk or 4096))
    source = source_of(program, np.ones((program.rows, program.chunk), dtype=np.float32))
    held = torch.zeros(program.rows, program.chunk)
    held[0, 5] = 1e-40
    for decay in (math.inf, math.nan):
        plain, *others = [native.encode(program, [source], held=held, decay=decay) for _ in levels()]
        for made in others:
            assert torch.equal(made.payload, plain.payload)
            assert plain.kept is not None
            same(made.kept, plain.kept.numpy())


# -- what is refused ---------------------------------------------------------------------------------------------------------------


def refused_here_and_there(name: str, n: int, seed: int) -> int:
    """How many of n changed records both the library and the torch decoder refuse: the same ones."""
    codec = named(name)
    plan = codec.plan(n, codec.chunk or 9)
    x = torch.from_numpy(np.concatenate([rows(kind, -(-n // 3), plan.chunk, seed) for kind in ("normal", "ties", "sparse")])[:n])
    x[::7] = 0
    good = plan.encode(x).view(n, -1)
    changed = mutate(good, seed)
    changed[: n // 4] = good[: n // 4]
    changed[: n // 8, -1] ^= 0x80  # the last bit: of a value, or of the padding
    changed[n // 8 : n // 4, 0] ^= 1
    _, sound = plan.read(changed.reshape(-1))
    alone = program_of(codec.plan(1, plan.chunk))
    for _ in levels():
        assert [native.check(alone, record) == -1 for record in changed] == sound.tolist()
        for first in range(0, n, max(n // 5, 1)):  # the first bad row from each of some rows on
            part = program_of(codec.plan(n - first, plan.chunk))
            wrong = (~sound[first:]).nonzero()
            assert native.check(part, changed[first:].reshape(-1), threads=2) == (int(wrong[0]) if len(wrong) else -1)
    return int((~sound).sum())


@pytest.mark.parametrize("name", NAMES)
def test_the_same_records_are_refused_as_by_the_stages(name: str) -> None:
    few = "2048" in name or "4096" in name
    refused = refused_here_and_there(name, 60 if few else 400, 11)
    assert refused > 0 or "vote" in name


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(12, 20))
def test_the_same_of_many_records_are_refused(name: str, seed: int) -> None:
    refused_here_and_there(name, 3000, seed)
