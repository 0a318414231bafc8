"""Compile Triton kernels for an sm_90 that is not there, exactly as the entries would launch them, and read what the machine code needs."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.codecs import named
from thinwire.kernels.finish import Finish, Sgd, Step
from thinwire.kernels.program import Program

MEMBERS = 8
POINTERS = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int16: "*i16",
    torch.uint8: "*u8",
}


@dataclass(frozen=True)
class Compiled:
    """One kernel: registers a thread, bytes of stack, instructions that spill, all instructions, and what arithmetic there is."""

    kernel: str
    registers: int
    stack: int
    spills: int
    instructions: int
    fused: int  # multiply-adds in the PTX
    inexact: int  # approximations and flushes of denormals in the PTX
    machine_fused: int  # multiply-adds in the machine code
    divides: bool  # IEEE division is a sequence of multiply-adds there

    def __str__(self) -> str:
        return f"{self.kernel}: {self.registers} registers, {self.spills} spills, {self.instructions} instructions"


def chain_of(name: str, rows: int = 8) -> tuple[Program, list[torch.Tensor]]:
    """A program and tensors that fill it, with edges where it has tiles."""
    codec = named(name)
    side = codec.side or 0
    sources = [torch.randn(8, 64 * 1024), torch.randn(64)]
    if side:
        sources = [torch.randn(rows * side, side), torch.randn(side * side)]
    chunk = codec.chunk or sum(source.numel() for source in sources)
    program = codec.plan(rows + 1 if side else -(-sum(source.numel() for source in sources) // chunk), chunk).program
    assert program is not None
    return program, sources


def launches_of(name: str) -> list[tuple[Any, ...]]:
    """What encoding, checking and decoding with a codec launch: kernel, arguments, options, constants."""
    from thinwire.kernels import triton_check, triton_decode, triton_encode

    program, sources = chain_of(name)
    held = torch.zeros(program.rows, program.chunk)
    payload = torch.zeros(program.nbytes, dtype=torch.uint8)
    anchor = torch.zeros(sum(source.numel() for source in sources))
    finish: Finish = Step(0.1, 0.9, sign=True)
    with _Caught() as caught:
        triton_encode.encode(program, sources, held=held, decay=0.9)
        triton_check.check(program, payload)
        triton_decode.decode(program, [payload] * MEMBERS, sources, finish, contributors=True)
        if name in ("bf16", "blockmax", "dct-topk"):
            shorter = [source.to(torch.bfloat16) for source in sources]
            triton_encode.encode(program, shorter, anchor=anchor, state=False)
            triton_decode.decode(program, [payload] * 3, shorter, Sgd(anchor, 0.7, 0.9, nesterov=True, buffer=anchor.clone()))
    return caught.launches


def launches_of_steps() -> list[tuple[Any, ...]]:
    """What the single steps launch."""
    from thinwire.kernels import triton_ops

    with _Caught() as caught:
        for side in (64, 8):
            triton_ops.dct_tiles(torch.zeros(8, side * side), side)
            triton_ops.idct_tiles(torch.zeros(8, side * side), side)
        triton_ops.top_k(torch.zeros(8, 4096), 32)
        triton_ops.block_max(torch.zeros(8, 4096), 64)
    return caught.launches


class _Caught:
    """While it lasts nothing is launched: what would be is noted."""

    def __enter__(self) -> "_Caught":
        from thinwire.kernels import triton_check, triton_decode, triton_encode, triton_launch, triton_ops

        self.launches: list[tuple[Any, ...]] = []
        self._modules = (triton_check, triton_decode, triton_encode, triton_launch, triton_ops)
        self._launch = triton_launch.launch
        for module in self._modules:
            vars(module)["launch"] = self._note
        return self

    def __exit__(self, *_: object) -> None:
        for module in self._modules:
            vars(module)["launch"] = self._launch

    def _note(self, kernel: Any, grid: int, *args: Any, warps: int = 4, registers: int | None = None, **constants: Any) -> None:
        from thinwire.kernels.triton_launch import options

        if grid:
            self.launches.append((kernel, args, options(warps, registers), constants))


def compile_all(name: str) -> list[Compiled]:
    """Every different kernel of a codec, or of the single steps when it is called "steps"."""
    done = {}
    for kernel, args, options, constants in launches_of_steps() if name == "steps" else launches_of(name):
        made = compile_one(kernel, args, options, constants)
        done[repr((made, kernel.__name__, constants))] = made
    return list(done.values())


def compile_one(kernel: Any, args: tuple[Any, ...], options: dict[str, Any], constants: dict[str, Any]) -> Compiled:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    values = dict(zip(kernel.arg_names, args, strict=False)) | constants
    at = {name: (i,) for i, name in enumerate(kernel.arg_names)}
    fixed = {name for name, value in values.items() if name in constants or value is None}
    pointers = [name for name, value in values.items() if isinstance(value, torch.Tensor) and value.data_ptr() % 16 == 0]
    source = ASTSource(
        kernel,
        {name: "constexpr" if name in fixed else _kind(values[name]) for name in kernel.arg_names},
        constexprs={at[name]: values[name] for name in fixed},
        attrs={at[name]: [["tt.divisibility", 16]] for name in pointers},
    )
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    return _read(kernel.__name__, made.asm["ptx"], made.asm["cubin"])


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return POINTERS[value.dtype]
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    return "fp32"


def _read(name: str, ptx: str, cubin: bytes) -> Compiled:
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, sass = (
            subprocess.run([tool, flag, file.name], capture_output=True, text=True, check=True).stdout for flag in ("-res-usage", "-sass")
        )
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found is not None, usage
    names = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(\w+)", sass, re.MULTILINE)
    return Compiled(
        kernel=name,
        registers=int(found[1]),
        stack=int(found[2]),
        spills=sum(names.count(op) for op in ("STL", "LDL")),
        instructions=len(names) - names.count("NOP"),
        fused=len(re.findall(r"\bfma\.rn(\.ftz)?\.f32|\bmad\.f32", ptx)),
        inexact=len(re.findall(r"\.approx|\.ftz|div\.full", ptx)),
        machine_fused=names.count("FFMA"),
        divides="div.rn.f32" in ptx,
    )
