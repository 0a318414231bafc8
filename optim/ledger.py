"""What every round sent, cost and left behind: the ledger."""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path

log = logging.getLogger("thinwire")

PHASES = ("compute", "encode", "exchange", "decode", "apply")


@dataclass(frozen=True)
class RoundInfo:
    """The record of one round.

    `payload_*` are codec bytes, fixed by the plan; `wire_*` are what was handed to the transport: with the frames' headers, and in a swarm
    after lossless coding, which can make them far fewer (`DiLoCo(visible=)`). `dense_nbytes` is what this member
    would have sent for the same round in float32 by a ring all-reduce, `ratio` that over `wire_sent`. `seconds` splits the time since
    the last round; `hidden_s` is how much of its "compute" the exchange ran beside, so that nobody waited. `error` says why nothing was
    averaged, None on success. `rejected` are members whose payload did not count, `missing` those that did not take part; each with the
    reason. `wire_*` also hold what members told each other before the round (settings, first weights) and what failed attempts moved; a
    round that averaged nothing has no `dense_nbytes`.
    """

    member: int
    round: int
    epoch: int
    members: tuple[int, ...]
    missing: dict[int, str]
    error: str | None
    payload_sent: int
    payload_received: int
    wire_sent: int
    wire_received: int
    dense_nbytes: int
    ratio: float
    seconds: dict[str, float]
    residual_norm: float
    delta_norm: float
    rejected: dict[int, str]
    steps: int
    state_hash: int | None
    hidden_s: float = 0.0

    def line(self) -> str:
        """One line for a person."""
        if self.error:
            return f"round {self.round} failed: {self.error}; {self.steps} steps of work kept"
        if not self.members:
            return f"round {self.round} | nothing to average: everybody is done"
        rejected = f" | rejected {self.rejected}" if self.rejected else ""
        hidden = f", {self.hidden_s:.3f} s hidden" if self.hidden_s >= 0.001 else ""
        return (
            f"round {self.round} | {len(self.members)} members | sent {self.wire_sent / 1e6:.3f} MB ({self.ratio:.0f}x less than dense)"
            f" | sync {sum(self.seconds.values()) - self.seconds.get('compute', 0.0):.3f} s{hidden}{rejected}"
        )


@dataclass(frozen=True)
class Stats:
    """Totals over this process: `rounds` that averaged something, `nothing_averaged` for those that should have and did not."""

    rounds: int = 0
    nothing_averaged: int = 0
    payload_sent: int = 0
    payload_received: int = 0
    wire_sent: int = 0
    wire_received: int = 0
    dense_nbytes: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    rejected: int = 0
    last: RoundInfo | None = None

    @property
    def ratio(self) -> float:
        """Dense bytes over bytes sent."""
        return self.dense_nbytes / self.wire_sent if self.wire_sent else 0.0


class Ledger:
    """Adds up rounds and tells them: one INFO line, one JSONL line when `path` is given, one call of `on_round`."""

    def __init__(self, on_round: Callable[[RoundInfo], None] | None = None, path: str | Path | None = None) -> None:
        self._on_round = on_round
        self._path = Path(path) if path is not None else None
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        self._stats = Stats()
        self._carried = (0, 0)

    def carry(self, sent: int, received: int) -> None:
        """Bytes moved since the last record, sent and received: the next one holds them."""
        self._carried = self._carried[0] + sent, self._carried[1] + received

    def take_carried(self) -> tuple[int, int]:
        """What was carried, and start again at nothing."""
        taken, self._carried = self._carried, (0, 0)
        return taken

    def record(self, info: RoundInfo) -> None:
        """Count a round and tell it. What `on_round` raises reaches the caller of `step()`: it is the user's own code."""
        old = self._stats
        self._stats = Stats(
            rounds=old.rounds + bool(info.members),
            nothing_averaged=old.nothing_averaged + (info.error is not None),
            payload_sent=old.payload_sent + info.payload_sent,
            payload_received=old.payload_received + info.payload_received,
            wire_sent=old.wire_sent + info.wire_sent,
            wire_received=old.wire_received + info.wire_received,
            dense_nbytes=old.dense_nbytes + info.dense_nbytes,
            seconds={phase: old.seconds[phase] + info.seconds.get(phase, 0.0) for phase in PHASES},
            rejected=old.rejected + len(info.rejected),
            last=info,
        )
        log.log(logging.ERROR if info.error else logging.INFO, "%s", info.line())
        if self._path is not None:
            self._append(info)
        if self._on_round is not None:
            self._on_round(info)

    def stats(self) -> Stats:
        return self._stats

    def _append(self, info: RoundInfo) -> None:
        assert self._path is not None
        try:
            with self._path.open("a") as file:
                file.write(json.dumps(_without_nan(asdict(info)), allow_nan=False) + "\n")
        except OSError as error:  # a full disk must not end the training
            log.error("ledger: cannot write %s: %s", self._path, error)


def _without_nan(values: dict[str, object]) -> dict[str, object]:
    """JSON knows no NaN and no Inf: they become null."""
    return {name: None if isinstance(value, float) and not isfinite(value) else value for name, value in values.items()}
