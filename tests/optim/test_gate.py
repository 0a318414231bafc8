"""Only what shows in the short weights is sent, the rest stays bit for bit, and by and by everything arrives."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from tests.optim.problem import adamw, learn, model, run_members, weights
from thinwire import DiLoCo, LocalGroup
from thinwire.comms.recipes import codec as named
from thinwire.kernels import dispatch
from thinwire.optim.agree import ConfigError
from thinwire.optim.fragment import Fragment
from thinwire.optim.gate import Gate, source
from thinwire.optim.message import Message, encode

BF16 = Gate(torch.bfloat16, 1.0)
CODECS = ["int8", "int4", "none", "bf16", "fp8", "fp4", "topk64-int4", "blockmax32-int8"]
SIZES = [0, 1, 7, 1021, 4099, 9973]


def low(x: NDArray[np.float32]) -> NDArray[np.uint32]:
    """bfloat16 by the bits: half to even, as uint32 with the lower half zero."""
    bits = x.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> np.uint64(16) & np.uint64(1))) & np.uint64(0xFFFF0000)).astype(np.uint32)


def shows(anchor: NDArray[np.float32], r: NDArray[np.float32], lr: float) -> NDArray[np.bool_]:
    """The definition, in numpy."""
    moved = (anchor - (r * np.float32(lr)).astype(np.float32)).astype(np.float32)
    wire = (np.abs(r) >= np.float32(2.0**-126)) & (np.abs(r) <= np.float32(2.0**100))
    return wire & (low(moved).view(np.float32) != low(anchor).view(np.float32))


def problem(numel: int, *, seed: int = 0, size: float = 1e-3) -> tuple[Tensor, Tensor]:
    """An anchor of all magnitudes, and changes of which some show."""
    generator = torch.Generator().manual_seed(seed)
    scale = 2.0 ** torch.randint(-12, 3, (numel,), generator=generator).float()
    anchor = torch.randn(numel, generator=generator) * scale
    return anchor, torch.randn(numel, generator=generator) * size


def made(name: str, numel: int, gate: Gate | None = BF16, *, seed: int = 0) -> tuple[Fragment, Message, Tensor, Tensor]:
    """The fragment, a message with a residual in it, the anchor as a matrix, and what was to be sent."""
    fragment = Fragment([torch.Size([numel])], name)
    anchor, change = problem(numel, seed=seed)
    held = problem(numel, seed=seed + 1)[1] / 3
    held = fragment.matrix(held).clone()
    local = anchor - change
    message = encode(fragment, [local], anchor=anchor, held=held, decay=1.0, gate=gate)
    return fragment, message, fragment.matrix(anchor), held + fragment.matrix(anchor - local)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.sampled_from([1.0, 0.7]))
def test_what_shows_is_what_the_numpy_definition_says(anchor: int, r: int, lr: float) -> None:
    a, b = np.array([anchor], np.uint32).view(np.float32), np.array([r], np.uint32).view(np.float32)
    if not np.isfinite(a[0]) or abs(a[0]) > 2.0**100:
        return  # such an anchor has abstained before
    with np.errstate(all="ignore"):
        expected = shows(a, b, lr)
    assert Gate(torch.bfloat16, lr).shows(torch.from_numpy(a), torch.from_numpy(b)).tolist() == expected.tolist()


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("numel", SIZES)
def test_sent_and_kept_are_the_whole_bit_for_bit_and_what_does_not_show_is_not_sent(name: str, numel: int) -> None:
    fragment, message, anchor, whole = made(name, numel)
    assert message.kept is not None
    assert message.payload.numel() == fragment.plan.nbytes
    sent = fragment.plan.decode(message.payload)
    assert torch.equal(sent + message.kept, whole)
    hidden = ~torch.from_numpy(shows(anchor.numpy(), whole.numpy(), 1.0))
    assert not sent[hidden].any()
    assert torch.equal(message.kept[hidden].view(torch.int32), whole[hidden].view(torch.int32))
    if numel > 1000:
        assert 0.05 < hidden.float().mean() < 0.95
        assert sent.any()


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["int8", "int4", "topk"]), st.integers(0, 3000), st.integers(0, 1000))
def test_fused_and_by_stages_are_the_same_bits(name: str, numel: int, seed: int) -> None:
    fused = made(name, numel, seed=seed)[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "runs_fused", lambda program, device: False)
        staged = made(name, numel, seed=seed)[1]
    assert fused.kept is not None
    assert staged.kept is not None
    assert torch.equal(fused.payload, staged.payload)
    assert torch.equal(fused.kept.view(torch.int32), staged.kept.view(torch.int32))
    assert (fused.finite, fused.norm, fused.kept_norm) == (staged.finite, staged.norm, staged.kept_norm)


@pytest.mark.parametrize("name", ["int8", "topk", "none"])
def test_where_everything_shows_the_gate_changes_nothing(name: str) -> None:
    anchor, change = torch.zeros(5000), problem(5000)[1]
    fragment = Fragment([torch.Size([5000])], name)
    held = torch.zeros(fragment.plan.rows, fragment.plan.chunk)
    plain, gated = (encode(fragment, [anchor - change], anchor=anchor, held=held, decay=1.0, gate=gate) for gate in (None, BF16))
    assert torch.equal(plain.payload, gated.payload)
    assert plain.kept is not None
    assert gated.kept is not None
    assert torch.equal(plain.kept, gated.kept)


def test_numbers_that_are_not_finite_are_told() -> None:
    anchor = torch.ones(100)
    fragment = Fragment([torch.Size([100])], "int8")
    local = anchor.clone()
    local[3] = float("nan")
    message = encode(fragment, [local], anchor=anchor, held=torch.zeros(fragment.plan.rows, fragment.plan.chunk), decay=1.0, gate=BF16)
    assert not message.finite
    assert message.kept is not None
    assert bool(message.kept.isfinite().all())


def test_what_is_too_small_to_show_gathers_until_it_does() -> None:
    tiny = 2.0**-13

    def work(rank: int, group: LocalGroup) -> tuple[list[int], Tensor]:
        w = torch.nn.Parameter(torch.ones(64))
        opt = DiLoCo(torch.optim.SGD([w], lr=tiny), sync_every=1, codec="none", visible=torch.bfloat16, group=group)
        moved = []
        for step in range(1, 65):
            before = w.detach().clone()
            w.grad = torch.ones(64)
            opt.step()
            if not torch.equal(before, w):
                moved.append(step)
        held = opt._replicas[0].residual
        assert held is not None
        learnt = w.detach() - held.reshape(-1)
        opt.close()
        return moved, learnt

    for moved, learnt in run_members(2, work):
        # Steps of bfloat16 below 1 are 32 tiny: 1 - 16 tiny still rounds (half to even) to 1, and 1 - 48 tiny to 1 - 64 tiny.
        assert moved == [17, 48]
        assert torch.equal(learnt, torch.full((64,), 1 - 64 * tiny))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_that_nobody_trains_are_never_moved_by_their_own_rounding(dtype: torch.dtype) -> None:
    def work(rank: int, group: LocalGroup) -> Tensor:
        net = model(dtype=dtype)
        opt = DiLoCo(torch.optim.SGD(net.parameters(), lr=0.0), sync_every=1, codec="int8", group=group, visible=dtype)
        learn(net, opt, 0, rank)
        replica = opt._replicas[0]
        assert replica.anchor is not None
        replica.anchor += replica.anchor * 2.0**-11  # what agreed updates leave behind the last place
        before = weights(net)
        for step in range(12):
            learn(net, opt, step, rank)
        opt.close()
        assert replica.residual is not None
        assert not replica.residual.any()
        return weights(net) - before

    assert not any(bool(change.any()) for change in run_members(2, work))


def test_a_window_is_measured_from_the_weights_that_it_began_with() -> None:
    anchor = torch.tensor([1.001, 2.0, -0.3003])
    began = anchor.to(torch.bfloat16)
    assert not source(anchor, [began]).any()
    assert torch.equal(source(anchor, [anchor - 1.0]), torch.ones(3) * (anchor - (anchor - 1.0)))


@pytest.mark.parametrize("codec", ["int8", "int4", "none", "topk"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("overlap", [0, 2])
def test_replicas_are_identical(codec: str, dtype: torch.dtype, overlap: int) -> None:
    def work(rank: int, group: LocalGroup) -> tuple[Tensor, float]:
        net = model(dtype=dtype)
        opt = DiLoCo(adamw(net, lr=1e-4), sync_every=3, overlap=overlap, codec=codec, group=group, visible=torch.bfloat16)
        for step in range(13):
            learn(net, opt, step, rank)
        opt.close()
        assert opt.stats().rounds >= 4
        assert not opt.stats().nothing_averaged
        return weights(net), opt.stats().last.residual_norm if opt.stats().last else 0.0

    (first, kept), (second, _), (third, _) = run_members(3, work)
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert kept > 0 or dtype == torch.bfloat16


@pytest.mark.parametrize("stop", [4, 5, 6])
@pytest.mark.parametrize("codec", ["int8", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_resume_equals_no_interruption(stop: int, codec: str, dtype: torch.dtype) -> None:
    saved: dict[int, Any] = {}

    def make(net: torch.nn.Module, group: LocalGroup) -> DiLoCo:
        return DiLoCo(adamw(net, lr=1e-4), sync_every=3, codec=codec, group=group, visible=torch.bfloat16)

    def whole(rank: int, group: LocalGroup) -> tuple[Tensor, Tensor | None]:
        net = model(dtype=dtype)
        opt = make(net, group)
        for step in range(11):
            if step == stop:
                buffer = io.BytesIO()
                torch.save({"model": net.state_dict(), "optimizer": opt.state_dict()}, buffer)
                saved[rank] = buffer.getvalue()
            learn(net, opt, step, rank)
        opt.close()
        return weights(net), opt._replicas[0].residual

    def resumed(rank: int, group: LocalGroup) -> tuple[Tensor, Tensor | None]:
        net = model(seed=99, dtype=dtype)
        opt = make(net, group)
        state = torch.load(io.BytesIO(saved[rank]), weights_only=True)
        net.load_state_dict(state["model"])
        opt.load_state_dict(state["optimizer"])
        for step in range(stop, 11):
            learn(net, opt, step, rank)
        opt.close()
        return weights(net), opt._replicas[0].residual

    for (a, kept), (b, kept_too) in zip(run_members(2, whole), run_members(2, resumed), strict=True):
        assert kept is not None
        assert kept_too is not None
        assert torch.equal(a, b)
        assert torch.equal(kept, kept_too)


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("sums of many", {"codec": "dct-topk"}),
        ("no code for zero", {"codec": "sign"}),
        ("no code for zero", {"codec": "blockmax"}),
        ("momentum", {"outer_momentum": 0.9}),
        ("momentum", {"nesterov": True}),
        ("a rule of your own", {"outer": lambda anchor, update, round: anchor - update}),
        ("leave decay out", {"decay": 0.95}),
        ("leave decay out", {"decay": 0.0}),
        ("outer_lr is 0", {"outer_lr": 0}),
        ("torch.bfloat16 or torch.float16", {"visible": torch.float32}),
        ("torch.bfloat16 or torch.float16", {"visible": "bf16"}),
    ],
)
def test_what_cannot_be_combined_is_refused_with_the_remedy(message: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=message):
        DiLoCo(adamw(model()), **{"codec": "int8", "visible": torch.bfloat16} | options)


def test_the_defaults_of_the_gate_are_plain_averaging_for_every_codec() -> None:
    for codec in CODECS:
        opt = DiLoCo(adamw(model()), codec=named(codec), visible=torch.bfloat16)
        assert opt._settings()["decay"] == 1.0
        assert "momentum=0.0" in str(opt._settings()["outer"])
        assert "lr=1.0" in str(opt._outer)


def test_members_of_which_one_has_no_gate_are_told() -> None:
    def work(rank: int, group: LocalGroup) -> str:
        net = model()
        opt = DiLoCo(adamw(net), sync_every=1, codec="topk", group=group, decay=1.0, visible=torch.bfloat16 if rank else None)
        try:
            learn(net, opt, 0, rank)
        except ConfigError as error:
            return str(error)
        return ""

    assert all("visible" in told for told in run_members(2, work))
