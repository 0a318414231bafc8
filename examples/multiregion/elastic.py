"""The same training in a swarm: regions come and go, each starts when it likes, and a newcomer takes the others' state.

There is no launcher and no rank: every region is one process with a key of its own, and draws its own text from it.
"""

import os
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from examples.multiregion.data import Batches, Text, validation_batches
from examples.multiregion.model import GPT
from examples.multiregion.region import Progress, Region, Thin

if TYPE_CHECKING:
    from thinwire.comms.swarm.group import SwarmGroup

MB = 1e6
LINE_S = 5.0  # between two lines


def train(invite: str, method: str, chosen: dict[str, Any], text: Text, *, steps: int, batch: int, seed: int, out: Path) -> None:
    """Found a run, or join the one of `invite`; train so many steps, leave, and say what this region holds then."""
    console = Console(highlight=False)
    group = enter(invite, console)
    torch.manual_seed(seed)
    gpt = GPT()
    chosen = chosen | {"group": group, "log": out / f"ledger-{group.rank:08x}.jsonl"}
    batches = Batches(text.train, size=batch, seed=1000 * seed + group.rank)
    with closing(Ending(gpt, Thin(gpt, method, chosen), batches, text, method, console)) as ending, suppress(KeyboardInterrupt):
        lines(ending.region, group, steps, console)


def enter(invite: str, console: Console) -> "SwarmGroup":
    """The group of the invite, of `thinwire join`, or a new one, whose invite is printed."""
    from thinwire.comms.swarm.group import SwarmGroup

    if invite:
        return SwarmGroup.from_invite(invite)
    group = SwarmGroup.from_env()
    if "THINWIRE_INVITE" not in os.environ:  # then it is the first one
        console.print(f"another region joins with: train.py --swarm {group.invite()}", markup=False, soft_wrap=True)
    return group


def lines(region: Region, group: "SwarmGroup", steps: int, console: Console) -> None:
    """Train, and say every few seconds how it goes."""
    told = 0.0
    for progress in region.train(steps):
        if time.monotonic() - told > LINE_S or progress.step == steps:
            told = time.monotonic()
            group.tell(loss=progress.loss)
            last = region.link.opt.stats().last if isinstance(region.link, Thin) else None
            where = f"round {last.round}, {len(last.members)} members" if last else "no round yet"
            console.print(f"step {progress.step}/{steps}, loss {progress.loss:.3f}, {where}, sent {progress.sent / MB:.2f} MB")


class Ending:
    """A region that says at the end, also after Ctrl-C, what it holds."""

    def __init__(self, gpt: GPT, link: Thin, batches: Batches, text: Text, method: str, console: Console) -> None:
        self.region = Region(gpt, link, batches, validation_batches(text), Progress(method), 2)
        self._console = console

    def close(self) -> None:
        """Leave the others in order: what was learnt since the last round goes into one more."""
        ended = self.region.end()
        self._console.print(
            f"left after {self.region.progress.step} steps: sent {ended.sent / MB:.2f} MB, validation loss {ended.loss:.3f}, "
            f"replica sha256 {ended.sha256[:16]}",
            soft_wrap=True,
        )
