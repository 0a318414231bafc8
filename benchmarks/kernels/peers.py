"""What exists beside us: the plain algorithms in torch, eager and compiled, and numpy's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.kernels.demo import SIDE, cosines

BLOCK = 1024  # coefficients that share a scale
FP4_BOUNDS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)  # halfway between the values of e2m1

backend = "inductor"  # a quick run takes "eager", which traces and generates no code


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile for one shape, the whole function."""
    made: Callable[..., Any] = torch.compile(function, dynamic=False, fullgraph=True, backend=backend)
    return made


# Dense quantisers: one scale a block, `(codes, scale)`.


def into(function: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Callable[[Tensor, Tensor], Tensor]:
    """Such a quantiser that writes its codes into memory it is given; compiled, they are written there at once."""

    def run(x: Tensor, codes: Tensor) -> Tensor:
        new, scale = function(x)
        codes.copy_(new)
        return scale

    return run


def int8(x: Tensor) -> tuple[Tensor, Tensor]:
    blocks = x.view(-1, BLOCK)
    scale = blocks.abs().amax(1, keepdim=True) / 127
    return torch.clamp(torch.round(blocks / scale), -127, 127).to(torch.int8), scale


def int8_kept(x: Tensor, held: Tensor, kept: Tensor, codes: Tensor, decay: float) -> Tensor:
    """With error feedback: what is held takes part, and what is not sent is kept."""
    whole = held * decay + x
    new, scale = int8(whole)
    codes.copy_(new)
    kept.copy_(whole - (new.to(torch.float32) * scale).view(-1))
    return scale


def int8_stochastic(x: Tensor) -> tuple[Tensor, Tensor]:
    blocks = x.view(-1, BLOCK)
    scale = blocks.abs().amax(1, keepdim=True) / 127
    return torch.clamp(torch.floor(blocks / scale + torch.rand_like(blocks)), -127, 127).to(torch.int8), scale


def int4(x: Tensor) -> tuple[Tensor, Tensor]:
    blocks = x.view(-1, BLOCK)
    scale = blocks.abs().amax(1, keepdim=True) / 7
    return nibbles(torch.clamp(torch.round(blocks / scale), -7, 7).to(torch.int8).view(torch.uint8) & 15), scale


def fp4(x: Tensor) -> tuple[Tensor, Tensor]:
    blocks = x.view(-1, BLOCK)
    scale = blocks.abs().amax(1, keepdim=True) / 6
    magnitude = blocks.abs() / scale
    code = (blocks < 0).to(torch.float32) * 8
    for bound in FP4_BOUNDS:  # in float32: torch.compile makes ten times slower code of sums of bytes
        code = code + (magnitude > bound).to(torch.float32)
    return nibbles(code.to(torch.uint8)), scale


def nibbles(codes: Tensor) -> Tensor:
    return codes[:, ::2] | (codes[:, 1::2] << 4)


def fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    blocks = x.view(-1, BLOCK)
    scale = blocks.abs().amax(1, keepdim=True) / 448
    return (blocks / scale).to(torch.float8_e4m3fn), scale


def sign(x: Tensor) -> tuple[Tensor, Tensor]:
    blocks = x.view(-1, BLOCK)
    bits = (blocks < 0).to(torch.uint8).view(len(blocks), -1, 8)
    packed = bits[:, :, 0]
    for bit in range(1, 8):
        packed = packed | (bits[:, :, bit] << bit)
    return packed, blocks.abs().mean(1, keepdim=True)


def packbits(x: Tensor) -> Any:
    """Without a scale."""
    return np.packbits(x.numpy() < 0)


# Back to float32.


def from_int8(codes: Tensor, scale: Tensor, out: Tensor) -> None:
    torch.mul(codes.to(torch.float32), scale, out=out.view(-1, BLOCK))


def from_int8_compiled(codes: Tensor, scale: Tensor, out: Tensor) -> None:
    out.view(-1, BLOCK).copy_(codes.to(torch.float32) * scale)


def from_int4(packed: Tensor, scale: Tensor, out: Tensor) -> None:
    both = torch.stack((packed << 4, packed), 2).view(torch.int8) >> 4
    out.view(-1, BLOCK).copy_(both.flatten(1).to(torch.float32) * scale)


def reduce_int8(codes: Tensor, scale: Tensor, out: Tensor) -> None:
    """`(members, blocks, BLOCK)` codes to their mean."""
    total = codes[0].to(torch.float32) * scale[0]
    for member in range(1, len(codes)):
        total = total + codes[member].to(torch.float32) * scale[member]
    out.view(-1, BLOCK).copy_(total / len(codes))


# Transforms and selection.

BASIS = cosines(SIDE)


def dct_rows(x: Tensor, out: Tensor) -> None:
    torch.matmul(x.view(-1, SIDE), BASIS.T, out=out.view(-1, SIDE))


def dct_tiles(x: Tensor, out: Tensor) -> None:
    torch.matmul(BASIS @ x.view(-1, SIDE, SIDE), BASIS.T, out=out.view(-1, SIDE, SIDE))


def top_k(x: Tensor, k: int, chunk: int) -> tuple[Tensor, Tensor]:
    rows = x.view(-1, chunk)
    index = rows.abs().topk(k, sorted=False).indices
    return rows.gather(1, index), index


def argpartition(x: Tensor, k: int, chunk: int) -> tuple[Any, Any]:
    rows = x.view(-1, chunk).numpy()
    index = np.argpartition(np.abs(rows), -k)[:, -k:]
    return np.take_along_axis(rows, index, 1), index


def block_max(x: Tensor, block: int) -> tuple[Tensor, Tensor]:
    rows = x.view(-1, block)
    index = rows.abs().argmax(1, keepdim=True)
    return rows.gather(1, index), index


# Whole steps, state in the DCT domain as ours is: the best that torch can be asked for.


def tiles_of(x: Tensor) -> Tensor:
    height, width = x.shape
    return x.view(height // SIDE, SIDE, width // SIDE, SIDE).transpose(1, 2)


def encode_top_k(gradient: Tensor, state: Tensor, decay: float, gain: float, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """DCT, momentum, top-k, int8, error feedback in place; 16-bit places."""
    y = (BASIS @ tiles_of(gradient) @ BASIS.T).reshape(state.shape)
    whole = state * decay + y * gain
    index = whole.abs().topk(k, sorted=False).indices
    value = whole.gather(1, index)
    scale = value.abs().amax(1, keepdim=True) / 127
    codes = torch.clamp(torch.round(value / scale), -127, 127)
    state.copy_(whole.scatter(1, index, value - codes * scale))
    return codes.to(torch.int8), index.to(torch.int16), scale


def encode_block_max(x: Tensor, state: Tensor, decay: float, block: int) -> tuple[Tensor, Tensor, Tensor]:
    """Error feedback, the largest of each block, its sign, one scale a row; a byte for a sign and a place."""
    whole = (state * decay + x.view(state.shape)).view(len(state), -1, block)
    index = whole.abs().argmax(2, keepdim=True)
    value = whole.gather(2, index)
    scale = value.abs().mean(1, keepdim=True)
    state.view(whole.shape).copy_(whole.scatter(2, index, value - torch.where(value < 0, -scale, scale)))
    return (value < 0).squeeze(2), index.to(torch.uint8).squeeze(2), scale


def encode_vote(gradient: Tensor, state: Tensor, decay: float, gain: float, block: int) -> tuple[Tensor, Tensor]:
    """DCT, momentum, the sign of the largest of each block, which then leaves the momentum."""
    y = (BASIS @ tiles_of(gradient) @ BASIS.T).reshape(state.shape)
    whole = (state * decay + y * gain).view(len(state), -1, block)
    index = whole.abs().argmax(2, keepdim=True)
    value = whole.gather(2, index)
    state.view(whole.shape).copy_(whole.scatter(2, index, 0.0))
    return (value < 0).squeeze(2), index.to(torch.uint8).squeeze(2)


def decode_top_k(codes: Tensor, index: Tensor, scale: Tensor, weight: Tensor, lr: float, keep: float) -> None:
    """The mean of `(members, rows, k)`, inverse DCT, a step by its sign."""
    members, rows, _ = codes.shape
    values = (codes.to(torch.float32) * scale).transpose(0, 1).reshape(rows, -1)
    places = index.transpose(0, 1).reshape(rows, -1).to(torch.int64)
    total = weight.new_zeros(rows, SIDE * SIDE).scatter_add(1, places, values)
    tiles = BASIS.T @ (total / members).view(rows, SIDE, SIDE) @ BASIS
    height, width = weight.shape
    update = tiles.view(height // SIDE, width // SIDE, SIDE, SIDE).transpose(1, 2).reshape(weight.shape)
    weight.copy_(weight * keep - update.sign() * lr)
