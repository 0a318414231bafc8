"""What many judges say of many servers, so that a minority that lies moves nothing: Yuma's clipped, stake-weighted median.

With stakes S (sum 1) and what judge i says of server j, W_ij (rows sum 1 where anything is said), after Bittensor's subtensor
(`docs/consensus.md`, `run_epoch.rs`):

    consensus        C_j = the largest w with  sum_i S_i [W_ij >= w] >= kappa
    clipped          V_ij = min(W_ij, C_j)                         who says more than the consensus is not heard
    ranks            R_j = sum_i S_i V_ij
    incentive        I_j = R_j / sum R                             what servers earn
    trust            T_j = R_j / sum_i S_i W_ij                    how much of what was said of j is left
    validator trust  sum_j V_ij                                    how much of what i said is left
    bonds            dB_ij = S_i X_ij / sum_k S_k X_kj,  X = (1 - beta) W + beta V;   B = alpha dB + (1 - alpha) B before, columns sum 1
    dividends        D_i = sum_j B_ij I_j                          what judges earn

What 40 % of the stake can do against an honest, unanimous majority at kappa 0.5: nothing to C, so nothing to `consensus / sum(consensus)`,
which is what rewards are made of here (`examples.rl.judges`). R_j of its own servers never rises either, but the others' ranks fall where
it is silent about them, so I_j may rise to w / (w + 0.6 (1 - w)); that costs its judges more dividends than its servers gain, as long as w
<= 0.6. Each of these sentences is a property test.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Epoch:
    """The outcome of one epoch: judges are rows, servers columns."""

    consensus: Array
    clipped: Array
    ranks: Array
    incentive: Array
    trust: Array
    validator_trust: Array
    bonds: Array
    dividends: Array


def consensus(stakes: ArrayLike, weights: ArrayLike, kappa: float = 0.5) -> Array:
    """For each column the largest weight that judges with at least `kappa` of the stake give or exceed; float64, `(servers,)`."""
    stake, said = _checked(stakes, weights, kappa)
    order = np.argsort(-said, axis=0, kind="stable")
    backing = np.cumsum(stake[order], axis=0)
    # stakes like 0.3 + 0.2 must not miss a kappa of 0.5 by a rounding error
    first = np.argmax(backing >= kappa - 1e-12, axis=0)
    columns = np.arange(said.shape[1])
    agreed: Array = said[order[first, columns], columns]
    return agreed


def epoch(
    stakes: ArrayLike, weights: ArrayLike, bonds: ArrayLike | None = None, *, kappa: float = 0.5, beta: float = 1.0, alpha: float = 0.1
) -> Epoch:
    """One epoch. `stakes` `(judges,)` and `weights` `(judges, servers)` of any scale, not negative; `bonds` those of the epoch before.

    Raises `ValueError` for numbers that are negative or not finite, for shapes that differ and for settings outside [0, 1].
    """
    if not (0 <= beta <= 1 and 0 <= alpha <= 1):
        raise ValueError(f"beta={beta}, alpha={alpha}; both lie in [0, 1]")
    stake, said = _checked(stakes, weights, kappa)
    said = _shares(said, axis=1)
    agreed = consensus(stake, said, kappa)
    clipped = np.minimum(said, agreed)
    ranks = stake @ clipped
    incentive = _shares(ranks, axis=0)
    told = stake @ said
    bought = _shares(stake[:, None] * ((1 - beta) * said + beta * clipped), axis=0)
    held = bought
    if bonds is not None:
        before = np.asarray(bonds, np.float64)
        if before.shape != said.shape or not bool(np.all((before >= 0) & np.isfinite(before))):
            raise ValueError(f"bonds of shape {before.shape} for weights of {said.shape}; give those of the epoch before, not negative")
        held = _shares(alpha * bought + (1 - alpha) * before, axis=0)
    return Epoch(
        consensus=agreed,
        clipped=clipped,
        ranks=ranks,
        incentive=incentive,
        trust=np.divide(ranks, told, out=np.zeros_like(ranks), where=told > 0),
        validator_trust=clipped.sum(axis=1),
        bonds=held,
        dividends=held @ incentive,
    )


def _checked(stakes: ArrayLike, weights: ArrayLike, kappa: float) -> tuple[Array, Array]:
    stake, said = np.asarray(stakes, np.float64), np.asarray(weights, np.float64)
    if stake.ndim != 1 or said.ndim != 2 or len(stake) != len(said) or said.shape[1] == 0:
        raise ValueError(f"stakes of shape {stake.shape} and weights of {said.shape}; give (judges,) and (judges, servers)")
    if not (bool(np.all((stake >= 0) & np.isfinite(stake))) and bool(np.all((said >= 0) & np.isfinite(said)))):
        raise ValueError("a stake or weight that is negative or not finite")
    if stake.sum() <= 0:
        raise ValueError("nobody has a stake; give at least one judge one above 0")
    if not 0 < kappa <= 1:
        raise ValueError(f"kappa is {kappa}; a share of the stake in (0, 1]")
    return stake / stake.sum(), said


def _shares(values: Array, axis: int) -> Array:
    total = values.sum(axis=axis, keepdims=True)
    shares: Array = np.divide(values, total, out=np.zeros_like(values), where=total > 0)
    return shares
