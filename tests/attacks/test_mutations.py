"""A million mutated payloads: each is either refused with `WireError` or decodes to a sound tensor of the planned shape.

Rows are independent, so a payload of many rows is as many cases: each row is mutated on its own and judged on its own.
"""

import random
import resource
import struct

import pytest
import torch

from tests.codecs import named
from thinwire.comms import CODECS, RoundKey, WireError
from thinwire.comms.codec import Plan
from thinwire.comms.wire import HEADER_NBYTES, Header, frame, unframe, with_checksum
from thinwire.kernels import vector

SPARSE = [
    "topk",
    "topk-int4",
    "topk-int2",
    "topk64-sign",
    "topk3-fp32",
    "topk2048-bf16",
    "blockmax",
    "blockmax16-int8",
    "blockmax128-vote",
    "topk64-fp8",
    "blockmax16-fp4",
    "blockmax16-int4-stochastic",
    "topk7-int2-stochastic",
]
DENSE = ["none", "bf16", "fp16", "int8", "int4", "int2", "fp8", "fp4", "sign", "int8-stochastic"]
PATTERNS = (
    0x00000000,
    0xFFFFFFFF,
    0x7F800000,
    0xFF800000,
    0x7FC00000,
    0x00000001,
    0x007FFFFF,
    0x80000000,
    0x7F7FFFFF,
    0x3F800001,
)

KEY = RoundKey(epoch=1, round=2, fragment=3)
WANTED = {"run": 5, "plan": 7, "key": KEY, "member": 1, "nbytes": 60}


def records(name: str, rows: int, seed: int) -> tuple[Plan, torch.Tensor]:
    """Sound records of a codec, `(rows, record)`, some of zeros, ties and few values."""
    codec = named(name)
    generator = torch.Generator().manual_seed(seed)
    few = codec.plan(min(rows, 250), codec.chunk or 8)
    x = torch.randn((few.rows, few.chunk), generator=generator)
    x[::5] = x[::5].round()
    x[::7] = 0
    plan = codec.plan(rows, few.chunk)
    return plan, few.encode(x).view(few.rows, -1).repeat(-(-rows // few.rows), 1)[:rows]


def mutate(rows: torch.Tensor, seed: int) -> torch.Tensor:
    """Each row changed in one of six ways."""
    generator = torch.Generator().manual_seed(seed)
    n, size = rows.shape
    out = rows.clone()
    way = torch.randint(6, (n,), generator=generator)
    at = torch.randint(size, (n,), generator=generator)
    bits = (1 << torch.randint(8, (n,), generator=generator)).to(torch.uint8)
    noise = torch.randint(256, (n, size), generator=generator, dtype=torch.uint8)
    each = torch.arange(n)
    flips = way == 0
    out[each[flips], at[flips]] ^= bits[flips]
    byte = way == 1
    out[each[byte], at[byte]] = noise[byte, 0]
    words = torch.tensor(PATTERNS, dtype=torch.int64).to(torch.int32).view(torch.uint8).view(-1, 4)
    pattern = words[torch.randint(len(PATTERNS), (n,), generator=generator)]
    word = way == 2
    for i in range(4):
        out[each[word], (at[word] // 4 * 4 + i) % size] = pattern[word, i]
    scale = way == 3  # the first word is the scale, where there is one
    out[scale, : min(4, size)] = pattern[scale, : min(4, size)]
    other = way == 4  # the head of one record, the tail of another
    column = torch.arange(size)[None, :]
    out[other] = torch.where(column < at[other, None], rows[other], rows.roll(1, 0)[other])
    out[way == 5] = noise[way == 5]
    return out


def judge(plan: Plan, payload: torch.Tensor) -> int:
    """Check what `read` calls sound; returns how many rows it refuses."""
    coefficients, sound = plan.read(payload.reshape(-1))
    values, index = coefficients.values, coefficients.index
    assert sound.shape == (plan.rows,)
    assert values.shape == (plan.rows, plan.coefficients // plan.rows)
    good = values[sound]
    assert bool(good.isfinite().all())
    assert bool((good.abs() <= 2 * vector.LARGEST * 127).all())
    if index is not None:
        kept = index[sound]
        assert bool(((kept >= 0) & (kept < plan.chunk)).all())
        assert bool((kept[:, 1:] > kept[:, :-1]).all())
    if not bool(sound.all()):
        with pytest.raises(WireError, match="row"):
            plan.values(payload.reshape(-1))
    return int((~sound).sum())


@pytest.mark.parametrize("name", SPARSE + DENSE)
def test_mutated_records_are_refused_or_sound(name: str) -> None:
    refused = cases = 0
    for seed in range(6):
        plan, rows = records(name, 1_000 if "2048" in name else 16_000 if name in SPARSE else 8_000, seed)
        refused += judge(plan, mutate(rows, seed))
        cases += plan.rows
    # In a record of votes every bit pattern is somebody's choice; in sign records only scales can be wrong.
    least = {"blockmax128-vote": 0.0, "sign": 0.05, "blockmax": 0.05}.get(name, 0.1)
    assert refused >= least * cases


def test_mutated_frames_are_refused_unless_nothing_was_changed() -> None:
    rng = random.Random(0)
    payload = torch.arange(60, dtype=torch.uint8)
    sound = frame(Header(5, 7, KEY, 1, 0, 9, 11, 60), payload)
    extremes = [0, 1, 0x7F, 0x80, 0xFF]
    accepted = 0
    for case in range(100_000):
        message = sound.clone()
        at, repaired = rng.randrange(len(message)), case % 2 == 0
        message[at] = rng.choice(extremes) if case % 3 else rng.randrange(256)
        if repaired:
            message = with_checksum(message)
        try:
            header, got = unframe(message, **WANTED)
        except WireError:
            continue
        accepted += 1
        # Only what is the sender's to say, or the payload (which its codec judges), may differ in an accepted frame.
        assert (header.run, header.plan, header.key, header.member, header.nbytes) == (5, 7, KEY, 1, 60)
        assert repaired or torch.equal(message, sound)
        assert got.shape == (60,)
    assert accepted > 0


def test_every_bit_flip_and_every_truncation_of_a_frame_is_refused() -> None:
    for name in CODECS:
        _, rows = records(name, 1, 3)
        payload = rows.reshape(-1)[:512]
        wanted = WANTED | {"nbytes": len(payload)}
        sound = frame(Header(5, 7, KEY, 1, 0, 9, 11, len(payload)), payload)
        unframe(sound, **wanted)
        for bit in range(8 * len(sound)):
            flipped = sound.clone()
            flipped[bit // 8] ^= 1 << bit % 8
            with pytest.raises(WireError):
                unframe(flipped, **wanted)
        for length in range(len(sound)):
            with pytest.raises(WireError):
                unframe(sound[:length], **wanted)
        with pytest.raises(WireError):
            unframe(torch.cat([sound, sound[:1]]), **wanted)


@pytest.mark.parametrize(
    ("offset", "kind", "words"),
    [(0, "I", "magic"), (4, "H", "version"), (6, "H", "flags"), (8, "Q", "run"), (16, "Q", "plan"), (24, "Q", "round"), (32, "I", "epoch"),
     (36, "I", "fragment"), (40, "I", "member"), (56, "Q", "payload length")],
)  # fmt: skip
def test_every_header_field_is_checked_at_its_extremes(offset: int, kind: str, words: str) -> None:
    sound = frame(Header(5, 7, KEY, 1, 0, 9, 11, 60), torch.zeros(60, dtype=torch.uint8))
    top = (1 << 8 * struct.calcsize(kind)) - 1
    (true,) = struct.unpack_from("<" + kind, sound.numpy().tobytes(), offset)
    for value in {1, true + 1, top // 2, top // 2 + 1, top - 1, top, 0} - {true}:
        if words == "flags" and value <= 7:
            continue
        raw = bytearray(sound.numpy().tobytes())
        struct.pack_into("<" + kind, raw, offset, value)
        with pytest.raises(WireError, match=words):
            unframe(with_checksum(torch.frombuffer(raw, dtype=torch.uint8)), **WANTED)


def test_a_lying_length_allocates_nothing() -> None:
    sound = frame(Header(5, 7, KEY, 1, 0, 9, 11, 60), torch.zeros(60, dtype=torch.uint8))
    raw = bytearray(sound.numpy().tobytes())
    struct.pack_into("<Q", raw, 56, 1 << 40)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(WireError, match="length"):
        unframe(with_checksum(torch.frombuffer(raw, dtype=torch.uint8)), **WANTED)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1024
    assert HEADER_NBYTES == 72
