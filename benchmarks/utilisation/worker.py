"""One member: steps of a fixed length, and `thinwire.DiLoCo` around an optimizer that costs next to nothing."""

import os
import time
from dataclasses import dataclass
from typing import Any

import torch

import thinwire
from benchmarks.collectives.worker import torchrun_environment
from benchmarks.suite.member import serve
from benchmarks.utilisation.points import MEMBERS
from examples.multiregion.model import GPT, sha256

PATIENCE_S = 600.0  # slowness is what is measured, no fault
PHASES = ("encode", "exchange", "decode", "apply")


@dataclass
class Spans:
    """Seconds of this member's windows: where they went, and the whole."""

    compute: float = 0.0
    inner: float = 0.0  # of the wrapped optimizer
    wall: float = 0.0


class Paced:
    """This member's part of one point: `run(rounds)` takes so many windows."""

    def __init__(self, point: dict[str, Any], pace_s: float) -> None:
        torch.manual_seed(0)
        self._gpt, self._pace_s, self._every = GPT(), pace_s, point["sync_every"]
        for p in self._gpt.parameters():
            p.grad = torch.randn_like(p)
        inner = torch.optim.SGD(self._gpt.parameters(), lr=1e-3)
        self._infos: list[thinwire.RoundInfo] = []
        self._group = thinwire.TorchGroup.from_env(timeout_s=PATIENCE_S)
        self._opt = thinwire.DiLoCo(
            inner, sync_every=self._every, overlap=point["overlap"], codec=point["codec"], group=self._group, on_round=self._infos.append
        )
        self._inner_s = 0.0
        inner.register_step_pre_hook(lambda *_: self._begin_inner())
        inner.register_step_post_hook(lambda *_: self._end_inner())

    def _begin_inner(self) -> None:
        self._inner_began = time.perf_counter()

    def _end_inner(self) -> None:
        self._inner_s += time.perf_counter() - self._inner_began

    def prepare(self) -> float:
        """Two windows: the first brings members together, the second says how long one takes."""
        self._window(Spans())
        began = time.perf_counter()
        self._window(Spans())
        return time.perf_counter() - began

    def run(self, rounds: int) -> dict[str, Any]:
        spans, before = Spans(), self._opt.stats()
        self._inner_s = 0.0
        began = time.perf_counter()
        for _ in range(rounds):
            self._window(spans)
        spans.wall = time.perf_counter() - began
        after = self._opt.stats()
        return {
            "wall": spans.wall,
            "compute": spans.compute,
            "inner": self._inner_s,
            **{phase: after.seconds[phase] - before.seconds[phase] for phase in PHASES},
            "rounds": after.rounds - before.rounds,
            "payload": after.payload_sent - before.payload_sent,
            "ledger": after.wire_sent - before.wire_sent,
            "sync": [sum(info.seconds[phase] for phase in PHASES) for info in self._infos[-rounds:]],
        }

    def _window(self, spans: Spans) -> None:
        for _ in range(self._every):
            began = time.perf_counter()
            time.sleep(self._pace_s)
            spans.compute += time.perf_counter() - began
            self._opt.step()

    def check(self) -> str:
        self._opt.close()  # finishes what is under way
        self._group.leave()
        return sha256(self._gpt)


def part_of(asked: dict[str, Any]) -> Paced:
    """This process's part in the point that the parent asks for."""
    torchrun_environment(int(os.environ["RANK"]), MEMBERS, asked["address"], asked["port"], asked["attempt"])
    return Paced(asked["point"], asked["pace_s"])


if __name__ == "__main__":
    serve(part_of)
