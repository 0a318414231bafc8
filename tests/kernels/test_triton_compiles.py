"""The real compiler takes every Triton kernel, for a GPU that is not there, and the machine code is what was meant.

It rejects what the interpreter accepts. Nothing may spill, more than 128 registers would leave the memory waiting, and no multiplication
may be fused with an addition, or bits differ. (The machine code of an IEEE division is made of such instructions; elsewhere is none.)
"""

import pytest

from tests.codecs import NAMES
from tests.kernels import triton_ahead
from tests.kernels.conftest import Run

pytest.importorskip("triton")

REGISTERS = 128
FEW = ["steps", "int8", "sign", "fp8", "bf16", "int8-stochastic", "topk2048-sign", "blockmax", "dct-topk", "dct-blockmax128-vote"]


@pytest.mark.parametrize("name", [*FEW, *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES if name not in FEW)])
def test_every_kernel_fits_an_sm_90(name: str, compiled: Run) -> None:
    for made in compiled(triton_ahead.compile_all, name):
        print(made)
        assert made.registers <= REGISTERS, made
        assert (made.stack, made.spills) == (0, 0), made
        assert (made.fused, made.inexact) == (0, 0), made
        assert made.divides or made.machine_fused == 0, made
