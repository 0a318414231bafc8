"""The stages hold the bytes of the numpy chains: payloads, what is kept, aggregates, and which records are sound."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.attacks.test_mutations import mutate
from tests.codecs import NAMES, named
from tests.kernels.test_vector_is_reference import KINDS, rows
from thinwire.comms import DCT, All, BlockMax, Float32, Int8, Pack, TopK, WireError, chain
from thinwire.comms.codec import Codec, Plan
from thinwire.kernels import reference_chain
from thinwire.kernels.program import Index, Program, Select, Value
from thinwire.kernels.reference_record import silent_signs, sound_row
from thinwire.optim import residual
from thinwire.optim.aggregate import contributors, mean
from thinwire.optim.fragment import Fragment, gather_flat

DECAYS = {"nothing held": 0.875, "all held": 1.0, "much held": 0.875, "forgotten": 0.0}


def program_of(plan: Plan) -> Program:
    assert plan.program is not None
    return plan.program


def same(mine: torch.Tensor, wanted: np.ndarray) -> None:
    got = mine.numpy()
    assert (got.shape, got.dtype) == (wanted.shape, wanted.dtype)
    assert got.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", DECAYS)
def test_encoding_and_decoding_are_the_reference(name: str, kind: str, case: str) -> None:
    chunk, decay = named(name).chunk or 777, DECAYS[case]
    plan = named(name).plan(3, chunk)
    x = rows(kind, 3, chunk, 1)
    # What is held underflows in the last row, and is nothing like x in the others.
    held = None if case == "nothing held" else rows("specials" if case == "forgotten" else "wide", 3, chunk, 2)
    if held is not None:
        held[2] *= np.float32(2.0**-120)
    gain = 0.3 if case == "much held" else 1.0
    payload, kept, bad = reference_chain.encode_rows(program_of(plan), x, held, decay, gain)
    message = residual.encode(
        plan, None if held is None else torch.from_numpy(held), plan.forward(torch.from_numpy(x)), decay=decay, gain=gain
    )
    same(message.payload, payload)
    same(message.kept, kept)
    assert bad == int((~(torch.from_numpy(x).abs() <= 2.0**100)).sum())
    others = [reference_chain.encode_rows(program_of(plan), rows(other, 3, chunk, 5), None, 1.0)[0] for other in ("ties", "zeros")]
    sent = [plan.values(torch.from_numpy(part)) for part in (payload, *others)]
    for rule, by_contributors in ((mean, False), (contributors, True)):
        same(rule(plan, sent), reference_chain.decode_rows(program_of(plan), np.stack([payload, *others]), by_contributors))


@pytest.mark.parametrize("name", NAMES)
def test_a_record_is_sound_here_and_there_or_nowhere(name: str) -> None:
    n = 40 if "2048" in name or "4096" in name else 300
    plan = named(name).plan(n, named(name).chunk or 8)
    x = torch.from_numpy(np.concatenate([rows(kind, -(-n // 3), plan.chunk, 3) for kind in ("normal", "ties", "sparse")])[:n])
    x[::7] = 0
    records = plan.encode(x).view(n, -1)
    mutated = mutate(records, 4)
    # A sound record with one bit in its scale or its values changed, and one with a padding bit set, are the narrow cases.
    mutated[: n // 4] = records[: n // 4]
    mutated[: n // 8, -1] ^= 0x80
    mutated[n // 8 : n // 4, 0] ^= 1
    payload = mutated.reshape(-1)
    _, sound = plan.read(payload)
    assert sound.tolist() == [sound_row(program_of(plan), record) for record in mutated.numpy()]
    good = torch.where(sound[:, None], mutated, records)
    same(plan.decode(good.reshape(-1)), reference_chain.decode_rows(program_of(plan), good.reshape(1, -1).numpy()))
    if not bool(sound.all()):
        with pytest.raises(WireError):
            plan.decode(payload)


def test_a_row_that_looks_silent_by_chance_keeps_all_it_has() -> None:
    plan = named("blockmax64-vote").plan(2)
    x = np.zeros((2, 4096), np.float32)
    x[0, ::64] = np.where(silent_signs(program_of(plan)), -1.0, 1.0)  # the first places, the signs of no vote
    payload, kept, _ = reference_chain.encode_rows(program_of(plan), x, None, 1.0)
    message = residual.encode(plan, None, torch.from_numpy(x), decay=1.0)
    same(message.payload, payload)
    same(message.kept, x)
    same(message.kept, kept)
    assert payload[:56].tobytes() == payload[56:].tobytes()


def tensors(shapes: list[tuple[int, ...]], seed: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


SHAPES: list[list[tuple[int, ...]]] = [
    [],
    [(0,), (3, 0)],
    [()],
    [(1,), (1, 1)],
    [(7919,)],
    [(257, 71)],
    [(), (65, 130), (131,), (8, 3, 5, 5), (64, 64), (127, 3), (3, 4099)],
]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_fragments_of_every_shape_are_the_reference(name: str, shapes: list[tuple[int, ...]]) -> None:
    fragment = Fragment([torch.Size(shape) for shape in shapes], named(name))
    plan = fragment.plan
    program = program_of(plan)
    mine, anchor = tensors(shapes, 1, torch.bfloat16), tensors(shapes, 2)
    x = reference_chain.to_matrix(program, [tensor.float().numpy() for tensor in mine])
    same(fragment.matrix(gather_flat(mine)), x)
    back = reference_chain.to_tensors(program, x, shapes)
    assert [part.tolist() for part in back] == [tensor.float().tolist() for tensor in mine]
    before = reference_chain.to_matrix(program, [tensor.numpy() for tensor in anchor])
    payload, kept, bad = reference_chain.encode_rows(program, x, None, 1.0, anchor=before)
    delta = fragment.matrix(gather_flat(anchor) - gather_flat(mine))
    message = residual.encode(plan, None, plan.forward(delta), decay=1.0)
    same(message.payload, payload)
    same(message.kept, kept)
    assert bad == 0


# -- which chains are programs -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Eighth(Int8):
    """A stage of a user's own that computes something else."""

    def encode(self, x: Any, spec: Any) -> Any:
        return super().encode(replace(x, values=x.values / 8), spec)


@pytest.mark.parametrize(
    ("codec", "chunk"),
    [
        (chain(TopK(32), Eighth(), Pack()), 4096),
        (chain(DCT(), DCT(), TopK(32), Int8(), Pack()), 4096),
        (chain(All(32768), Int8(), Pack()), 32768),
        (chain(TopK(4, 4), Int8(), Pack()), 4),
        (chain(TopK(32), Int8(), Pack()), 777),
        (chain(BlockMax(64, 32768), Int8(), Pack()), 32768),
    ],
    ids=repr,
)
def test_what_no_fused_kernel_knows_is_no_program(codec: Codec, chunk: int) -> None:
    assert codec.plan(2, chunk).program is None


def test_a_program_says_what_the_chain_is() -> None:
    plan = chain(DCT(), TopK(32), Int8(stochastic=9), Pack()).plan(5)
    assert plan.program == Program(5, 4096, 64, Select.TOP_K, 32, 0, Value.INT8, Index.ELIAS_FANO, 1, 72, 9)
    plan = named("blockmax64-vote").plan(3)
    assert plan.program == Program(3, 4096, 0, Select.BLOCK_MAX, 64, 64, Value.VOTE, Index.OFFSETS, 0, 56, 0)
    plan = chain(All(None), Float32(), Pack()).plan(1, 10**6)
    assert plan.program == Program(1, 10**6, 0, Select.ALL, 10**6, 0, Value.FLOAT32, Index.NONE, 0, 4 * 10**6, 0)
    assert {named(name).plan(1).program.index for name in ("topk1-fp32", "topk2048-sign", "topk")} == {2, 3, 1}
    for name in NAMES:
        plan = named(name).plan(2, named(name).chunk or 50)
        assert program_of(plan).nbytes == plan.nbytes
