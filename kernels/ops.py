"""The fused kernels as torch operators, `torch.ops.thinwire.*`: what torch.compile, fake tensors and the profiler see.

    encode        -> (payload, stats); the new residual is written into `kept`, None when it is not wanted
    check         -> () int64 on the CPU: the first row that no encoder can have made, or -1
    decode_out    out = update; `like` gives only the shapes
    step_  sgd_   the update moves `targets`, see `thinwire.kernels.finish`
    dct_tiles  idct_tiles

One call does a whole flat bucket. CPU tensors go to C++, or to the numpy specification where the library is missing (`native` says so
once); CUDA tensors go to Triton, or raise. Tensors must be contiguous and of the dtypes that the kernels take: `thinwire.kernels.dispatch`
calls these with any. A program is passed as its integers. What is changed in place is marked as changed for autograd; only the DCT has
gradients.
"""

from collections.abc import Callable, Iterable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from thinwire.kernels import dct, native, reference_entries
from thinwire.kernels.finish import Finish, Out, Sgd, Step
from thinwire.kernels.program import Program

Entry = Callable[..., Any]
Choose = Callable[[str], Entry]  # the name of an entry of `native` to what computes it

_TRITON = {"encode": "triton_encode", "check": "triton_check", "decode": "triton_decode"}


def _cpu(entry: str) -> Entry:
    chosen: Entry = getattr(native if native.available() else reference_entries, entry)
    return chosen


def _cuda(entry: str) -> Entry:
    try:
        chosen: Entry = getattr(import_module(f"thinwire.kernels.{_TRITON[entry]}"), entry)
    except ImportError as error:
        raise RuntimeError(f"the kernels for CUDA tensors cannot be loaded ({error}): install triton, or use CPU tensors") from error
    return chosen


# -- what an operator does; the arguments behind `choose` are those of its schema ------------------------------------------------


def _encode(
    choose: Choose,
    sources: list[Tensor],
    anchor: Tensor | None,
    held: Tensor | None,
    kept: Tensor | None,
    program: list[int],
    decay: float,
    gain: float,
    code: bool,
) -> tuple[Tensor, Tensor]:
    state = kept is not None
    made = choose("encode")(
        Program(*program), sources, anchor=anchor, held=held, decay=decay, gain=gain, state=state, code=code, kept=kept
    )  # fmt: skip
    if kept is not None:
        increment_version(kept)
    return made.payload, made.stats


def _check(choose: Choose, payload: Tensor, program: list[int]) -> Tensor:
    return torch.full((), int(choose("check")(Program(*program), payload)), dtype=torch.int64)


def _decode_out(choose: Choose, payloads: list[Tensor], like: list[Tensor], out: Tensor, program: list[int], contributors: bool) -> None:
    _decode(choose, payloads, like, program, contributors, Out(out))
    increment_version(out)


def _step(
    choose: Choose,
    payloads: list[Tensor],
    targets: list[Tensor],
    program: list[int],
    contributors: bool,
    lr: float,
    keep: float,
    sign: bool,
) -> None:
    _decode(choose, payloads, targets, program, contributors, Step(lr, keep, sign))
    increment_version(targets)


def _sgd(
    choose: Choose,
    payloads: list[Tensor],
    targets: list[Tensor],
    anchor: Tensor,
    buffer: Tensor | None,
    program: list[int],
    contributors: bool,
    lr: float,
    momentum: float,
    nesterov: bool,
) -> None:
    _decode(choose, payloads, targets, program, contributors, Sgd(anchor, lr, momentum, nesterov, buffer))
    increment_version([*targets, anchor] if buffer is None else [*targets, anchor, buffer])


def _decode(choose: Choose, payloads: list[Tensor], targets: list[Tensor], program: list[int], contributors: bool, finish: Finish) -> None:
    choose("decode")(Program(*program), payloads, targets, finish, contributors=contributors)


def _dct(x: Tensor, side: int) -> Tensor:
    return native.dct_tiles(x, side) if _is_native(x) else dct.dct_tiles(x.contiguous(), side)


def _idct(x: Tensor, side: int) -> Tensor:
    return native.idct_tiles(x, side) if _is_native(x) else dct.idct_tiles(x.contiguous(), side)


def _is_native(x: Tensor) -> bool:
    return x.device.type == "cpu" and native.available()


# -- shapes, for tensors without data --------------------------------------------------------------------------------------------


def _fake_encode(
    sources: list[Tensor],
    anchor: Tensor | None,
    held: Tensor | None,
    kept: Tensor | None,
    program: list[int],
    decay: float,
    gain: float,
    code: bool,
) -> tuple[Tensor, Tensor]:
    nbytes = Program(*program).nbytes if code else 0
    return sources[0].new_empty(nbytes, dtype=torch.uint8), sources[0].new_empty(3, dtype=torch.float64)


def _fake_check(payload: Tensor, program: list[int]) -> Tensor:
    return torch.empty((), dtype=torch.int64, device="cpu")


def _fake_tiles(x: Tensor, side: int) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _returns_nothing(*_: object) -> None:
    """It only changes its arguments."""


# -- registration ----------------------------------------------------------------------------------------------------------------

_LIBRARY = torch.library.Library("thinwire", "DEF")  # the operators live as long as this


def _register(schema: str, fake: Entry, implementations: Iterable[tuple[str, Any]]) -> None:
    # Compiled code must hand over the layout that eager code would have: contiguous.
    name = _LIBRARY.define(schema, tags=(torch.Tag.needs_exact_strides, torch.Tag.pt2_compliant_tag))
    for key, implementation in implementations:
        _LIBRARY.impl(name, implementation, key)
    torch.library.register_fake(f"thinwire::{name}", fake, lib=_LIBRARY)


def _register_fused(schema: str, implementation: Entry, fake: Entry) -> None:
    no_gradient = ("Autograd", torch.library.fallthrough_kernel)
    _register(schema, fake, [("CPU", partial(implementation, _cpu)), ("CUDA", partial(implementation, _cuda)), no_gradient])


_register_fused(
    "encode(Tensor[] sources, Tensor? anchor, Tensor? held, Tensor(a!)? kept, int[] program, float decay, float gain, bool code)"
    " -> (Tensor payload, Tensor stats)",
    _encode,
    _fake_encode,
)
_register_fused("check(Tensor payload, int[] program) -> Tensor", _check, _fake_check)
_register_fused(
    "decode_out(Tensor[] payloads, Tensor[] like, Tensor(a!) out, int[] program, bool contributors) -> ()", _decode_out, _returns_nothing
)
_register_fused(
    "step_(Tensor[] payloads, Tensor(a!)[] targets, int[] program, bool contributors, float lr, float keep, bool sign) -> ()",
    _step,
    _returns_nothing,
)
_register_fused(
    "sgd_(Tensor[] payloads, Tensor(a!)[] targets, Tensor(b!) anchor, Tensor(c!)? buffer, int[] program, bool contributors, float lr,"
    " float momentum, bool nesterov) -> ()",
    _sgd,
    _returns_nothing,
)


def _register_tiles(name: str, implementation: Entry, transpose: str) -> None:
    """By torch's own operations where there is no C++. The transform is orthonormal: its gradient is the other one."""

    def setup(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.side = inputs[1]

    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return getattr(torch.ops.thinwire, transpose)(gradient, ctx.side), None

    _register(f"{name}(Tensor x, int side) -> Tensor", _fake_tiles, [("CompositeExplicitAutograd", implementation)])
    torch.library.register_autograd(f"thinwire::{name}", backward, setup_context=setup, lib=_LIBRARY)


_register_tiles("dct_tiles", _dct, "idct_tiles")
_register_tiles("idct_tiles", _idct, "dct_tiles")

encode, check = torch.ops.thinwire.encode.default, torch.ops.thinwire.check.default
decode_out, step_, sgd_ = torch.ops.thinwire.decode_out.default, torch.ops.thinwire.step_.default, torch.ops.thinwire.sgd_.default
dct_tiles, idct_tiles = torch.ops.thinwire.dct_tiles.default, torch.ops.thinwire.idct_tiles.default
