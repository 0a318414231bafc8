"""A proof is 258 bytes, says exactly what was selected, and anything that no prover can have made is refused."""

import struct
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thinwire.comms.verify.activations import (
    CHUNK,
    PROOF_NBYTES,
    TOP,
    Measurement,
    ProofError,
    UnprovableError,
    cut,
    measure,
    prove,
    read,
)
from thinwire.comms.verify.field import PRIME, evaluate

SAME = Measurement(0.0, 0.0, 0.0, 0.0)


def states(tokens: int = 64, width: int = 64, seed: int = 0) -> Tensor:
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed)).bfloat16()


def pieces(hidden: Tensor) -> list[Tensor]:
    return [hidden[rows] for rows in cut(*hidden.shape)]


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 700))
def test_chunks_cover_every_token_once_and_each_can_be_proved(tokens: int, width: int) -> None:
    if tokens * width < TOP:
        with pytest.raises(UnprovableError) as refused:
            cut(tokens, width)
        assert refused.value.reason == "short"
        return
    rows = cut(tokens, width)
    assert [i for each in rows for i in range(each.start, each.stop)] == list(range(tokens))
    assert all((each.stop - each.start) * width >= TOP for each in rows)
    assert len(rows) == 1 or all(each.stop - each.start >= CHUNK // 2 for each in rows)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 100), st.sampled_from([64, 96, 576, 3000]), st.integers(0, 1 << 20))
def test_a_proof_agrees_with_the_states_it_was_made_of(tokens: int, width: int, seed: int) -> None:
    hidden = states(tokens, width, seed)
    proofs = prove(hidden)
    assert {len(proof) for proof in proofs} == {PROOF_NBYTES}
    assert measure(proofs, pieces(hidden)) == (SAME,) * len(proofs)


def test_the_proof_holds_the_modulus_and_the_raw_bits_of_the_largest_values() -> None:
    hidden = states(32)
    modulus, coefficients = read(prove(hidden))
    flat = hidden.reshape(-1)
    index = flat.abs().float().topk(TOP + 40).indices[:100]  # far from ties at the end
    bits = flat.view(torch.int16)[index].long() & 0xFFFF
    assert int(modulus[0]) == PRIME
    assert torch.equal(evaluate(coefficients, index[None])[0], bits)


def test_indices_above_the_modulus_are_reduced_on_both_sides() -> None:
    hidden = states(32, 4096)  # twice as many values as the field has
    proofs = prove(hidden)
    assert int((pieces(hidden)[0].reshape(-1).abs().float().topk(TOP).indices).max()) > PRIME
    assert measure(proofs, pieces(hidden)) == (SAME,)


def test_indices_that_meet_get_the_next_modulus_that_keeps_them_apart() -> None:
    hidden = torch.zeros(32, 4096, dtype=torch.bfloat16)
    flat = hidden.view(-1)
    flat[torch.arange(126) * 7] = 1.0
    flat[5], flat[5 + PRIME] = 3.0, 4.0
    (proof,) = prove(hidden)
    (modulus,) = struct.unpack_from(">H", proof)
    index = flat.nonzero()[:, 0]
    apart = [m for m in range(PRIME, PRIME // 2, -1) if len(set((index % m).tolist())) == TOP]
    assert modulus == apart[0] < PRIME
    assert measure([proof], [hidden]) == (SAME,)


def test_without_any_modulus_there_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thinwire.comms.verify.activations._LEAST", PRIME - 1)
    hidden = torch.zeros(32, 4096, dtype=torch.bfloat16)
    hidden.view(-1)[torch.cat([torch.arange(127), torch.tensor([PRIME])])] = 1.0
    with pytest.raises(UnprovableError, match="no modulus"):
        prove(hidden)


def test_ties_are_broken_by_the_lower_index_so_that_bytes_are_the_same_everywhere() -> None:
    hidden = torch.ones(32, 64, dtype=torch.bfloat16)
    hidden[:, ::2] = -1
    _, coefficients = read(prove(hidden))
    first = hidden.reshape(-1)[:TOP].view(torch.int16).long() & 0xFFFF
    assert torch.equal(evaluate(coefficients, torch.arange(TOP)[None])[0], first)
    assert prove(hidden) == prove(hidden.t().contiguous().t())


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda x: x.zero_(), "few"),
        (lambda x: x[:, 3:].zero_(), "few"),
        (lambda x: x[40, 3].fill_(torch.nan), "not finite"),
        (lambda x: x[5, 3].fill_(-torch.inf), "not finite"),
    ],
)
def test_states_that_prove_nothing_are_named(spoil: Callable[[Tensor], Tensor], reason: str) -> None:
    hidden = states()
    spoil(hidden)
    with pytest.raises(UnprovableError) as refused:
        prove(hidden)
    assert refused.value.reason == reason
    with pytest.raises(UnprovableError):
        measure(prove(states()), pieces(hidden))


@pytest.mark.parametrize("hidden", [torch.ones(64, 64), torch.ones(4096, dtype=torch.bfloat16)])
def test_other_shapes_and_types_are_refused(hidden: Tensor) -> None:
    with pytest.raises(ValueError, match="give \\(tokens, width\\) bfloat16"):
        prove(hidden)


def words(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


@pytest.mark.parametrize(
    ("proof", "why"),
    [
        (b"", "0 bytes"),
        (bytes(PROOF_NBYTES - 1), "257 bytes"),
        (bytes(PROOF_NBYTES), "modulus that is not in"),
        (words(64, *[1] * TOP), "modulus that is not in"),
        (words(0xFFFF, *[1] * TOP), "modulus that is not in"),
        (words(PRIME, *[PRIME] * TOP), "no residue"),
        (words(PRIME - 1, *[1] * TOP), "keeps all indices apart"),
        ("text", "str"),
        (None, "NoneType"),
    ],
)
def test_bytes_that_no_prover_can_have_made_are_refused(proof: bytes, why: str) -> None:
    with pytest.raises(ProofError, match=why):
        measure([proof], pieces(states(32)))


@settings(max_examples=30, deadline=None)
@given(st.binary(min_size=PROOF_NBYTES, max_size=PROOF_NBYTES))
def test_any_bytes_are_refused_or_measured_and_never_agree(proof: bytes) -> None:
    try:
        (measured,) = measure([proof], pieces(states(32)))
    except ProofError:
        return
    assert measured.exponents > TOP // 2


def test_the_number_of_proofs_has_to_be_that_of_the_chunks() -> None:
    proofs = prove(states())
    for given_ in (proofs[:1], (*proofs, proofs[0]), ()):
        with pytest.raises(ProofError, match=f"{len(given_)} proofs for 2 chunks"):
            measure(given_, pieces(states()))
    assert measure((), []) == ()


def test_differences_are_counted_in_units_of_the_last_place() -> None:
    hidden = torch.full((32, 4), 1.5, dtype=torch.bfloat16)
    proofs, raw = prove(hidden), hidden.view(torch.int16)
    raw.view(-1)[:64] += 4
    assert measure(proofs, [hidden]) == (Measurement(0.0, 2.0, 0.5, 0.0),)
    raw.view(-1)[:96] += 4
    assert measure(proofs, [hidden]) == (Measurement(0.0, 5.0, 4.5, 0.0),)


def test_the_median_is_interpolated_within_its_unit() -> None:
    hidden = torch.full((32, 4), 1.5, dtype=torch.bfloat16)
    proofs, raw = prove(hidden), hidden.view(torch.int16)
    raw.view(-1)[:80] += 1
    assert measure(proofs, [hidden])[0].median == 0.5 + 16 / 80  # 48 zeros are below it, and 16 of the 80 ones


def test_one_token_that_is_off_shows_as_a_burst() -> None:
    hidden = states(32)
    proofs = prove(hidden)
    hidden[7, 9] = 32.0  # in no proof that was made before
    (measured,) = measure(proofs, [hidden])
    (alone,) = measure(prove(states(32)), [states(32)])
    assert measured.burst > 1.0
    assert alone.burst == 0.0
    assert measured.mean < 1.0


def test_a_burst_counts_bits_beyond_one_unit() -> None:
    hidden = torch.full((32, 4), 2.0, dtype=torch.bfloat16)  # all 128 values are selected
    hidden[31] = 1.0  # the others lie well above
    proofs, raw = prove(hidden), hidden.view(torch.int16)
    raw[5, :] += 7  # log2(8) - 1 = 2 bits, of four values
    raw[9, :2] += 1  # no bit
    (measured,) = measure(proofs, [hidden])
    assert measured.burst == pytest.approx(2 * 4 / 4**0.5)


def test_random_and_zero_polynomials_differ_in_nearly_every_exponent() -> None:
    zero = words(PRIME, *[0] * TOP)
    other = prove(states(32, seed=1))[0]
    for proof in (zero, other):
        (measured,) = measure([proof], pieces(states(32)))
        assert measured.exponents > 100
        assert measured.burst > 8
