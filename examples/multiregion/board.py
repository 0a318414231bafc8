"""The notice board: regions post their progress once a second; region 0 shows all of it, live on a terminal, else as plain lines."""

import json
import time
from dataclasses import asdict
from types import TracebackType
from typing import Any

import torch.distributed as dist
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from examples.multiregion import region

MB = 1e6
PERIOD_S = 1.0
LINES = 10  # plain lines a run


class Board:
    """A context in which regions `post`; only region 0 draws."""

    def __init__(self, store: dist.Store, rank: int, world: int, *, title: str, steps: int, plain: bool) -> None:
        self._store, self._rank, self._world, self._title, self._steps = store, rank, world, title, steps
        self._console = Console()
        self._live: Live | None = None
        if rank == 0 and not plain and self._console.is_terminal:
            done = TextColumn("{task.completed}/{task.total}")
            self._bar = Progress(TextColumn("[bold]{task.description}"), BarColumn(40), done, TimeElapsedColumn())
            self._task = self._bar.add_task(title, total=steps)
            self._live = Live(console=self._console, auto_refresh=False)
        self._posted = 0.0
        self._line = 0

    def __enter__(self) -> "Board":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live:
            self._live.stop()

    def post(self, mine: region.Progress) -> None:
        """Tell the others, at most once a second and at the end."""
        ended = mine.step == self._steps
        if time.monotonic() - self._posted < PERIOD_S and not ended:
            return
        self._posted = time.monotonic()
        self._store.set(f"progress/{mine.method}/{self._rank}", json.dumps(asdict(mine)))
        if self._rank == 0:
            self._draw(mine, ended)

    def _draw(self, mine: region.Progress, ended: bool) -> None:
        if self._live:
            self._bar.update(self._task, completed=mine.step)
            self._live.update(Group(self._bar, table(self._seen(mine))), refresh=True)
        elif ended or mine.step * LINES // self._steps > self._line:
            self._line = mine.step * LINES // self._steps
            self._console.print(
                f"{self._title}: step {mine.step}/{self._steps}, loss {mine.loss:.3f}, sent {mine.sent / MB:.2f} MB",
                highlight=False,
            )

    def _seen(self, mine: region.Progress) -> dict[int, region.Progress]:
        seen = {0: mine}
        for rank in range(1, self._world):
            key = f"progress/{mine.method}/{rank}"
            if self._store.check([key]):  # reading what nobody has posted would wait
                seen[rank] = region.Progress(**json.loads(self._store.get(key)))
        return seen


def table(seen: dict[int, region.Progress]) -> Table:
    """One line a region."""
    made = Table()
    for heading in ("region", "step", "loss", "MB sent", "less than dense", "s/round"):
        made.add_column(heading, justify="right", min_width=8)
    for rank, progress in seen.items():
        made.add_row(
            str(rank),
            str(progress.step),
            f"{progress.loss:.3f}",
            f"{progress.sent / MB:.2f}",
            f"{progress.ratio:.0f}x",
            f"{progress.sync_s:.3f}",
        )
    return made


def gather(store: dist.Store, name: str, rank: int, world: int, mine: Any) -> list[Any]:
    """What every region has to say, in their order; waits for all of them."""
    store.set(f"{name}/{rank}", json.dumps(mine))
    return [json.loads(store.get(f"{name}/{other}")) for other in range(world)]
