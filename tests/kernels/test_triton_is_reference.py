"""The Triton kernels hold the bytes of the numpy chains, in Triton's interpreter: payloads, what is kept, updates, and what is sound."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.attacks.test_mutations import mutate
from tests.codecs import NAMES, named
from tests.kernels import triton_work as work
from tests.kernels.conftest import Run
from tests.kernels.test_vector_is_reference import KINDS, clean, rows
from thinwire.kernels import dct, reference, reference_chain
from thinwire.kernels.program import Program
from thinwire.kernels.reference_record import sound_row

pytest.importorskip("triton")

Shapes = list[tuple[int, ...]]
LARGE: Shapes = [(), (65, 130), (131,), (0, 4), (8, 3, 5, 5), (64, 64), (127, 3), (3, 4099)]
SMALL: Shapes = [(), (17, 34), (31,), (0, 4), (8, 3, 2, 2), (8, 8), (15, 3), (1, 1)]
MEMBERS = ("ties", "zeros")


def program_of(name: str, n: int, chunk: int = 0) -> Program:
    program = named(name).plan(n, chunk or named(name).chunk or 777).program
    assert program is not None
    return program


def kinds_for(name: str) -> list[str]:
    """Kinds of trouble: fewer for long rows, where the interpreter takes its time."""
    return KINDS if (named(name).chunk or 0) < 4096 else ["ties", "zeros", "specials", "wide"]


def squares(program: Program, x: np.ndarray) -> list[np.ndarray]:
    """Rows as the tensors that a fragment cuts into them."""
    return list(x.reshape(len(x), program.side, -1)) if program.side else [x.reshape(-1)]


def shapes_for(name: str) -> Shapes:
    """Of a few rows, with whole tiles and edges."""
    return SMALL if (named(name).chunk or 0) <= 64 else LARGE


def numbers(sources: Shapes, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in sources]


def fitting(name: str, shapes: Shapes) -> Program:
    """The program of a fragment of these shapes."""
    side, chunk = named(name).side, named(name).chunk or 8
    probe = reference_chain.to_matrix(Program(10**4, chunk, side or 0, 0, 0, 0, 0, 0, 0, 0, 0), [np.ones(shape) for shape in shapes])
    return program_of(name, int(probe.reshape(-1).nonzero()[0].max()) // chunk + 1, chunk)


@pytest.mark.parametrize("name", NAMES)
def test_encoding_and_decoding_are_the_reference(name: str, interpreted: Run) -> None:
    kinds = kinds_for(name)
    program = program_of(name, len(kinds))
    x = np.concatenate([rows(kind, 1, program.chunk, 1) for kind in kinds])
    held = rows("wide", len(kinds), program.chunk, 2)
    held[2] *= np.float32(2.0**-120)  # underflows
    payload, kept, bad = reference_chain.encode_rows(program, x, held, 0.875, 0.3)
    got, left, stats = interpreted(work.encode, program, squares(program, x), held=held, decay=0.875, gain=0.3)
    assert got.tobytes() == payload.tobytes()
    assert left.tobytes() == kept.tobytes()
    assert stats[0] == bad
    sent = [payload, *(reference_chain.encode_rows(program, rows(kind, len(x), program.chunk, 5), None, 1.0)[0] for kind in MEMBERS)]
    assert_decoded(program, x, sent, NAMES.index(name) % 2 == 0, interpreted)


def assert_decoded(program: Program, x: np.ndarray, sent: list[np.ndarray], contributors: bool, interpreted: Run) -> None:
    wanted = reference_chain.decode_rows(program, np.stack(sent), contributors)
    if program.side:
        wanted = dct.idct_tiles(wanted, program.side)
    update = interpreted(work.decode, program, sent, [part.shape for part in squares(program, x)], contributors=contributors)
    assert b"".join(part.tobytes() for part in update) == wanted.tobytes()


@pytest.mark.parametrize("name", ["topk31-vote", "blockmax", "dct8-blockmax16-int2", "int4", "fp8"])
def test_nothing_held_and_any_number_of_members_too(name: str, interpreted: Run) -> None:
    program = program_of(name, 3)
    x = rows("sparse", 3, program.chunk, 1)
    payload, kept, _ = reference_chain.encode_rows(program, x, None, 1.0)
    got, left, _ = interpreted(work.encode, program, squares(program, x))
    assert (got.tobytes(), left.tobytes()) == (payload.tobytes(), kept.tobytes())
    others = [reference_chain.encode_rows(program, rows("ties", 3, program.chunk, seed), None, 1.0)[0] for seed in range(8)]
    for members in (1, 4, 9):
        assert_decoded(program, x, [payload, *others][:members], members == 4, interpreted)


@pytest.mark.parametrize("name", NAMES)
def test_a_record_is_sound_here_and_there_or_nowhere(name: str, interpreted: Run) -> None:
    n = 4 if "2048" in name or "4096" in name else 8
    program = program_of(name, n, named(name).chunk or 8)
    x = np.concatenate([rows(kind, n // 2, program.chunk, 3) for kind in ("ties", "sparse")])
    x[-1] = 0
    good = reference_chain.encode_rows(program, x, None, 1.0)[0].reshape(n, -1)
    bad = mutate(torch.from_numpy(good), 4).numpy().copy()
    bad[:2] = good[:2]
    bad[0, -1] ^= 0x80
    bad[1, 0] ^= 1
    assert interpreted(work.check, program, good.reshape(-1)) == -1
    for row in range(n):
        alone = good.copy()
        alone[row] = bad[row]
        assert interpreted(work.check, program, alone.reshape(-1)) == (-1 if sound_row(program, bad[row]) else row)


LAYOUTS = ["none", "bf16", "int8", "blockmax64-vote", "dct8-blockmax16-int2", "dct32-topk16", "dct-blockmax"]


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, "bfloat16") for name in LAYOUTS), ("int8", "float32"), ("dct8-blockmax16-int2", "float16")]
)
def test_fragments_of_every_shape_are_the_reference(name: str, dtype: str, interpreted: Run) -> None:
    shapes = shapes_for(name)
    program = fitting(name, shapes)
    mine = [tensor.float().numpy() for tensor in work.tensors(numbers(shapes, 1), dtype)]
    anchor = numbers(shapes, 2)
    x, before = (reference_chain.to_matrix(program, list(part)) for part in (mine, anchor))
    payload, kept, bad = reference_chain.encode_rows(program, x, None, 1.0, anchor=before)
    flat = np.concatenate([part.reshape(-1) for part in anchor])
    got, left, _ = interpreted(work.encode, program, mine, dtype, anchor=flat)
    assert (got.tobytes(), left.tobytes(), bad) == (payload.tobytes(), kept.tobytes(), 0)
    wanted = reference_chain.decode_rows(program, payload[None])
    if program.side:
        wanted = dct.idct_tiles(wanted, program.side)
    parts = reference_chain.to_tensors(program, wanted, shapes)
    update = interpreted(work.decode, program, [payload], shapes)
    assert [part.tobytes() for part in update] == [part.tobytes() for part in parts]


@pytest.mark.parametrize(
    ("name", "dtype"), [("blockmax", "float32"), ("dct8-blockmax16-int2", "bfloat16"), ("dct8-blockmax16-int2", "float16")]
)
def test_an_update_is_finished_as_torch_would(name: str, dtype: str, interpreted: Run) -> None:
    shapes = shapes_for(name)
    program = fitting(name, shapes)
    x = reference_chain.to_matrix(program, numbers(shapes, 1))
    sent = [reference_chain.encode_rows(program, x * np.float32(factor), None, 1.0)[0] for factor in (1, -0.25)]
    (update,) = [np.concatenate([part.reshape(-1) for part in interpreted(work.decode, program, sent, shapes)])]
    weights = [tensor.float().numpy() for tensor in work.tensors(numbers(shapes, 3), dtype)]
    sizes = [weight.size for weight in weights]

    def after(change: Any) -> list[bytes]:
        own = work.tensors(weights, dtype)
        for weight, part in zip(own, torch.from_numpy(update).split(sizes), strict=True):
            change(weight.view(-1), part)
        return [weight.float().numpy().tobytes() for weight in own]

    def step(weight: torch.Tensor, u: torch.Tensor) -> None:
        weight.mul_(0.9)
        weight.sub_(u.sign() * 0.01)

    got, _ = interpreted(work.finish, program, sent, weights, dtype, "step", {"lr": 0.01, "keep": float(np.float32(0.9)), "sign": True}, [])
    assert [part.tobytes() for part in got] == after(step)
    got, _ = interpreted(work.finish, program, sent, weights, dtype, "step", {"lr": 0.5}, [])
    assert [part.tobytes() for part in got] == after(lambda weight, u: weight.sub_(u * 0.5))
    anchor, buffer = (np.concatenate([part.reshape(-1) for part in numbers(shapes, seed)]) for seed in (4, 5))
    f = np.float32
    for nesterov in (False, True):
        moved = buffer * f(0.9) + update
        ahead = anchor - (update + moved * f(0.9) if nesterov else moved) * f(0.7)
        options = {"lr": 0.7, "momentum": 0.9, "nesterov": nesterov}
        got, state = interpreted(work.finish, program, sent, weights, dtype, "sgd", options, [anchor, buffer])
        assert [part.tobytes() for part in state] == [ahead.tobytes(), moved.tobytes()]
        assert np.concatenate([part.reshape(-1) for part in got]).tobytes() == work.tensors([ahead], dtype)[0].float().numpy().tobytes()
    got, state = interpreted(work.finish, program, sent, weights, dtype, "sgd", {}, [anchor])
    assert state[0].tobytes() == (anchor - update).tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_single_steps_are_the_reference(kind: str, interpreted: Run) -> None:
    for side in (8, 16, 32, 64):
        x = clean(rows(kind, 3, side * side, side))
        assert interpreted(work.step, "dct_tiles", x, side).tobytes() == dct.dct_tiles(x, side).tobytes()
        assert interpreted(work.step, "idct_tiles", x, side).tobytes() == dct.idct_tiles(x, side).tobytes()
    for k, chunk in ((1, 64), (32, 4096), (17, 256), (64, 64), (3, 8)):
        x = clean(rows(kind, 3, chunk, 2))
        assert interpreted(work.step, "top_k", x, k).tolist() == [reference.top_k(row, k).tolist() for row in x]
    for block, chunk in ((16, 4096), (256, 4096), (2, 64), (64, 64)):
        x = clean(rows(kind, 3, chunk, 2))
        assert interpreted(work.step, "block_max", x, block).tolist() == [reference.block_max(row, block).tolist() for row in x]


def test_the_residual_alone_and_the_payload_alone(interpreted: Run) -> None:
    for name in ("blockmax", "int8", "dct8-blockmax16-int2"):
        program = program_of(name, 3)
        x, held = rows("normal", 3, program.chunk, 1), rows("normal", 3, program.chunk, 2)
        payload, _, _ = reference_chain.encode_rows(program, x, held, 0.5)
        got, kept, _ = interpreted(work.encode, program, squares(program, x), held=held, decay=0.5, state=False)
        assert got.tobytes() == payload.tobytes()
        assert kept is None
        got, whole, _ = interpreted(work.encode, program, squares(program, x), held=held, decay=0.5, code=False)
        fresh = dct.dct_tiles(x, program.side) if program.side else x
        assert got.size == 0
        assert whole.tobytes() == reference_chain.accumulate(fresh, held, 0.5, 1.0).tobytes()


def test_sums_of_squares_are_those_of_the_source_and_of_what_is_kept(interpreted: Run) -> None:
    for name in ("topk", "blockmax", "int8", "topk7-int2", "none"):
        program = program_of(name, 4)
        x = rows("sparse", 4, program.chunk, 1)
        _, kept, stats = interpreted(work.encode, program, squares(program, x), held=rows("normal", 4, program.chunk, 2), decay=0.5)
        wanted = [0, (x.astype(np.float64) ** 2).sum(), (kept.astype(np.float64) ** 2).sum()]
        assert np.allclose(stats, wanted, rtol=1e-5)


def test_what_cannot_be_meant_is_told(interpreted: Run) -> None:
    program = program_of("blockmax", 2)
    for sources in ([np.zeros(4096, np.float32)], [np.zeros(3 * 4096, np.float32)]):
        with pytest.raises(ValueError, match="do not fill"):
            interpreted(work.encode, program, sources)
    with pytest.raises(ValueError, match="held is"):
        interpreted(work.encode, program, [np.zeros(8192, np.float32)], held=np.zeros(5, np.float32))
    with pytest.raises(ValueError, match="payload is"):
        interpreted(work.check, program, np.zeros(7, np.uint8))
    with pytest.raises(ValueError, match="no payloads"):
        interpreted(work.decode, program, [], [(8192,)])
    odd = Program(3, 30001, 0, 0, 30001, 0, 1, 0, 0, 60004, 0)
    with pytest.raises(ValueError, match="more than 16384"):
        interpreted(work.encode, odd, [np.zeros(3 * 30001, np.float32)])
