"""One member: steps of a fixed length, and `thinwire.DiLoCo` around an optimizer that costs next to nothing."""

import os
import time
from dataclasses import dataclass
from typing import Any

import torch

import thinwire
from benchmarks.collectives.worker import Threads, torchrun_environment
from benchmarks.lab.simulated import SimulatedGroup
from benchmarks.suite.member import Part, serve
from benchmarks.utilisation.points import MEMBERS, Point
from examples.multiregion.model import GPT, sha256
from thinwire.comms.group import Group

PATIENCE_S = 600.0  # slowness is what is measured, no fault
PHASES = ("encode", "exchange", "decode", "apply")


@dataclass
class Spans:
    """Seconds of this member's windows: where they went, and the whole."""

    compute: float = 0.0
    step: float = 0.0  # in `step()`: the wrapped optimizer, rounds, and what is done around them
    wall: float = 0.0


class Paced:
    """This member's part of one point: `run(rounds)` takes so many windows."""

    def __init__(self, point: Point, pace_s: float, group: Group) -> None:
        torch.manual_seed(0)
        self._gpt, self._pace_s, self._every, self._group = GPT(), pace_s, point.sync_every, group
        self._warm_rounds = point.warm_rounds
        for p in self._gpt.parameters():
            p.grad = torch.randn_like(p)
        inner = torch.optim.SGD(self._gpt.parameters(), lr=1e-3)
        self._infos: list[thinwire.RoundInfo] = []
        self._opt = thinwire.DiLoCo(
            inner, sync_every=self._every, overlap=point.overlap, codec=point.codec, group=group, on_round=self._infos.append
        )
        self._inner_s = 0.0
        inner.register_step_pre_hook(lambda *_: self._begin_inner())
        inner.register_step_post_hook(lambda *_: self._end_inner())

    def _begin_inner(self) -> None:
        self._inner_began = time.perf_counter()

    def _end_inner(self) -> None:
        self._inner_s += time.perf_counter() - self._inner_began

    def prepare(self) -> float:
        """Windows that do not count: the first brings members together, the last says how long one takes."""
        for _ in range(self._warm_rounds):
            began = time.perf_counter()
            self._window(Spans())
        return time.perf_counter() - began

    def run(self, rounds: int) -> dict[str, Any]:
        spans, before, self._wire_before = Spans(), self._opt.stats(), self._wire_nbytes()
        self._inner_s = 0.0
        began = time.perf_counter()
        for _ in range(rounds):
            self._window(spans)
        spans.wall = time.perf_counter() - began
        after = self._opt.stats()
        phases = {phase: after.seconds[phase] - before.seconds[phase] for phase in PHASES}
        return {
            "wall": spans.wall,
            "compute": spans.compute,
            "inner": self._inner_s,
            **phases,
            "around": spans.step - self._inner_s - sum(phases.values()),
            "rounds": after.rounds - before.rounds,
            "payload": after.payload_sent - before.payload_sent,
            "ledger": after.wire_sent - before.wire_sent,
            "sync": [sum(info.seconds[phase] for phase in PHASES) for info in self._infos[-rounds:]],
        }

    def _window(self, spans: Spans) -> None:
        for _ in range(self._every):
            began = time.perf_counter()
            time.sleep(self._pace_s)
            ended = time.perf_counter()
            spans.compute += ended - began
            self._opt.step()
            spans.step += time.perf_counter() - ended

    def _wire_nbytes(self) -> tuple[int, int]:
        """Sent and received by a link that is only simulated."""
        return getattr(self._group, "wire_sent_nbytes", 0), getattr(self._group, "wire_received_nbytes", 0)

    def check(self) -> dict[str, Any]:
        # Not at the end of `run`: an overlapped exchange has only begun then.
        wire = [now - then for now, then in zip(self._wire_nbytes(), self._wire_before, strict=True)]
        self._opt.close()  # finishes what is under way
        self._group.leave()
        return {"sha256": sha256(self._gpt), "wire": wire}


def part_of(asked: dict[str, Any]) -> Part:
    """This process's part in the point that the parent asks for: one member, or all of them where links are simulated."""
    point, pace_s = Point(**asked["point"]), asked["pace_s"]
    if asked["simulated"]:
        return Threads([Paced(point, pace_s, group) for group in SimulatedGroup.world(point.topology, timeout_s=PATIENCE_S)])
    torchrun_environment(int(os.environ["RANK"]), MEMBERS, asked["address"], asked["port"], asked["attempt"])
    return Paced(point, pace_s, thinwire.TorchGroup.from_env(timeout_s=PATIENCE_S))


if __name__ == "__main__":
    serve(part_of)
