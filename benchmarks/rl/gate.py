"""What the visibility gate saves: bytes of two learners that average, with and without it, at several learning rates.

    python -m benchmarks.rl.gate [--results FILE]           half a minute of processor time; one JSON line a row

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
from thinwire.comms.group import Note, Pending
from thinwire.comms.swarm.blobs import Blob
from thinwire.comms.swarm.coding import travelled
from thinwire.comms.wire import RoundKey, bytes_of
from thinwire.optim.fragment import Fragment

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
    """`payload`, `wire`, `int8`, `ddp`: bytes that one learner sends in all rounds; `rounds`: those of `wire`, round by round."""

    row: Row
    payload: int
    wire: int
    rounds: list[int]
    int8: int  # without a gate
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
    return travelled(Blob.of(payload))[1]


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
    int8 = plain_nbytes(start) * len(sizes)
    same = len({sha for _, sha, _ in seen}) == 1
    return Found(row, payload, wire, [size for _, size in sizes], int8, dense, same, seen[0][2])


def rows(quick: bool) -> Iterator[Row]:
    """The most telling first; bytes without a gate follow from the plan, so such rows are there for what is learnt."""
    for lr in (1e-6, 3e-6):
        for codec in ("int8", "int4"):
            yield Row(lr, 10, codec, True, 20)
    if quick:
        return
    for lr in (1e-6, 3e-6):
        for every in (5, 30):
            yield Row(lr, every, "int8", True, max(20, every))
    for visible in (False, True):
        yield Row(3e-4, 10, "int8", visible, 20)


def plain_nbytes(start: dict[str, Tensor]) -> int:
    """Bytes of one payload of plain int8."""
    return Fragment([value.shape for value in start.values()], "int8").plan.nbytes


def line(found: Found) -> str:
    """One row of the table."""
    told = "" if found.accuracy is None else f"  accuracy {found.accuracy:.3f}"
    ratios = f"{found.int8 / found.wire:6.1f}x {found.ddp / found.wire:8.0f}x"
    return f"{found.row.name:36} {found.payload / 1e3:9.1f} {found.wire / 1e3:9.1f} kB  {ratios}{told}{'' if found.same else '  PARTED'}"


def main(quick: bool = False, results: Path | None = None) -> None:
    """Bytes with and without the gate.

    Args:
        quick: Every ten updates at the two small learning rates only.
        results: Append one JSON line a row.
    """
    torch.set_num_threads(1)
    start = warm_start(Sort(), seed=0)
    print(f"{'row':36} {'payload':>9} {'wire':>12}  {'int8/wire':>8} {'ddp/wire':>8}", flush=True)
    missed = []
    for row in rows(quick):
        found = measured(row, start)
        print(line(found), flush=True)
        if row.visible and row.lr <= 3e-6 and found.int8 < BAR * found.wire:
            missed.append(row.name)
        if results is not None:
            with results.open("a") as file:
                file.write(json.dumps(asdict(found)) + "\n")
    held = f"missed by {'; '.join(missed)}" if missed else "yes"
    print(f"{BAR:.0f} times fewer bytes than int8 without a gate, at 3e-6 and below: {held}")


if __name__ == "__main__":
    tyro.cli(main)
