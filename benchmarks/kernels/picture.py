"""The table as a picture: for each operation the floor of memory, ours, the best of torch, and DeMo.

`python -m benchmarks.kernels.picture` draws docs/kernels.png from benchmarks/results/kernels.json.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.suite.record import RESULTS

TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
HEIGHT = 0.2  # of a bar; an operation has the height 1
LEFT_OUT = ("two threads", "denormal", "checked", "top-k 64", "top-k 128", "Elias-Fano", "Rice")
SERIES = {"floor": "#c9ccd1", "ours": "#1f77b4", "torch": "#ff7f0e", "DeMo": "#d62728"}
NAMES = {"floor": "floor: speed of memory", "ours": "thinwire", "torch": "torch.compile, or as named", "DeMo": "DeMo"}


@dataclass(frozen=True)
class Options:
    """Draw the table."""

    results: Path = RESULTS / "kernels.json"
    picture: Path = RESULTS.parents[1] / "docs" / "kernels.png"


def shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows to draw, fused ones first."""
    kept = [row for row in rows if "ours" in row and not any(words in row["operation"] for words in LEFT_OUT)]
    return sorted(kept, key=lambda row: not row["operation"].startswith("fused"))


def bars(row: dict[str, Any]) -> dict[str, tuple[float, str]]:
    """What a row shows: ns an element and a word beside it, by series."""
    made = {"floor": (row["floor"], "")} if "floor" in row else {}
    made["ours"] = (row["ours"]["median"], "")
    best = next((name for name in row["peers"] if name != "DeMo"), None)
    if best:
        made["torch"] = (row["peers"][best]["median"], "" if best == "torch.compile" else best)
    if "DeMo" in row["peers"]:
        made["DeMo"] = (row["peers"]["DeMo"]["median"], "")
    return made


def draw(path: Path, record: dict[str, Any]) -> None:
    """Write the picture; nothing to draw, nothing written."""
    rows = shown(record["rows"])
    if not rows:
        return
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.45 * len(rows)), layout="constrained")
    labelled: set[str] = set()
    for place, row in enumerate(rows):
        found = bars(row)
        for i, (series, (value, word)) in enumerate(found.items()):
            at = place + (i - (len(found) - 1) / 2) * HEIGHT
            axes.barh(at, value, HEIGHT * 0.9, color=SERIES[series], label=None if series in labelled else NAMES[series])
            axes.text(value * 1.03, at, f"{value:.2f} {word}" if value < 10 else f"{value:.1f} {word}", va="center", fontsize=6)
            labelled.add(series)
    axes.set(xscale="log", xlabel=f"ns an element, one thread of {record['cpu']}", xlim=(0.1, 30), ylim=(len(rows) - 0.5, -0.6))
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.minorticks_off()
    axes.set_yticks(range(len(rows)), [row["operation"] for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.grid(alpha=0.25, axis="x")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.35, 1), ncols=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    draw(options.picture, json.loads(options.results.read_text()))


if __name__ == "__main__":
    main()
