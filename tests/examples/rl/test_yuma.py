"""Yuma's numbers on a matrix done by hand, and what a minority can do: as much as the sentences in the module say, and no more."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from examples.rl.yuma import Array, consensus, epoch

# Consensus by column, stakes added from the largest weight down until .5 is reached:
#   (.6: .4) (.5: .75) -> .5      (.5: .35) (.4: .75) -> .4      (.8: .25) (0: 1) -> 0
# Ranks: .4*.5 + .35*.5 = .375;  .4*.4 + .35*.4 + .25*.2 = .35;  0.  Their sum is .725 = 29/40.
# What was said: .4*.6 + .35*.5 = .415;  .4*.4 + .35*.5 + .25*.2 = .385;  .25*.8 = .2.
# Bonds: (.2, .175, 0) / .375;  (.16, .14, .05) / .35;  none.
STAKES = [0.4, 0.35, 0.25]
WEIGHTS = [[0.6, 0.4, 0.0], [0.5, 0.5, 0.0], [0.0, 0.2, 0.8]]


def test_the_numbers_are_those_done_by_hand() -> None:
    got = epoch(STAKES, WEIGHTS)
    np.testing.assert_allclose(got.consensus, [0.5, 0.4, 0], rtol=0, atol=1e-15)
    np.testing.assert_allclose(got.clipped, [[0.5, 0.4, 0], [0.5, 0.4, 0], [0, 0.2, 0]], rtol=0, atol=1e-15)
    np.testing.assert_allclose(got.ranks, [0.375, 0.35, 0], rtol=0, atol=1e-15)
    np.testing.assert_allclose(got.incentive, [15 / 29, 14 / 29, 0], rtol=0, atol=1e-15)
    np.testing.assert_allclose(got.trust, [75 / 83, 10 / 11, 0], rtol=0, atol=1e-15)
    np.testing.assert_allclose(got.validator_trust, [0.9, 0.9, 0.2], rtol=0, atol=1e-15)
    np.testing.assert_allclose(got.bonds, [[8 / 15, 16 / 35, 0], [7 / 15, 2 / 5, 0], [0, 1 / 7, 0]], rtol=0, atol=1e-15)
    np.testing.assert_allclose(got.dividends, [14.4 / 29, 12.6 / 29, 2 / 29], rtol=0, atol=1e-15)


def test_bonds_move_a_tenth_of_the_way_each_epoch() -> None:
    before = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    got = epoch(STAKES, WEIGHTS, before)
    np.testing.assert_allclose(got.bonds[:, 0], [0.9 + 0.1 * 8 / 15, 0.1 * 7 / 15, 0], atol=1e-15)
    np.testing.assert_allclose(got.bonds[:, 2], [0, 0, 1])


def test_a_penalty_of_zero_buys_bonds_for_what_was_said_and_one_for_what_was_heard() -> None:
    said, heard = epoch(STAKES, WEIGHTS, beta=0).bonds, epoch(STAKES, WEIGHTS, beta=1).bonds
    np.testing.assert_allclose(said[:, 0], [0.24 / 0.415, 0.175 / 0.415, 0])
    assert said[2, 2] == 1
    assert heard[2, 2] == 0


def test_half_of_the_stake_is_enough_for_kappa_of_one_half() -> None:
    assert consensus([0.3, 0.2, 0.5], [[1.0], [0.8], [0.1]])[0] == 0.8
    assert consensus([0.3, 0.19, 0.51], [[1.0], [0.8], [0.1]])[0] == 0.1


weights = arrays(np.float64, (3, 4), elements=st.floats(0, 1, width=32))
honest_row = arrays(np.float64, 4, elements=st.floats(1 / 64, 1, width=32))
NEVER_MORE = 1 + 1e-9


def cabal(honest: NDArray[np.float64], lies: NDArray[np.float64]) -> tuple[list[float], Array]:
    """Three honest judges with .6 of the stake that agree, and three with .4 that say anything."""
    row = honest / honest.sum()
    return [0.2, 0.2, 0.2, 0.1, 0.1, 0.2], np.stack([row, row, row, *lies])


@settings(deadline=None, max_examples=50)
@given(honest_row, weights)
def test_a_cabal_of_two_fifths_moves_no_share_of_the_consensus(honest: NDArray[np.float64], lies: NDArray[np.float64]) -> None:
    stakes, said = cabal(honest, lies)
    got = epoch(stakes, said).consensus
    np.testing.assert_array_equal(got, said[0] / said[0].sum())


@settings(deadline=None, max_examples=50)
@given(honest_row, weights)
def test_a_cabal_raises_no_rank_and_the_incentive_no_further_than_its_silence_can(
    honest: NDArray[np.float64], lies: NDArray[np.float64]
) -> None:
    stakes, said = cabal(honest, lies)
    got, true = epoch(stakes, said), said[0]
    assert np.all(got.ranks <= true * NEVER_MORE)
    assert np.all(got.incentive <= true / (true + 0.6 * (1 - true)) * NEVER_MORE)


@settings(deadline=None, max_examples=50)
@given(honest_row, weights)
def test_a_cabal_that_owns_a_server_earns_less_in_all_than_by_being_honest(honest: NDArray[np.float64], lies: NDArray[np.float64]) -> None:
    stakes, said = cabal(honest, lies)
    got, true = epoch(stakes, said), said[0]
    for server in np.flatnonzero(true <= 0.6):
        assert got.incentive[server] + got.dividends[3:].sum() <= (true[server] + 0.4) * NEVER_MORE


def test_silence_about_others_is_how_a_cabal_gains_incentive_and_it_costs_more_dividends() -> None:
    lies = np.tile([1.0, 0, 0, 0], (3, 1))
    stakes, said = cabal(np.array([0.1, 0.3, 0.3, 0.3]), lies)
    got = epoch(stakes, said)
    assert got.incentive[0] == pytest.approx(0.1 / 0.64)
    assert got.dividends[3:].sum() == pytest.approx(0.04 / 0.64)


@settings(deadline=None, max_examples=50)
@given(arrays(np.float64, (5, 3), elements=st.floats(0, 1, width=32)), st.permutations(range(5)), st.floats(0.05, 1))
def test_the_consensus_is_the_largest_weight_that_enough_stake_stands_behind(
    said: NDArray[np.float64], order: list[int], kappa: float
) -> None:
    stakes = np.array([0.1, 0.15, 0.2, 0.25, 0.3])
    got = consensus(stakes, said, kappa)
    for j in range(3):
        backed = [w for w in said[:, j] if stakes[said[:, j] >= w].sum() >= kappa - 1e-12]
        assert got[j] == max(backed)
    np.testing.assert_array_equal(consensus(stakes[order], said[order], kappa), got)


def test_nothing_said_gives_nothing_and_no_warning() -> None:
    got = epoch([1, 1], np.zeros((2, 3)))
    assert not got.incentive.any()
    assert not got.dividends.any()
    assert not got.trust.any()


def test_bad_numbers_are_refused() -> None:
    bad: list[tuple[list[float], list[list[float]]]] = [
        ([1, -1], [[1], [1]]),
        ([1, 1], [[1], [float("nan")]]),
        ([1], [[1], [1]]),
        ([0, 0], [[1], [1]]),
        ([1], [[]]),
    ]
    for stakes, said in bad:
        with pytest.raises(ValueError, match="stake"):
            epoch(stakes, said)
    with pytest.raises(ValueError, match="kappa"):
        consensus([1], [[1]], 0)
    with pytest.raises(ValueError, match="beta"):
        epoch([1], [[1]], beta=2)
    with pytest.raises(ValueError, match="bonds of shape"):
        epoch([1], [[1]], [[1, 1]])
