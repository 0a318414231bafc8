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


def launch(kernel: Any, grid: int, *args: Any, warps: int = 4, registers: int | None = None, **constants: Any) -> Any:
    """Run `grid` programs, on the device of the first tensor; `registers` a thread at most, where the compiler does badly by itself.

    Returns the compiled kernel; None where nothing ran, or in the interpreter.
    """
    if not grid:
        return None
    with torch.cuda.device_of(next(arg for arg in args if isinstance(arg, Tensor))):
        return kernel[(grid,)](*args, **options(warps, registers), **constants)


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


class Residents:
    """How many programs of a kernel run at a time, where each takes many rows: one more would start when the others are done.

    What was compiled is asked after its first launch; until then `FIRST` on a multiprocessor is the guess.
    """

    FIRST, REGISTERS = 4, 65536  # 4 programs of 128 threads with 128 registers each

    def __init__(self) -> None:
        self._fit: dict[Any, int] = {}

    def on(self, device: torch.device, constants: Any) -> int:
        """Few in the interpreter, so that tests see programs that take many rows."""
        if device.type != "cuda":
            return 2
        return int(self._fit.get(constants, self.FIRST) * torch.cuda.get_device_properties(device).multi_processor_count)

    def note(self, device: torch.device, constants: Any, compiled: Any) -> None:
        """`compiled` is what `launch` returned."""
        if device.type == "cuda" and compiled is not None and constants not in self._fit:
            found, threads = torch.cuda.get_device_properties(device), 32 * compiled.metadata.num_warps
            registers = -(-compiled.n_regs // 8) * 8
            memory = getattr(found, "shared_memory_per_multiprocessor", 100 * 1024) // (compiled.metadata.shared + 1024)
            most = found.max_threads_per_multi_processor // threads
            self._fit[constants] = max(min(self.REGISTERS // (registers * threads), memory, most), 1)
