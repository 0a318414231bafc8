"""A demo as it runs: a live table on a terminal, else a line now and then."""

from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from benchmarks.demo.story import DEAD, DONE, HEALING, MB, STARTING, TRAINING, Story

COLOURS = {STARTING: "dim", TRAINING: "green", DEAD: "bold red", HEALING: "yellow", DONE: "cyan"}
LINE_S = 5.0  # between two lines
SAID = 4  # lines under the table


def table(story: Story, now: float) -> Table:
    """One row a peer; `lag` is how many rounds it is behind the first."""
    made = Table(title=title(story, now), title_justify="left", caption_justify="left")
    for heading in ("peer", "state", "round", "loss", "MB sent", "lag"):
        made.add_column(heading, justify="left" if heading == "state" else "right", min_width=8)
    for i, one in enumerate(story.peers):
        loss = "-" if one.loss is None else f"{one.loss:.3f}"
        known = one.round >= 0
        made.add_row(
            str(i + 1),
            Text(one.state, style=COLOURS[one.state]),
            str(one.round) if known else "-",
            loss,
            f"{one.sent / MB:.2f}",
            str(story.lag(i)) if known else "-",
        )
    return made


def title(story: Story, now: float) -> str:
    """The run in a line."""
    if story.began is None:
        return f"{story.size} peers start"
    return (
        f"{now - story.began:.0f} s, round {max(story.rounds - 1, 0)}, {story.sent / MB:.2f} MB sent each, dense {story.dense / MB:.0f} MB"
    )


def line(story: Story, now: float) -> str:
    """All of the table in a line.

    >>> line(Story(2, "links", 10), 0.0)
    '2 peers start: 1 starting, 2 starting'
    """
    each = ", ".join(f"{i + 1} {one.state}" + ("" if one.loss is None else f" {one.loss:.2f}") for i, one in enumerate(story.peers))
    return f"{title(story, now)}: {each}"


@dataclass
class View:
    """A context that shows a story; `plain` is for lines instead of a table."""

    console: Console
    story: Story
    plain: bool
    clock: Callable[[], float]
    _said: list[str] = field(default_factory=list)
    _live: Live | None = None
    _last: float | None = None
    _line: str = ""

    def __enter__(self) -> "View":
        if not self.plain:
            self._live = Live(console=self.console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line of its own, or one under the table."""
        if self._live:
            self._said.append(text)
            self.show()
        else:
            self._print(text)

    def show(self) -> None:
        """As it is now; lines only every few seconds."""
        now = self.clock()
        if self._live:
            made = table(self.story, now)
            made.caption = Text("\n".join(self._said[-SAID:]))
            self._live.update(made, refresh=True)
        elif (self._last is None or now - self._last >= LINE_S) and (text := line(self.story, now)) != self._line:
            self._last, self._line = now, text
            self._print(text)

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
