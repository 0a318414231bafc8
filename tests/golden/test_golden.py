"""Bytes that must never change while the wire version stays 1: payloads, residuals and aggregates of fixed numbers.

`pytest tests/golden --write-golden` rewrites them; a change that does so changes the wire format or its arithmetic, and says why.
"""

import json
from pathlib import Path

import pytest
import torch
import xxhash

from tests.codecs import MADE, named
from thinwire.comms import CODECS
from thinwire.comms.wire import Header, RoundKey, bytes_of, frame
from thinwire.optim import residual
from thinwire.optim.aggregate import contributors, mean
from thinwire.optim.fragment import Fragment

FILE = Path(__file__).with_name("payloads.json")
NAMES = [
    *CODECS,
    *("topk64-int4", "topk7-int2", "topk2048-sign", "dct-blockmax128-vote", "dct32-topk16-fp32", "blockmax16-bf16"),
    *("topk64-fp4", "dct16-topk5-fp8", *MADE),
]
SHAPES = [torch.Size(shape) for shape in ((), (70,), (65, 130), (8, 3, 5, 5), (257, 19))]


def numbers(n: int, seed: int) -> torch.Tensor:
    """n floats of very different sizes from integers alone: the same on every machine."""
    i = torch.arange(n, dtype=torch.int64) + 7919 * seed
    mixed = (i * 2654435761 + (i * i) % 40503) % (1 << 24)
    return (mixed - (1 << 23)).to(torch.float32) * torch.exp2(-(mixed % 13).to(torch.float32) - 23)


def digest(tensor: torch.Tensor) -> str:
    return f"{xxhash.xxh3_64_intdigest(bytes_of(tensor.contiguous().view(-1))):016x}"


def trajectory(name: str) -> list[str]:
    """Three rounds of two members: digests of payloads, residuals and both aggregates."""
    fragment = Fragment(SHAPES, named(name))
    plan, seen = fragment.plan, []
    held: list[torch.Tensor | None] = [None, None]
    for round_ in range(3):
        payloads = []
        for member in range(2):
            x = plan.forward(fragment.matrix(numbers(fragment.numel, 10 * round_ + member)))
            message = residual.encode(plan, held[member], x, decay=0.875)
            held[member] = message.kept
            payloads.append(message.payload)
            seen += [digest(message.payload), digest(message.kept)]
        sent = [plan.values(payload) for payload in payloads]
        seen += [digest(fragment.flat(plan.inverse(rule(plan, sent)))) for rule in (mean, contributors)]
    return seen


def everything() -> dict[str, list[str]]:
    framed = frame(Header(1, 2, RoundKey(3, 4, 5), 6, 2, 7, 8, 9), torch.arange(9, dtype=torch.uint8))
    return {"frame": [digest(framed)]} | {name: trajectory(name) for name in NAMES}


def test_every_byte_is_what_it_was(request: pytest.FixtureRequest) -> None:
    got = everything()
    if request.config.getoption("--write-golden"):
        FILE.write_text(json.dumps(got, indent=1) + "\n")
    wanted = json.loads(FILE.read_text())
    assert set(got) == set(wanted)
    changed = [name for name in wanted if got[name] != wanted[name]]
    assert not changed, f"the bytes of {changed} changed: a new wire version, or a mistake"
