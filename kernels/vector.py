"""The kernels on whole `(rows, ...)` torch tensors: the same bits as `thinwire.kernels.reference`, fast enough to train with.

No fused multiply-add, no `alpha=`, no reduction whose order torch may choose: every operation is elementwise, exact, or a fixed tree.
Divisors are tensors: CUDA multiplies by the reciprocal of a Python number, which is another rounding.
Functions that read what a peer sent also return `sound`, a `(rows,)` bool tensor: whether a row is one that our encoder can produce.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from thinwire.kernels import reference
from thinwire.kernels.reference import Tiny

SMALLEST = 2.0**-126
LARGEST = 2.0**100
ZERO_BLOCK = 2.0**-100
FP16_MAX = 65504.0
FP16_BEYOND = 2.0**15
FP16_HOPELESS = 2.0**39  # from here on a float32 has steps of 2^16


def flush(x: Tensor) -> Tensor:
    """Zero what the wire cannot carry: denormals, NaN, Inf and |x| > 2^100."""
    magnitude = x.abs()
    return torch.where((magnitude >= SMALLEST) & (magnitude <= LARGEST), x, 0.0)


def all_finite(x: Tensor, *, limit: float = LARGEST) -> bool:
    """Whether every number of x is finite and at most `limit` in magnitude."""
    if x.numel() == 0:
        return True
    low, high = torch.aminmax(x)
    return bool((low >= -limit) & (high <= limit))


def top_k(x: Tensor, k: int) -> Tensor:
    """`(rows, k)` ascending indices of the k largest of each row by (|x| descending, index ascending)."""
    chunk = x.shape[1]
    # One 64-bit key a coefficient: keys are distinct, so the result does not depend on how topk breaks ties.
    key = x.abs().view(torch.int32).to(torch.int64).mul_(chunk).add_(torch.arange(chunk - 1, -1, -1, device=x.device))
    best = key.topk(k, dim=1, sorted=False).values
    return best.remainder_(chunk).neg_().add_(chunk - 1).sort(dim=1).values


def block_max(x: Tensor, block: int) -> Tensor:
    """`(rows, chunk // block)` indices of the largest |x| of every `block` elements, the lowest where several are equal."""
    blocks = x.view(x.shape[0], -1, block)
    starts = torch.arange(0, x.shape[1], block, device=x.device)
    return blocks.abs().argmax(2).add_(starts)


def round_up16(x: Tensor) -> Tensor:
    """The smallest float32 >= x with at most 16 significant bits."""
    return x.view(torch.int32).add(0xFF).bitwise_and_(~0xFF).view(torch.float32)


def absmax_scale(values: Tensor, qmax: int) -> Tensor:
    """`(rows,)` largest magnitude / qmax, rounded up to 16 bits; 0 for a zero block."""
    if values.shape[1] == 0:
        return values.new_zeros(values.shape[0])
    largest = values.abs().amax(1)
    return torch.where(largest < ZERO_BLOCK, 0.0, round_up16(largest / torch.full_like(largest, qmax)))


def mean_scale(values: Tensor) -> Tensor:
    """`(rows,)` mean magnitude by a halving tree sum, rounded up to 16 bits; 0 for a zero block."""
    k = values.shape[1]
    total = pad(values.abs(), (0, (1 << max(k - 1, 0).bit_length()) - k))
    while total.shape[1] > 1:
        half = total.shape[1] // 2
        total = total[:, :half] + total[:, half:]
    mean = total[:, 0] / torch.full_like(total[:, 0], max(k, 1))
    return torch.where(mean < ZERO_BLOCK, 0.0, round_up16(mean))


def sound_scale(scale: Tensor, qmax: int) -> Tensor:
    """Whether a received scale is 0, or positive, finite, in range and of at most 16 significant bits."""
    bits = scale.view(torch.int32)
    # The largest that our encoder makes is 2^100 / qmax rounded up; the smallest a little below 2^-100 / qmax.
    in_range = (scale * qmax >= ZERO_BLOCK) & (scale * qmax <= 2 * LARGEST)
    return ((bits == 0) | in_range) & ((bits & 0xFF) == 0)


def quantise(values: Tensor, scale: Tensor, qmax: int) -> Tensor:
    """`(rows, k)` int8: round-half-even(values / scale) clamped to +-qmax; zeros where the scale is 0."""
    divisor = torch.where(scale == 0, 1.0, scale)[:, None]
    codes = (values / divisor).round_().clamp_(-qmax, qmax)
    return codes.masked_fill_((scale == 0)[:, None], 0.0).to(torch.int8)


def lowbias32(x: Tensor) -> Tensor:
    """A mixing of 32 bits, held in int64 (torch's unsigned types know too few operations)."""
    x = (x ^ (x >> 16)) * 0x7FEB352D & 0xFFFFFFFF
    x = (x ^ (x >> 15)) * 0x846CA68B & 0xFFFFFFFF  # an int64 product wraps: its low bits are right
    return x ^ (x >> 16)


def stochastic_noise(scale: Tensor, n: int, seed: int) -> Tensor:
    """`(rows, n)` float32 whole numbers below 2^16 from the seed, each row's scale and number, and the place in the row."""
    rows = torch.arange(len(scale), device=scale.device) * 0x9E3779B9
    bits = scale.contiguous().view(torch.int32).to(torch.int64) & 0xFFFFFFFF
    row_seed = lowbias32((lowbias32(bits ^ seed) + rows) & 0xFFFFFFFF)
    words = lowbias32(torch.arange((n + 1) // 2, device=scale.device) ^ row_seed[:, None])
    return torch.stack([words & 0xFFFF, words >> 16], 2).flatten(1)[:, :n].to(torch.float32)


def quantise_stochastic(values: Tensor, scale: Tensor, qmax: int, seed: int) -> Tensor:
    """`(rows, k)` int8: values / scale rounded down, or up as often as it is above; zeros where the scale is 0."""
    ratio = values / torch.where(scale == 0, 1.0, scale)[:, None]
    below = ratio.floor()
    up = (ratio - below) * 65536.0 > stochastic_noise(scale, values.shape[1], seed)
    codes = (below + up.to(torch.float32)).clamp_(-qmax, qmax)
    return codes.masked_fill_((scale == 0)[:, None], 0.0).to(torch.int8)


def to_tiny(values: Tensor, scale: Tensor, tiny: Tiny) -> Tensor:
    """`(rows, k)` uint8 codes of the nearest tiny floats to values / scale (half to even), at most qmax, -0 made 0."""
    magnitude = (values / torch.where(scale == 0, 1.0, scale)[:, None]).abs()
    bits, drop = magnitude.view(torch.int32), 23 - tiny.mantissa
    normal = (bits + ((1 << (drop - 1)) - 1) + ((bits >> drop) & 1)) >> drop
    normal = (normal - ((127 - tiny.bias) << tiny.mantissa)).clamp_(max=tiny.largest)
    lowest = (magnitude * 2.0 ** (tiny.bias + tiny.mantissa - 1)).round_().to(torch.int32)
    codes = torch.where(magnitude < 2.0 ** (1 - tiny.bias), lowest, normal)
    codes = torch.where((values < 0) & (codes > 0), codes | tiny.sign, codes)
    return codes.masked_fill_((scale == 0)[:, None], 0).to(torch.uint8)


def from_tiny(codes: Tensor, tiny: Tiny) -> Tensor:
    """What uint8 codes stand for, before the scale."""
    table = torch.from_numpy(reference.from_tiny(np.arange(2 * tiny.sign, dtype=np.uint8), tiny)).to(codes.device)
    return table[codes.to(torch.int32)]


def to_bf16(values: Tensor) -> Tensor:
    """int16 bit patterns of the nearest bfloat16 (half to even), -0 made 0."""
    return _positive_zero(values.to(torch.bfloat16).view(torch.int16))


def to_fp16(values: Tensor) -> Tensor:
    """int16 bit patterns of the nearest float16 (half to even), -0 made 0; above 65504 it is 32768, from 2^39 on 0.

    What is sent must leave a number without rounding, so that the rest is kept exactly: 32768 does below 2^39.
    """
    magnitude = values.abs()
    beyond = torch.copysign(torch.where(magnitude < FP16_HOPELESS, FP16_BEYOND, 0.0), values)
    within = torch.where(magnitude <= FP16_MAX, values, beyond)
    return _positive_zero(within.to(torch.float16).view(torch.int16))


def _positive_zero(codes: Tensor) -> Tensor:
    return codes.masked_fill_(codes == -0x8000, 0)


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """`(rows, n)` uint8 codes below 2^bits (1, 2, 4 or 8) to `(rows, bytes)`, code j at bit j*bits, padded to 4 bytes."""
    per_byte = 8 // bits
    codes = pad(codes, (0, -codes.shape[1] % (4 * per_byte)))
    if bits == 8:
        return codes
    lanes = codes.view(codes.shape[0], codes.shape[1] // per_byte, per_byte)
    packed = lanes[:, :, 0].clone()
    for lane in range(1, per_byte):
        packed |= lanes[:, :, lane] << (lane * bits)
    return packed


def unpack_bits(packed: Tensor, bits: int, n: int) -> tuple[Tensor, Tensor]:
    """The `(rows, n)` uint8 codes of `pack_bits`, and whether the padding behind them is zero."""
    if bits == 8:
        codes = packed
    else:
        shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)
        codes = ((packed[:, :, None] >> shifts) & ((1 << bits) - 1)).flatten(1)
    return codes[:, :n], (codes[:, n:] == 0).all(1)


def packed_nbytes(n: int, bits: int) -> int:
    """Bytes of n codes of `bits` bits, padded to 4."""
    return -(-n * bits // 32) * 4


def pack_planes(codes: Tensor, planes: int) -> Tensor:
    """Plane-major bits of `(rows, n)` integers: bit i of plane p at position p*n+i; padded to 4 bytes."""
    if planes == 0:
        return codes.new_empty((codes.shape[0], 0), dtype=torch.uint8)
    shifts = torch.arange(planes, device=codes.device)
    bits = (codes[:, None, :] >> shifts[:, None]) & 1
    return pack_bits(bits.flatten(1).to(torch.uint8), 1)


def unpack_planes(packed: Tensor, planes: int, n: int) -> tuple[Tensor, Tensor]:
    """The `(rows, n)` int64 codes of `pack_planes`, and whether the padding is zero."""
    bits, sound = unpack_bits(packed, 1, planes * n)
    shifts = torch.arange(planes, device=packed.device)
    return (bits.view(packed.shape[0], planes, n).to(torch.int64) << shifts[:, None]).sum(1), sound


def elias_fano_low_bits(k: int, chunk: int) -> int:
    """How many low bits of each of k sorted indices below `chunk` are stored verbatim."""
    return max((chunk // k).bit_length() - 1, 0) if k else 0


def elias_fano_nbytes(k: int, chunk: int) -> int:
    """Bytes of one row of Elias-Fano coded indices."""
    low = elias_fano_low_bits(k, chunk)
    return packed_nbytes(k + (chunk >> low), 1) + packed_nbytes(k * low, 1)


def elias_fano(index: Tensor, chunk: int) -> Tensor:
    """`(rows, k)` sorted indices to bytes: the upper part in unary, the low bits as planes."""
    rows, k = index.shape
    low = elias_fano_low_bits(k, chunk)
    upper = torch.zeros((rows, k + (chunk >> low)), dtype=torch.uint8, device=index.device)
    upper.scatter_(1, (index >> low) + torch.arange(k, device=index.device), 1)
    return torch.cat([pack_bits(upper, 1), pack_planes(index & ((1 << low) - 1), low)], 1)


def unpack_elias_fano(packed: Tensor, k: int, chunk: int) -> tuple[Tensor, Tensor]:
    """The `(rows, k)` int64 indices, strictly increasing and below `chunk` in every sound row."""
    low = elias_fano_low_bits(k, chunk)
    split = packed_nbytes(k + (chunk >> low), 1)
    upper, sound = unpack_bits(packed[:, :split], 1, k + (chunk >> low))
    positions, counted = set_positions(upper, k)
    low_bits, padded = unpack_planes(packed[:, split:], low, k)
    index = ((positions - torch.arange(k, device=packed.device)) << low) | low_bits
    increasing = (index[:, 1:] > index[:, :-1]).all(1) & (index < chunk).all(1)
    return index, sound & counted & padded & increasing


def bitmap(index: Tensor, chunk: int) -> Tensor:
    """`(rows, k)` indices to one bit a coefficient."""
    bits = torch.zeros((index.shape[0], chunk), dtype=torch.uint8, device=index.device)
    return pack_bits(bits.scatter_(1, index, 1), 1)


def set_positions(bits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`(rows, k)` positions of the ones in each row, and whether a row has exactly k (an unsound row reads as 0..k-1)."""
    sound = bits.sum(1) == k
    if not bool(sound.all()):
        bits = torch.where(sound[:, None], bits, (torch.arange(bits.shape[1], device=bits.device) < k).to(torch.uint8))
    return bits.nonzero()[:, 1].view(bits.shape[0], k), sound
