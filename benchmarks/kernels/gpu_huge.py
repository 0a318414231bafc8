"""More numbers than 32 bits count: the last rows of one long tensor, encoded, checked and decoded, against those rows by themselves."""

from collections.abc import Iterator

import torch

from benchmarks.kernels.gpu_same import UNTOLD, Difference, first_difference, oracle
from thinwire.comms.recipes import codec as named
from thinwire.kernels import triton_check, triton_decode, triton_encode
from thinwire.kernels.finish import Out

ELEMENTS = 2**31 + 3 * 4096
NBYTES = 4 * 4 * ELEMENTS  # of the source, the residual and what is decoded, and some room
LAST = 2  # rows


def compare(name: str, device: str, elements: int) -> tuple[str, int, list[Difference]]:
    """As `gpu_same.compare`, for one codec."""
    differences, compared = [], 0
    try:
        for what, wanted, got in _results(name, device, elements):
            compared += 1
            differences += list(first_difference(name, f"the last of {elements} numbers", what, wanted, got.cpu()))
    except Exception as error:
        differences.append(
            Difference(name, f"{elements} numbers", "running at all", UNTOLD, "no error", f"{type(error).__name__}: {error}"[:400])
        )
    return f"{name}, huge", compared, differences


def _results(name: str, device: str, elements: int) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    codec = named(name)
    chunk = codec.chunk or 4096
    whole, last = (codec.plan(n, chunk).program for n in (elements // chunk, LAST))
    assert whole is not None
    assert last is not None
    x = torch.randn(whole.rows * chunk, device=device, generator=torch.Generator(device).manual_seed(1))
    shape = (-1, whole.side) if whole.side else (-1,)
    tail = x[-LAST * chunk :].cpu()
    wanted = oracle().encode(last, [tail.view(shape)])
    got = triton_encode.encode(whole, [x.view(shape)], state=whole.select > 0)
    yield "the payload", wanted.payload, got.payload[-last.nbytes :]
    if got.kept is not None:
        yield "the residual", wanted.kept, got.kept.view(-1)[-LAST * chunk :]
    payload = got.payload
    del got
    out = torch.empty_like(x)
    triton_decode.decode(whole, [payload, payload], [x.view(shape)], Out(out))
    oracle().decode(last, [wanted.payload] * 2, [tail.view(shape)], Out(tail))
    yield "what is decoded", tail, out[-LAST * chunk :]
    yield "the first bad row", torch.tensor([-1]), torch.tensor([triton_check.check(whole, payload)])
    if whole.scale:
        payload[-whole.record :] = 0xFF
        yield "the first bad row", torch.tensor([whole.rows - 1]), torch.tensor([triton_check.check(whole, payload)])
