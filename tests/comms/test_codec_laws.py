"""One table of laws that every registered codec obeys, in every size and for every kind of trouble in the data."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.codecs import NAMES, named
from tests.kernels.test_vector_is_reference import KINDS, clean, rows
from thinwire.comms import CODECS, WireError, chain
from thinwire.optim import residual
from thinwire.optim.fragment import Fragment

SIGNED_MEANS = ("sign", "vote", "blockmax", "dct-blockmax")  # values that error feedback conserves to an ulp only


def matrix(name: str, kind: str, n: int = 4, seed: int = 0) -> torch.Tensor:
    chunk = named(name).chunk or 777
    return torch.from_numpy(clean(rows(kind, n, chunk, seed)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_payload_has_the_planned_size_and_decodes(name: str, kind: str) -> None:
    x = matrix(name, kind)
    plan = named(name).plan(*x.shape)
    payload = plan.encode(x)
    assert payload.dtype == torch.uint8
    assert payload.shape == (plan.nbytes,)
    assert torch.equal(payload, plan.encode(x))
    decoded = plan.decode(payload)
    assert decoded.shape == x.shape
    assert bool(decoded.isfinite().all())
    assert bool(plan.read(payload)[1].all())


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_independent(name: str) -> None:
    x = matrix(name, "normal", 5)
    record = named(name).plan(1, x.shape[1]).nbytes
    whole = named(name).plan(*x.shape).encode(x).view(5, record)
    for i in range(1 if "stochastic" in name else 5):  # random numbers depend on the row
        assert torch.equal(named(name).plan(1, x.shape[1]).encode(x[i : i + 1].contiguous()), whole[i])
    assert torch.equal(named(name).plan(3, x.shape[1]).encode(x[:3]), whole[:3].reshape(-1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["normal", "ties", "zeros", "sparse", "wide"])
def test_error_feedback_conserves_mass_bit_for_bit(name: str, kind: str) -> None:
    x = matrix(name, kind)
    plan = named(name).plan(*x.shape)
    message = residual.encode(plan, None, x, decay=0.0)
    sent = plan.decode(message.payload)
    if "vote" in name:  # a coefficient that has voted is gone, the others are untouched
        payback = torch.where(x == 0, sent * -(2.0**-100), 0.0)  # of a vote on nothing
        assert torch.equal(message.kept, torch.where(sent != 0, payback, x))
        assert bool(((sent == 0) | (sent == x.sign()) | (x == 0)).all())
    elif "sign" in name or "stochastic" in name or name in SIGNED_MEANS:
        ulp = 2.0**-23 * torch.maximum(x.abs(), sent.abs())
        assert bool(((sent + message.kept - x).abs() <= 1.3 * ulp).all())
    else:
        assert torch.equal(sent + message.kept, x)


def votes_on(name: str, x: torch.Tensor, rounds: int) -> torch.Tensor:
    """The sum of all votes when every round brings the same `x`."""
    plan = named(name).plan(*x.shape)
    held, total = torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(rounds):
        message = residual.encode(plan, held, x, decay=0.999)
        held = message.kept
        total += plan.decode(message.payload)
    return total


@pytest.mark.parametrize("name", [name for name in NAMES if "vote" in name] + ["topk1-vote"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("first", [True, False])
def test_votes_move_both_ways(name: str, sign: float, first: bool) -> None:
    """Whatever a row looks like, it is not mistaken for one that has nothing to say."""
    x = torch.zeros(2, named(name).chunk or 4096)
    x[0] = sign * 0.1
    x[0, 0] = sign if first else 0.1 * sign
    total = votes_on(name, x, 40)
    assert bool((total[0] * sign >= 0).all())
    assert float(total[0].abs().sum()) > 0
    assert float(total[0, 0]) * sign > 0
    assert not bool(total[1].any())


def test_a_block_of_zeros_beside_others_takes_its_vote_back() -> None:
    x = torch.zeros(1, 4096)
    x[0, 3000] = 1.0
    for rounds in (10, 11):
        total = votes_on("blockmax64-vote", x, rounds)[0]
        assert float(total[3000]) == rounds
        total[3000] = 0.0
        assert float(total.abs().max()) == rounds % 2


@pytest.mark.parametrize("name", NAMES)
def test_repr_builds_the_codec_again(name: str) -> None:
    import thinwire.comms as comms

    assert eval(repr(named(name)), vars(comms)) == named(name)


@pytest.mark.parametrize("name", NAMES)
def test_selected_coefficients_are_the_largest(name: str) -> None:
    x = matrix(name, "normal")
    plan = named(name).plan(*x.shape)
    index = plan.values(plan.encode(x)).index
    if index is None:
        return
    assert index.shape == (4, plan.coefficients // 4)
    assert bool((index[:, 1:] > index[:, :-1]).all())
    if "topk" in name:
        kept = x.abs().gather(1, index).amin(1)
        assert bool((x.abs().scatter(1, index, 0.0).amax(1) <= kept).all())


SHAPES = st.lists(st.lists(st.sampled_from([0, 1, 2, 3, 7, 31, 64, 65, 127, 160]), max_size=4).map(torch.Size), max_size=4)


@given(SHAPES, st.sampled_from(NAMES), st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_every_shape_goes_through_a_fragment_and_is_never_larger_than_dense(shapes: list[torch.Size], name: str, seed: int) -> None:
    shapes = [shape for shape in shapes if shape.numel() < 300_000]
    fragment = Fragment(shapes, named(name))
    assert fragment.plan.nbytes <= fragment.dense_nbytes
    flat = torch.randn(fragment.numel, generator=torch.Generator().manual_seed(seed))
    cut = fragment.matrix(flat)
    assert cut.shape == (fragment.plan.rows, fragment.plan.chunk)
    assert torch.equal(fragment.flat(cut), flat)
    assert float(cut.abs().sum(dtype=torch.float64)) == pytest.approx(float(flat.abs().sum(dtype=torch.float64)))
    parts = fragment.split_matrix(torch.arange(cut.numel(), dtype=torch.float32).view(cut.shape))
    views = torch.cat([torch.empty(0), *(view for pair in parts for view in pair)])
    assert torch.equal(views.sort().values, torch.arange(cut.numel(), dtype=torch.float32))
    message = residual.encode(fragment.plan, None, cut, decay=0.0)
    assert message.payload.shape == (fragment.plan.nbytes,)


@pytest.mark.parametrize(
    "shape", [(), (1,), (5,), (0,), (0, 3), (257, 4099), (8, 3, 3, 3), (64, 64), (65, 63), (1, 4096), (100_003,)], ids=str
)
@pytest.mark.parametrize("name", list(CODECS))
def test_awkward_shapes_are_sent_small_and_decoded_whole(shape: tuple[int, ...], name: str) -> None:
    fragment = Fragment([torch.Size(shape)], name)
    flat = torch.randn(fragment.numel, generator=torch.Generator().manual_seed(1))
    plan = fragment.plan
    payload = plan.encode(plan.forward(fragment.matrix(flat)))
    assert payload.numel() <= max(fragment.dense_nbytes, 0)
    assert fragment.flat(plan.inverse(plan.decode(payload))).shape == flat.shape
    if name == "dct-topk" and shape == (257, 4099):
        assert payload.numel() < 0.01 * fragment.dense_nbytes  # DeMo's reference sends 3 times the dense size


def test_wire_costs_at_most_what_was_promised_a_coefficient() -> None:
    for name, bits in (("blockmax64-vote", 7), ("topk", 18), ("topk-int4", 14), ("blockmax", 7.5)):
        plan = named(name).plan(100)
        assert 8 * plan.nbytes / plan.coefficients <= bits


@pytest.mark.parametrize("name", ["nonsense", "topk-int3", "blockmax48", "dct-", "topk0", "", "dct-topk99999"])
def test_unknown_codec_names_say_what_is_known(name: str) -> None:
    with pytest.raises(ValueError, match=r"choose|known"):
        named(name)


def test_chains_in_the_wrong_order_are_refused() -> None:
    from thinwire.comms import DCT, Int8, Pack, TopK

    for stages in ((Pack(), TopK(), Int8()), (TopK(), Pack()), (TopK(), DCT(), Int8(), Pack()), ()):
        with pytest.raises(ValueError, match="order"):
            chain(*stages)
    with pytest.raises(ValueError, match="rows of"):
        chain(DCT(32), TopK(16), Int8(), Pack()).plan(1, 4096)


@pytest.mark.parametrize("name", NAMES)
def test_payloads_of_another_length_are_refused(name: str) -> None:
    plan = named(name).plan(3, named(name).chunk or 50)
    payload = plan.encode(torch.ones(plan.rows, plan.chunk))
    for other in (payload[:-1], payload[:0], torch.cat([payload, payload[:1]]), payload.to(torch.int16)):
        with pytest.raises(WireError):
            plan.decode(other)
