"""The picture of a demo: loss against time for each peer, with the kill and the return; bytes sent beside what dense all-reduce sends."""

from pathlib import Path
from typing import Any

from benchmarks.demo.story import MB, Story, mb
from benchmarks.report.drawing import COLOURS, INK, drawn, figure, legend

FORMATS = (".png", ".svg", ".pdf")
DENSE = "#9aa0aa"
LOST, BACK = "#c62828", "#2e7d32"


def picture(path: Path, story: Story) -> None:
    """Write it; the form follows the name."""
    with drawn():
        made = figure(10.0, 4.4)
        left, right = made.subplots(1, 2, width_ratios=(2.2, 1))
        _loss(left, story)
        _nbytes(right, story)
        legend(made, (left,), columns=6)
        path.parent.mkdir(parents=True, exist_ok=True)
        made.savefig(path, dpi=150, facecolor="white")


def _loss(axes: Any, story: Story) -> None:
    for i, one in enumerate(story.peers):
        gone = story.kill.at if story.kill and story.kill.peer == i else None
        before = [(story.since(at), loss) for at, loss in one.curve if gone is None or at <= gone]
        after = [(story.since(at), loss) for at, loss in one.curve if gone is not None and at > gone]
        for points, name in ((before, f"peer {i + 1}"), (after, None)):
            if points:
                axes.plot(*zip(*points, strict=True), color=COLOURS[i % len(COLOURS)], linewidth=1.5, label=name)
    kill = story.kill
    for at, what, colour in ((kill.at, "killed", LOST), (kill.back, "back", BACK)) if kill else ():
        if at is not None:
            axes.axvline(story.since(at), color=colour, linewidth=1.2, linestyle="--")
            axes.annotate(
                f"{kill.peer + 1 if kill else ''} {what}", (story.since(at), 1.0), xycoords=("data", "axes fraction"), xytext=(4, -4),
                textcoords="offset points", va="top", color=colour, fontweight="bold",
            )  # fmt: skip
    axes.set(xlabel="seconds", ylabel="training loss (nats per byte)", title=f"{story.size} peers over {story.link}")


def _nbytes(axes: Any, story: Story) -> None:
    names = [f"peer {i + 1}" for i in range(story.size)] + ["dense\nall-reduce"]
    values = [max(one.sent, 1) / MB for one in story.peers] + [max(story.dense, 1) / MB]
    bars = axes.bar(names, values, color=[COLOURS[i % len(COLOURS)] for i in range(story.size)] + [DENSE])
    axes.bar_label(bars, [mb(value * MB) for value in values], padding=2, color=INK)
    axes.set(yscale="log", ylabel="MB sent", title=f"sent in {story.rounds} rounds")
    axes.margins(y=0.15)
    axes.tick_params(axis="x", labelrotation=30)
    axes.grid(visible=False, axis="x")
