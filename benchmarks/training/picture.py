"""The sweep as a picture: loss against bytes, one colour a family, the frontier drawn through."""

from pathlib import Path
from typing import Any

from benchmarks.suite.record import middle
from benchmarks.training.front import unbeaten

PARAMETERS = 1_334_080


def points(records: list[dict[str, Any]]) -> dict[str, list[tuple[float, float, float, float, str]]]:
    """By family: (bytes sent per worker, parameter and step; median loss; least; greatest; key)."""
    keys = {record["key"]: record for record in records}
    families: dict[str, list[tuple[float, float, float, float, str]]] = {}
    for key, first in keys.items():
        found = [record for record in records if record["key"] == key]
        sent = middle(record["sent"] for record in found)[0] / PARAMETERS / first["steps"]
        families.setdefault(family(first), []).append((sent, *middle(record["loss"] for record in found), key))
    return families


def family(record: dict[str, Any]) -> str:
    """The method and what it selects."""
    codec = str(record["setting"]["options"].get("codec", ""))
    method = {"ddp": "DDP", "diloco": "DiLoCo", "demo": "DeMo"}.get(record["setting"]["method"], record["setting"]["method"])
    for select in ("blockmax", "topk"):
        if select in codec:
            return f"{method} {'dct-' if codec.startswith('dct') else ''}{select}"
    return f"{method} dense" if codec else method


def frontier(families: dict[str, list[tuple[float, float, float, float, str]]]) -> list[tuple[float, float]]:
    """What no setting beats in both: from fewest bytes to least loss."""
    return unbeaten(((sent, loss) for members in families.values() for sent, loss, *_ in members), lambda point: point)


def draw(path: Path, records: list[dict[str, Any]]) -> None:
    """Write the picture; nothing to draw, nothing written."""
    if not records:
        return
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    families = points(records)
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    axes.plot(*zip(*frontier(families), strict=True), color="#c9ccd1", linewidth=3, zorder=0, label="frontier")
    for name, members in sorted(families.items()):
        sent, loss, least, most = (list(column) for column in list(zip(*members, strict=True))[:4])
        below = [middle_ - low for middle_, low in zip(loss, least, strict=True)]
        above = [high - middle_ for middle_, high in zip(loss, most, strict=True)]
        axes.errorbar(sent, loss, yerr=[below, above], fmt="o", markersize=5, linewidth=1, label=name)
    axes.set(xscale="log", xlabel="bytes sent per worker, parameter and step (4 workers)", ylabel="validation loss (nats per byte)")
    axes.grid(alpha=0.25, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)
