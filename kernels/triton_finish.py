"""What becomes of an update in Triton, element by element, where the tensors are: `thinwire.kernels.finish`, unfused and in that order."""

import triton
import triton.language as tl

from thinwire.kernels.triton_sheets import BFLOAT16, FLOAT16, run_of, stretch_of, tile_lines, tiles_of, widened

OUT = tl.constexpr(0)
STEP = tl.constexpr(1)
SGD = tl.constexpr(2)


@triton.jit
def _rounded(x, dtype: tl.constexpr):
    """float32 to the numbers that are stored: for bfloat16 its bits as int16, rounded half to even by integers."""
    if dtype == BFLOAT16:
        bits = x.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        number = tl.where(x == x, bits, 0x7FC0).to(tl.int16)
    elif dtype == FLOAT16:
        number = x.to(tl.float16)
    else:
        number = x
    return number


@triton.jit
def _wide(number, dtype: tl.constexpr):
    if dtype == BFLOAT16:
        x = (number.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    elif dtype == FLOAT16:
        x = number.to(tl.float32)
    else:
        x = number
    return x


@triton.jit
def finish(u, weight, anchor, buffer, at, mask, lr, keep, mu, kind: tl.constexpr, turn: tl.constexpr, dtype: tl.constexpr):
    """Finish u at `at` from the pointers on: weights, and the flat anchor and momentum. `turn`: sign, or nesterov."""
    if kind == OUT:
        tl.store(weight + at, u, mask=mask)
    elif kind == STEP:
        step = tl.where(u > 0, lr, tl.where(u < 0, lr * -1.0, 0.0)) if turn else u * lr
        kept = _rounded(widened(weight + at, mask, dtype) * keep, dtype)
        tl.store(weight + at, _rounded(_wide(kept, dtype) - step, dtype), mask=mask)
    else:
        if buffer is not None:
            m = tl.load(buffer + at, mask=mask, other=0.0) * mu + u
            tl.store(buffer + at, m, mask=mask)
            u = u + m * mu if turn else m
        moved = tl.load(anchor + at, mask=mask, other=0.0) - u * lr
        tl.store(anchor + at, moved, mask=mask)
        tl.store(weight + at, _rounded(moved, dtype), mask=mask)


@triton.jit
def finish_stretch(
    u, sheets, starts, s, base, at, count, valid, anchor, buffer, lr, keep, mu,
    kind: tl.constexpr, turn: tl.constexpr, dtype: tl.constexpr, even: tl.constexpr,
):  # fmt: skip
    """Finish the numbers `base + at` of the flat vector, sheet after sheet from s on."""
    end = tl.load(starts + s) - base
    while end < count:
        weight, low, high, end = stretch_of(sheets, starts, s, base, count, dtype, even)
        inside = valid & (at >= low) & (at < high)
        moved = None if buffer is None else buffer + base
        finish(u, weight, None if anchor is None else anchor + base, moved, at, inside, lr, keep, mu, kind, turn, dtype)
        s += 1


@triton.jit
def finish_tiles(
    u, sheets, tiles, widths, row, valid, pool, anchor, buffer, lr, keep, mu,
    far: tl.constexpr, first: tl.constexpr, kind: tl.constexpr, turn: tl.constexpr, dtype: tl.constexpr, even: tl.constexpr,
):  # fmt: skip
    """Finish some lines of each tile `(rows, count, side)` in place (see `load_tiles`); those of the pool are written to its buffer."""
    sheet, offset, width, weight, there = tiles_of(sheets, tiles, widths, row, valid, dtype, even)
    at = tile_lines(width, far, first, u.shape[1], u.shape[2])
    loose = valid & (sheet == 0)
    if tl.max(loose.to(tl.int32), 0) > 0:
        tl.store(pool + offset[:, None, None] + at, u, mask=loose[:, None, None])
    flat = (tl.load(widths + 2 * sheet + 1) + offset)[:, None, None]
    moved = None if buffer is None else buffer + flat
    inside = (there & (sheet > 0))[:, None, None]
    finish(
        u, weight[:, None, None], None if anchor is None else anchor + flat, moved, at, inside, lr, keep, mu, kind, turn, dtype
    )  # fmt: skip


@triton.jit(do_not_specialize=["pooled", "lr", "keep", "mu"])
def finish_pool_kernel(
    pool, sheets, runs, first, pooled, anchor, buffer, lr, keep, mu,
    size: tl.constexpr, kind: tl.constexpr, turn: tl.constexpr, dtype: tl.constexpr,
):  # fmt: skip
    """Finish what lies in no tile, from its buffer."""
    base = tl.program_id(0).to(tl.int64) * size
    q = base + tl.arange(0, size)
    u = tl.load(pool + q, mask=q < pooled, other=0.0)
    r = tl.load(first + tl.program_id(0)).to(tl.int64)
    end = base
    while end < tl.minimum(base + size, pooled):
        weight, at, inside, flat, end = run_of(sheets, runs, r, q, pooled, dtype)
        moved = None if buffer is None else buffer + flat
        finish(u, weight, None if anchor is None else anchor + flat, moved, at, inside, lr, keep, mu, kind, turn, dtype)
        r += 1
