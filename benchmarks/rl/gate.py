"""What the visibility gate saves: bytes of two learners that average, with and without it, at several learning rates.

    python -m benchmarks.rl.gate [--results FILE]           about a minute of processor time; one JSON line a row

The tiny policy, from the warm start of `thinwire bench rl`, learns to sort in two places (GRPO, float32 parameters, averaged every so many
updates). `wire` are the payloads as a swarm sends them, coded by `thinwire.comms.lossless` in chunks, without headers and control messages,
which are the same for all; `ddp` is what a ring all-reduce of float32 gradients sends in as many updates.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor
from torch.optim import AdamW

import thinwire
from benchmarks.rl.start import warm_start
from examples.rl.averaging import averaging
from examples.rl.evaluate import evaluate
from examples.rl.generate import generate
from examples.rl.learner import Learner
from examples.rl.tasks import Sort
from examples.rl.tiny import Tiny, weights_sha256
from thinwire.comms import lossless
from thinwire.comms.group import Note, Pending
from thinwire.comms.swarm.blobs import CHUNK_NBYTES
from thinwire.comms.wire import RoundKey, bytes_of

MEMBERS = 2
COMPLETIONS, MAX_NEW = 16, 8
BAR = 10.0  # times fewer bytes than int8 without a gate, at 3e-6 and below


@dataclass(frozen=True)
class Row:
    """One run of both learners."""

    lr: float
    sync_every: int
    codec: str
    visible: bool
    updates: int

    @property
    def name(self) -> str:
        return f"lr {self.lr:g}, every {self.sync_every}, {self.codec}{' visible' if self.visible else ''}"


@dataclass(frozen=True)
class Found:
    """`payload`, `wire`, `ddp`: bytes that one learner sends, in all rounds; `last`: of `wire`, those of the last round."""

    row: Row
    payload: int
    wire: int
    last: int
    ddp: int
    same: bool  # replicas hold the same bits
    accuracy: float | None


class Weighed(thinwire.LocalGroup):
    """Members in threads, and what each payload would take in a swarm."""

    def start(self, key: RoundKey, payload: Tensor, *, plan: int = 0, note: Note = Note(), reduce: bool = False) -> Pending:
        sizes: list[tuple[int, int]] = self.__dict__.setdefault("sizes", [])
        sizes.append((payload.numel(), on_wire(bytes(bytes_of(payload)))))
        return super().start(key, payload, plan=plan, note=note, reduce=reduce)


def on_wire(payload: bytes) -> int:
    """Bytes of a payload as a swarm sends it."""
    if not lossless.promises(payload):
        return len(payload)
    chunks = (payload[at : at + CHUNK_NBYTES] for at in range(0, len(payload), CHUNK_NBYTES))
    return sum(len(lossless.shorter(chunk) or chunk) for chunk in chunks)


def measured(row: Row, start: dict[str, Tensor], *, groups: int = 4) -> Found:
    """Run a row; a deterministic function of the arguments."""
    world = Weighed.world(MEMBERS, timeout_s=3600.0)

    def place(group: thinwire.LocalGroup) -> tuple[list[tuple[int, int]], str, float | None]:
        torch.set_num_threads(1)
        policy = Tiny()
        policy.module.load_state_dict(start)
        inner = AdamW(policy.module.parameters(), lr=row.lr, betas=(0.9, 0.95), weight_decay=0.0)
        shown = torch.bfloat16 if row.visible else None
        optimizer = averaging(inner, group=group, sync_every=row.sync_every, codec=row.codec, visible=shown)
        learner, generator = Learner(policy, optimizer), torch.Generator().manual_seed(group.rank)
        try:
            for update in range(row.updates):
                numbers = range(update * groups, (update + 1) * groups)
                worker = bytes([group.rank] * 32)
                rollouts: dict[str, Any] = {"completions": COMPLETIONS, "max_new": MAX_NEW, "generator": generator}
                learner.update(generate(policy, Sort(), run="gate", worker=worker, version=update, numbers=numbers, **rollouts))
            accuracy = evaluate(policy, Sort(), max_new=MAX_NEW) if group.rank == 0 and row.lr > 1e-5 else None
            return list(group.__dict__["sizes"]), weights_sha256(policy.module), accuracy
        finally:
            group.leave()

    with ThreadPoolExecutor(MEMBERS) as pool:
        seen = list(pool.map(place, world))
    sizes = seen[0][0]
    dense = 4 * sum(value.numel() for value in start.values()) * row.updates
    payload, wire = (sum(column) for column in zip(*sizes, strict=True))
    return Found(row, payload, wire, sizes[-1][1], dense, len({sha for _, sha, _ in seen}) == 1, seen[0][2])


def rows(quick: bool) -> Iterator[Row]:
    """Plain int8 first, then what is compared with it."""
    for lr, everies in ((1e-6, (5, 10, 30)), (3e-6, (5, 10, 30)), (3e-4, (10,))):
        for every in (10,) if quick else everies:
            updates = 2 * every if quick else max(30, 2 * every)
            for codec, visible in (("int8", False), ("int8", True), ("int4", False), ("int4", True)):
                yield Row(lr, every, codec, visible, updates)


def line(found: Found, plain: Found) -> str:
    """One row of the table."""
    ratios = f"{plain.payload / found.wire:6.1f}x {plain.last / found.last:6.1f}x {found.ddp / found.wire:8.0f}x"
    told = "" if found.accuracy is None else f"  accuracy {found.accuracy:.3f}"
    return f"{found.row.name:36} {found.payload / 1e3:9.1f} {found.wire / 1e3:9.1f} kB  {ratios}{told}{'' if found.same else '  PARTED'}"


def main(quick: bool = False, results: Path | None = None) -> None:
    """Bytes with and without the gate.

    Args:
        quick: Two rounds of ten updates only.
        results: Append one JSON line a row.
    """
    torch.set_num_threads(1)
    start = warm_start(Sort(), seed=0)
    print(f"{'row':36} {'payload':>9} {'wire':>12}   {'int8 / wire':>7} {'last':>6} {'ddp / wire':>9}")
    plain: Found | None = None
    for row in rows(quick):
        found = measured(row, start)
        plain = found if (row.codec, row.visible) == ("int8", False) or plain is None else plain
        print(line(found, plain), flush=True)
        if results is not None:
            with results.open("a") as file:
                file.write(json.dumps(asdict(found) | {"int8_over_wire": plain.payload / found.wire}) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
