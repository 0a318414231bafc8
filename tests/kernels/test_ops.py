"""The operators are torch's: they pass its checks, compile to the same bits, take any tensor, and say so when they cannot run."""

import logging
import mmap
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck
from torch.utils._pytree import tree_leaves

from tests.codecs import named
from thinwire.comms.stages import basis
from thinwire.kernels import dispatch, native, ops, reference_chain
from thinwire.kernels.finish import Finish, Out, Sgd, Step
from thinwire.kernels.program import Program
from thinwire.optim.fragment import Fragment
from thinwire.optim.outer import SGD

CODECS = ["dct-topk", "blockmax", "dct8-blockmax16-int2", "dct-blockmax64-vote", "int8-stochastic", "fp4", "none"]
SHAPES = [torch.Size(shape) for shape in [(130, 70), (9, 3, 5, 4), (64,), (0, 3), (), (5000,)]]
NUMEL = sum(shape.numel() for shape in SHAPES)
FINISHES = ["out", "step", "sign", "sgd", "momentum", "nesterov"]


def program_of(name: str) -> Program:
    program = Fragment(SHAPES, named(name)).plan.program
    assert program is not None
    return program


def drawn(seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in SHAPES]


def odd(seed: int) -> list[Tensor]:
    """With ties, zeros, denormals, and what is not finite."""
    tensors = drawn(seed)
    for tensor, value in zip(tensors, [0.0, 1e-40, float("nan"), 1.0, float("inf"), -2.0], strict=True):
        tensor.view(-1)[::3] = value
    return tensors


def bits(*tree: Any) -> list[bytes]:
    """Of all tensors in the tree."""
    leaves = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
    return [leaf.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes() for leaf in leaves]


def payloads_of(program: Program, members: int = 3) -> list[Tensor]:
    return [dispatch.encode(program, drawn(seed)).payload for seed in range(members)]


def finish_of(kind: str, seed: int = 7) -> Finish:
    generator = torch.Generator().manual_seed(seed)
    anchor, buffer = (torch.randn(NUMEL, generator=generator) for _ in range(2))
    made: dict[str, Finish] = {
        "out": Out(anchor),
        "step": Step(0.1, 0.97),
        "sign": Step(0.01, sign=True),
        "sgd": Sgd(anchor),
        "momentum": Sgd(anchor, 0.7, 0.9, False, buffer),
        "nesterov": Sgd(anchor, 0.7, 0.9, True, buffer),
    }
    return made[kind]


def tensors_of(finish: Finish) -> list[Tensor]:
    return [value for value in vars(finish).values() if isinstance(value, Tensor)]


def laid_out(tensors: list[Tensor], how: str) -> list[Tensor]:
    """The same numbers in other memory."""
    made = []
    for tensor in tensors:
        if how == "channels_last" and tensor.dim() == 4:
            made.append(tensor.contiguous(memory_format=torch.channels_last))
        elif how == "transposed" and tensor.dim() > 1:
            made.append(tensor.transpose(0, -1).contiguous().transpose(0, -1))
        elif how == "strided":
            made.append(torch.stack([tensor, tensor + 1], -1)[..., 0])
        elif how == "unaligned":
            made.append(torch.cat([tensor.new_zeros(1), tensor.reshape(-1)])[1:].view(tensor.shape))
        elif how == "leaf":
            made.append(tensor.clone().requires_grad_())
        else:
            made.append(tensor.clone())
    return made


LAYOUTS = ["contiguous", "channels_last", "transposed", "strided", "unaligned", "leaf"]


# -- torch's checks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dct-topk", "blockmax", "none"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_torch_finds_nothing_wrong(name: str, requires_grad: bool) -> None:
    program = program_of(name)
    matrix = torch.zeros(program.rows, program.chunk)
    sources = [tensor.requires_grad_(requires_grad) for tensor in drawn()]
    sent, integers = payloads_of(program, 2), tuple(program)
    opcheck(ops.encode, (sources, torch.randn(NUMEL), torch.randn_like(matrix), matrix, integers, 0.9, 1.0, True))
    opcheck(ops.encode, (sources, None, None, None, integers, 1.0, 0.5, True))
    opcheck(ops.encode, (sources, None, None, matrix, integers, 1.0, 1.0, False))
    opcheck(ops.check, (sent[0], integers))
    opcheck(ops.decode_out, (sent, sources, torch.zeros(NUMEL), integers, True))


def test_torch_finds_nothing_wrong_in_what_moves_weights() -> None:
    program = program_of("dct-topk")
    sent, integers, anchor, buffer = payloads_of(program, 2), tuple(program), torch.randn(NUMEL), torch.randn(NUMEL)
    opcheck(ops.step_, (sent, drawn(), integers, False, 0.1, 0.9, True))
    opcheck(ops.sgd_, (sent, drawn(), anchor, buffer, integers, True, 0.7, 0.9, True))
    opcheck(ops.sgd_, (sent, drawn(dtype=torch.bfloat16), anchor, None, integers, False, 1.0, 0.0, False))


@pytest.mark.parametrize("op", [ops.dct_tiles, ops.idct_tiles])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_torch_finds_nothing_wrong_in_the_dct(op: Any, requires_grad: bool) -> None:
    opcheck(op, (torch.randn(3, 4096, requires_grad=requires_grad), 64))
    opcheck(op, (torch.randn(64, 5).t().requires_grad_(requires_grad), 8))


def test_the_gradient_of_the_dct_is_its_inverse() -> None:
    x, weight = torch.randn(3, 256, requires_grad=True), torch.randn(3, 256)
    (dispatch.dct_tiles(x, 16) * weight).sum().backward()
    assert bits(x.grad) == bits(dispatch.idct_tiles(weight, 16))
    assert bits(basis.DCT(16).encode(x, None)) == bits(native.dct_tiles(x, 16))


@pytest.mark.parametrize("device", ["cpu", "cuda", "meta"])
@pytest.mark.parametrize("code", [True, False])
def test_shapes_without_data(device: str, code: bool) -> None:
    def shapes(on: str) -> list[tuple[torch.Size, torch.dtype]]:
        program = program_of("dct-topk")
        sources = [torch.zeros(shape, device=on) for shape in SHAPES]
        made = dispatch.encode(program, sources, held=torch.zeros(program.rows, program.chunk, device=on), code=code)
        sent = torch.zeros(program.nbytes, dtype=torch.uint8, device=on)
        row, tiles = ops.check(sent, tuple(program)), dispatch.dct_tiles(torch.zeros(64, 3, device=on).t(), 8)
        assert all(tensor.device.type == on for tensor in (*made, tiles))
        assert row.device.type == "cpu"
        for kind in FINISHES[1:3]:
            dispatch.decode(program, [sent], sources, finish_of(kind))
        return [(tensor.shape, tensor.dtype) for tensor in (*made, row, tiles)]

    expected = shapes("cpu")
    if device == "meta":
        assert shapes("meta") == expected
    else:
        with FakeTensorMode():
            assert shapes(device) == expected


# -- torch.compile ---------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def a_round(program: Program, sources: list[Tensor], held: Tensor, targets: list[Tensor], finish: Finish) -> Any:
    made = dispatch.encode(program, sources, held=held, decay=0.9)
    whole = dispatch.encode(program, sources, code=False)
    sent = [made.payload, made.payload.clone()]
    dispatch.decode(program, sent, targets, finish, contributors=True)
    out = torch.empty(NUMEL)
    dispatch.decode(program, sent, targets, Out(out))
    return made, whole, out * 2, [target + 1 for target in targets], ops.check(made.payload, tuple(program))


def same_compiled(name: str, kind: str, dtype: torch.dtype, how: str, **options: Any) -> None:
    program = program_of(name)

    def run(function: Callable[..., Any]) -> list[bytes]:
        sources, finish = laid_out(drawn(1), how), finish_of(kind)
        # In code that torch 2.13 compiles, even `mul_` does not change a float64 tensor of no dimensions.
        targets = laid_out([target if target.dim() else target.to(torch.float32) for target in drawn(2, dtype)], how)
        held = torch.randn(program.rows, program.chunk, generator=torch.Generator().manual_seed(3))
        return bits(function(program, sources, held, targets, finish), sources, held, targets, tensors_of(finish))

    torch.compiler.reset()
    assert run(torch.compile(a_round, fullgraph=True, **options)) == run(a_round)


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize(
    ("name", "kind", "dtype", "how"),
    [
        ("dct-topk", "step", torch.float32, "contiguous"),
        ("blockmax", "nesterov", torch.bfloat16, "transposed"),
        ("dct-blockmax64-vote", "sign", torch.float32, "leaf"),
        ("none", "sgd", torch.float64, "channels_last"),
        ("int8-stochastic", "momentum", torch.float16, "strided"),
    ],
)
def test_a_compiled_round_holds_the_same_bits(name: str, kind: str, dtype: torch.dtype, how: str, dynamic: bool | None) -> None:
    same_compiled(name, kind, dtype, how, backend="aot_eager", dynamic=dynamic)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # importing inductor warns of torch.jit
def test_inductor_holds_the_same_bits() -> None:
    same_compiled("dct-topk", "nesterov", torch.float32, "transposed")


# -- cost ------------------------------------------------------------------------------------------------------------------------


def best_of(*calls: Callable[[], Any]) -> list[float]:
    """Seconds of this thread that each takes, the least of many turns."""
    best = [float("inf")] * len(calls)
    for _ in range(30):
        for i, call in enumerate(calls):
            begun = time.thread_time()
            for _ in range(50):
                call()
            best[i] = min(best[i], (time.thread_time() - begun) / 50)
    return best


def test_an_operator_costs_little_beside_the_smallest_bucket() -> None:
    program = named("blockmax").plan(1).program
    assert program is not None
    x, held, kept = [torch.randn(64, 64)], torch.randn(1, 4096), torch.empty(1, 4096)
    sent = [native.encode(program, x).payload] * 4
    direct = best_of(
        lambda: native.encode(program, x, held=held, kept=kept), lambda: native.decode(program, sent, x, Step(0.0)),
    )  # fmt: skip
    through = best_of(
        lambda: dispatch.encode(program, x, held=held, kept=kept), lambda: dispatch.decode(program, sent, x, Step(0.0)),
    )  # fmt: skip
    for bare, whole in zip(direct, through, strict=True):
        assert whole < 4 * bare, f"{1e6 * whole:.1f} us where the library takes {1e6 * bare:.1f}"


# -- without the library ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(native, "_find", lambda: None)
    native.library.cache_clear()
    yield
    native.library.cache_clear()


def matrix_of(program: Program, tensors: list[Tensor]) -> Any:
    return reference_chain.to_matrix(program, [tensor.numpy() for tensor in tensors])


@pytest.mark.parametrize("name", CODECS)
def test_without_the_library_the_specification_runs_and_says_so_once(name: str, no_library: None, caplog: pytest.LogCaptureFixture) -> None:
    program, sources = program_of(name), odd(0)
    held = torch.randn(program.rows, program.chunk)
    with caplog.at_level(logging.WARNING, logger="thinwire"):
        made = dispatch.encode(program, sources, held=held, decay=0.9)
        assert dispatch.check(program, made.payload) == -1
        dispatch.decode(program, [made.payload], drawn(), finish_of("step"))
    assert [record.name for record in caplog.records] == ["thinwire"]
    assert "without its C++ library" in caplog.text
    assert not dispatch.runs_fused(program, "cpu")
    payload, kept, bad = reference_chain.encode_rows(program, matrix_of(program, sources), held.numpy(), 0.9)
    assert made.payload.numpy().tobytes() == payload.tobytes()
    assert made.kept is not None
    assert made.kept.numpy().tobytes() == kept.tobytes()
    assert made.stats[0] == bad > 0


@pytest.mark.parametrize("name", CODECS)
def test_with_and_without_the_library_the_bits_are_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, sources, anchor = program_of(name), odd(1), torch.randn(NUMEL)
    sent = payloads_of(program)
    unsound = sent[0].clone()
    unsound[program.record * (program.rows - 1) :] = 255

    def run() -> tuple[list[bytes], list[float]]:
        made = dispatch.encode(program, sources, anchor=anchor, gain=0.3)
        whole = dispatch.encode(program, sources, anchor=anchor, gain=0.3, code=False)
        assert dispatch.encode(program, sources, state=False).kept is None
        rows = torch.tensor([dispatch.check(program, payload) for payload in (*sent, unsound)])
        results = [*made[:2], *whole[:2], rows]
        for kind in FINISHES:
            for dtype in (torch.float32, torch.bfloat16):
                targets, finish = drawn(4, dtype), finish_of(kind)
                dispatch.decode(program, sent, targets, finish, contributors=dtype == torch.bfloat16)
                results += [*targets, *tensors_of(finish)]
        return bits(results), [*made.stats.tolist(), *whole.stats.tolist()]

    expected, stats = run()
    monkeypatch.setattr(native, "library", lambda: None)
    found, theirs = run()
    assert found == expected
    assert theirs == pytest.approx(stats, rel=1e-3)  # sums of squares have no agreed order


def test_the_dct_runs_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(256, 5).t()
    expected = bits(dispatch.dct_tiles(x, 16), dispatch.idct_tiles(x, 16))
    monkeypatch.setattr(native, "library", lambda: None)
    assert bits(dispatch.dct_tiles(x, 16), dispatch.idct_tiles(x, 16)) == expected


def test_which_devices_run_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    program = program_of("blockmax")
    monkeypatch.setattr(dispatch, "HAS_TRITON", True)
    assert [dispatch.runs_fused(program, device) for device in ("cpu", "cuda:1", torch.device("cuda"), "meta")] == [True, True, True, False]
    assert not dispatch.runs_fused(None, "cpu")
    monkeypatch.setattr(dispatch, "HAS_TRITON", False)
    assert not dispatch.runs_fused(program, "cuda")


@pytest.mark.parametrize("entry", ["encode", "check", "decode"])
def test_without_triton_a_gpu_is_refused_never_served_in_another_way(entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("triton_encode", "triton_check", "triton_decode"):
        monkeypatch.setitem(sys.modules, f"thinwire.kernels.{module}", None)
    with pytest.raises(RuntimeError, match="install triton"):
        ops._cuda(entry)


# -- any tensor ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("how", LAYOUTS)
@torch.no_grad()
def test_sources_of_any_layout_and_dtype(how: str, dtype: torch.dtype) -> None:
    program, plain = program_of("dct-topk"), drawn(5, dtype)
    sources = laid_out(plain, how)
    before, anchor = bits(sources), torch.randn(2 * NUMEL)[::2]
    held = torch.randn(program.chunk, program.rows).t()
    made = dispatch.encode(program, sources, anchor=anchor, held=held, decay=0.5)
    widened = [tensor.to(torch.float32) for tensor in plain]
    expected = native.encode(program, widened, anchor=anchor.contiguous(), held=held.contiguous(), decay=0.5)
    assert bits(made) == bits(expected)
    assert bits(sources) == before
    assert not made.stats.requires_grad


def moved_by_torch(update: Tensor, targets: list[Tensor], finish: Finish) -> None:
    """As DeMo moves weights, and DiLoCo's outer rule the anchor."""
    parts = update.split([target.numel() for target in targets])
    if isinstance(finish, Step):
        step = (update.sign() if finish.sign else update) * finish.lr
        parts = step.split([target.numel() for target in targets])
        for target, part in zip(targets, parts, strict=True):
            if finish.keep != 1:
                target.mul_(finish.keep)
            target.sub_(part.view(target.shape))
    elif isinstance(finish, Sgd):
        anchor, buffer = SGD(finish.lr, finish.momentum, finish.nesterov)(finish.anchor, update, finish.buffer)
        finish.anchor.copy_(anchor)
        if finish.buffer is not None and buffer is not None:
            finish.buffer.copy_(buffer)
        for target, part in zip(targets, anchor.split([target.numel() for target in targets]), strict=True):
            target.copy_(part.view(target.shape))


@pytest.mark.parametrize("kind", FINISHES[1:])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("how", LAYOUTS)
@torch.no_grad()
def test_targets_of_any_layout_and_dtype_move_as_torch_moves_them(how: str, dtype: torch.dtype, kind: str) -> None:
    program = program_of("dct-topk")
    sent, update = payloads_of(program), torch.empty(NUMEL)
    dispatch.decode(program, sent, drawn(), Out(update))
    expected, theirs = laid_out(drawn(6, dtype), how), finish_of(kind)
    moved_by_torch(update, expected, theirs)
    targets, ours = laid_out(drawn(6, dtype), how), finish_of(kind)
    strides = [target.stride() for target in targets]
    dispatch.decode(program, sent, targets, ours)
    assert bits(targets, tensors_of(ours)) == bits(expected, tensors_of(theirs))
    assert [target.stride() for target in targets] == strides


def test_dtypes_may_be_mixed() -> None:
    program, dtypes = program_of("blockmax"), [torch.float32, torch.bfloat16, torch.float64, torch.float32, torch.float16, torch.bfloat16]
    plain = [tensor.to(dtype) for tensor, dtype in zip(drawn(8), dtypes, strict=True)]
    made = dispatch.encode(program, plain)
    assert bits(made) == bits(native.encode(program, [tensor.to(torch.float32) for tensor in plain]))
    update, expected, finish = torch.empty(NUMEL), laid_out(plain, "contiguous"), Step(0.1, 0.9)
    dispatch.decode(program, [made.payload], plain, Out(update))
    moved_by_torch(update, expected, finish)
    dispatch.decode(program, [made.payload], plain, finish)
    assert bits(plain) == bits(expected)


def read_only(tensor: Tensor, folder: Path) -> Tensor:
    """The same numbers in memory that the operating system does not let anyone write."""
    path = folder / f"{len(os.listdir(folder))}"
    path.write_bytes(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() or b"\0")
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that it could be written
        flat = torch.from_numpy(np.frombuffer(mapped, np.uint8))[: tensor.numel() * tensor.element_size()]
    return flat.view(tensor.dtype).view(tensor.shape)


@pytest.mark.parametrize("how", ["contiguous", "transposed"])
def test_what_is_read_may_lie_in_read_only_memory(how: str, tmp_path: Path) -> None:
    program = program_of("dct-topk")
    plain, anchor, held = drawn(9), torch.randn(NUMEL), torch.randn(program.rows, program.chunk)
    sources = [read_only(tensor, tmp_path) for tensor in plain]
    if how == "transposed":
        sources = [tensor.t() if tensor.dim() == 2 else tensor for tensor in sources]
        program = Fragment([tensor.shape for tensor in sources], named("dct-topk")).plan.program or program
        plain = [tensor.clone() for tensor in sources]
        held = torch.randn(program.rows, program.chunk)
    made = dispatch.encode(program, sources, anchor=read_only(anchor, tmp_path), held=read_only(held, tmp_path), decay=0.9)
    assert bits(made) == bits(native.encode(program, [t.contiguous() for t in plain], anchor=anchor, held=held, decay=0.9))
    sent, out, expected = read_only(made.payload, tmp_path), torch.empty(NUMEL), torch.empty(NUMEL)
    assert dispatch.check(program, sent) == -1
    dispatch.decode(program, [sent, sent], sources, Out(out))
    dispatch.decode(program, [made.payload, made.payload], plain, Out(expected))
    assert bits(out) == bits(expected)


def test_payloads_may_lie_anywhere() -> None:
    program = program_of("dct-topk")
    sent, out, expected = payloads_of(program), torch.empty(NUMEL), torch.empty(NUMEL)
    shifted = [laid_out([sent[0]], "unaligned")[0], laid_out([sent[1]], "strided")[0], sent[2]]
    assert [dispatch.check(program, payload) for payload in shifted] == [-1, -1, -1]
    dispatch.decode(program, sent, drawn(), Out(expected))
    dispatch.decode(program, shifted, drawn(), Out(out))
    assert bits(out) == bits(expected)


# -- what is changed, and what is refused ----------------------------------------------------------------------------------------


def test_the_residual_is_written_where_it_is_wanted() -> None:
    program = program_of("dct-topk")
    held, kept = torch.randn(program.rows, program.chunk), torch.full((program.rows, program.chunk), 9.0)
    before = bits(held)
    made = dispatch.encode(program, drawn(), held=held, kept=kept)
    assert made.kept is kept
    assert bits(kept) == bits(native.encode(program, drawn(), held=held).kept)
    assert bits(held) == before
    assert dispatch.encode(program, drawn(), held=held, state=False).kept is None
    with pytest.raises(ValueError, match="used twice"):
        dispatch.encode(program, drawn(), held=held, kept=held)


def test_autograd_hears_of_every_change() -> None:
    program = program_of("dct-topk")
    sent, kept, targets, finish = payloads_of(program), torch.empty(program.rows, program.chunk), drawn(), finish_of("nesterov")
    changed = [kept, *targets, *tensors_of(finish)]
    before = [tensor._version for tensor in changed]
    dispatch.encode(program, drawn(), kept=kept)
    dispatch.decode(program, sent, targets, finish)
    assert all(tensor._version > version for tensor, version in zip(changed, before, strict=True))
    weight = drawn()[0].requires_grad_()
    loss = (weight**2).sum()
    with torch.no_grad():
        dispatch.decode(program, sent, [weight, *targets[1:]], Step(0.1))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    with torch.inference_mode():
        dispatch.decode(program, sent, drawn(), Step(0.1))


def test_weights_that_require_grad_move_only_where_torch_lets_them() -> None:
    program, targets = program_of("blockmax"), laid_out(drawn(), "leaf")
    with pytest.raises(RuntimeError, match="no_grad"):
        dispatch.decode(program, payloads_of(program), targets, Step(0.1))
    dispatch.decode(program, payloads_of(program), targets, Out(torch.empty(NUMEL)))


def test_what_cannot_be_meant_is_a_value_error() -> None:
    program = program_of("dct-topk")
    with pytest.raises(ValueError, match="do not fill its rows"):
        dispatch.encode(program, drawn()[1:])
    with pytest.raises(ValueError, match="no payloads"):
        dispatch.decode(program, [], drawn(), Step(0.1))
    with pytest.raises(ValueError, match="expected"):
        dispatch.check(program, torch.zeros(3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="expected"):
        dispatch.encode(program, drawn(), held=torch.zeros(3))
    with pytest.raises(ValueError, match="expected"):
        dispatch.decode(program, payloads_of(program), drawn(), Sgd(torch.zeros(3)))


@pytest.mark.parametrize("library", [True, False])
def test_nothing_can_be_encoded_and_decoded(library: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not library:
        monkeypatch.setattr(native, "library", lambda: None)
    program = Fragment([], named("blockmax")).plan.program
    assert program is not None
    made = dispatch.encode(program, [])
    assert made.payload.shape == (0,)
    assert made.stats.tolist() == [0, 0, 0]
    assert dispatch.check(program, made.payload) == -1
    for targets in ([], [torch.zeros(0, 3), torch.zeros(0)]):
        dispatch.decode(program, [made.payload], targets, Step(0.1))
        dispatch.decode(program, [made.payload], targets, Out(torch.empty(0)))
