"""From tensors to launches: what the Triton entries check, the tables and buffers they pass, and the options of every launch."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thinwire.kernels.program import Program
from thinwire.kernels.triton_shape import Shape
from thinwire.kernels.triton_sheets import DTYPES, POOL, Layout, addresses, aligned, layout, pool_kernel


def options(warps: int, registers: int | None) -> dict[str, Any]:
    """Of the compiler. Floating-point contraction is never allowed: triton 3.6 has it on by default, and then bits differ."""
    return {"num_warps": warps, "enable_fp_fusion": False, **({"maxnreg": registers} if registers else {})}


def launch(kernel: Any, grid: int, *args: Any, warps: int = 4, registers: int | None = None, **constants: Any) -> None:
    """Run `grid` programs; `registers` a thread at most, where the compiler does badly by itself."""
    if grid:
        kernel[(grid,)](*args, **options(warps, registers), **constants)


class Sheets(NamedTuple):
    """Tensors with numbers in them, as kernels take them."""

    tensors: tuple[Tensor, ...]
    layout: Layout
    even: bool  # four words may be moved at a time


def sheets_of(program: Program, shape: Shape, tensors: Sequence[Tensor], device: torch.device) -> Sheets:
    """Raises `ValueError` when the tensors do not fill the rows of the program, or kernels cannot take them."""
    held = tuple(tensor for tensor in tensors if tensor.numel())
    table = layout([tensor.shape for tensor in held], shape.side, shape.lines * shape.chunk, device)
    numbers = len(table.tiles) * program.chunk if program.side else table.numel
    if not numbers <= program.rows * program.chunk < numbers + program.chunk:
        raise ValueError(f"{program}: tensors of shapes {[tuple(t.shape) for t in tensors]} do not fill its rows")
    for tensor in held:
        if tensor.dtype not in DTYPES or tensor.device != device or not tensor.is_contiguous():
            found = f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}, strides {tensor.stride()}"
            raise ValueError(f"Triton kernels take contiguous {', '.join(map(str, DTYPES))} on {device}, got {found}")
    return Sheets(held, table, aligned(held, program.side) and (bool(program.side) or table.numel % 8 == 0))


def pool_of(parts: Sequence[Tensor], table: Layout, room: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A new `(room,)` buffer of what lies in no tile of these tensors."""
    pool = torch.empty(room, dtype=dtype, device=device)
    args = (addresses(parts, device), table.runs, table.first, _bits(pool), table.pooled, room)
    launch(pool_kernel, -(-room // POOL), *args, size=POOL, dtype=DTYPES[dtype])
    return pool


def _bits(tensor: Tensor) -> Tensor:
    """bfloat16 as int16: Triton's interpreter would round."""
    return tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor


def check_size(name: str, tensor: Tensor | None, numel: int, device: torch.device) -> None:
    """Raise `ValueError` unless the tensor is None, or contiguous float32 of this size on this device."""
    if tensor is None:
        return
    if tensor.numel() != numel or tensor.dtype != torch.float32 or tensor.device != device or not tensor.is_contiguous():
        found = f"{tuple(tensor.shape)} {tensor.dtype} on {tensor.device}, strides {tensor.stride()}"
        raise ValueError(f"{name} is {found}; expected {numel} contiguous float32 on {device}")


def payload_words(program: Program, payload: Tensor) -> Tensor:
    """A payload as int32 words. Raises `ValueError` when it is none of this program."""
    if payload.shape != (program.nbytes,) or payload.dtype != torch.uint8:
        raise ValueError(f"payload is {tuple(payload.shape)} {payload.dtype}, expected ({program.nbytes},) uint8")
    if not payload.is_contiguous() or payload.data_ptr() % 4:
        payload = payload.clone(memory_format=torch.contiguous_format)
    return payload.view(torch.int32)


def resident(device: torch.device) -> int:
    """How many kernel programs to start where each takes many rows; few in the interpreter, so that tests see that they do."""
    if device.type != "cuda":
        return 2
    return int(8 * torch.cuda.get_device_properties(device).multi_processor_count)
