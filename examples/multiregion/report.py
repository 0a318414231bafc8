"""The end of the story: one sentence and one picture."""

from dataclasses import dataclass
from pathlib import Path

from examples.multiregion.region import Ended

MB = 1e6


@dataclass(frozen=True)
class Outcome:
    """A method's run as a whole: the mean over regions."""

    label: str
    loss: float
    sent: int  # bytes of the region that sent most, by its own count
    counted: float | None  # bytes a region, by the operating system's count
    digests: tuple[str, ...]
    curve: list[tuple[float, float]]  # bytes sent, validation loss

    @property
    def identical(self) -> bool:
        return len(set(self.digests)) == 1


def outcome(label: str, regions: list[Ended], counted: int | None = None) -> Outcome:
    """The mean of the regions; `counted` are the bytes of all of them together by the operating system, when it saw them all."""
    curve = [
        (sum(point[1] for point in points) / len(points), sum(point[2] for point in points) / len(points))
        for points in zip(*(region.curve for region in regions), strict=True)
    ]
    return Outcome(
        label=label,
        loss=sum(region.loss for region in regions) / len(regions),
        sent=max(region.sent for region in regions),
        counted=None if counted is None else counted / len(regions),
        digests=tuple(region.sha256 for region in regions),
        curve=curve,
    )


def sentence(thin: Outcome, dense: Outcome | None) -> str:
    """What happened, and whether the replicas are identical."""
    said, counted, loss = f"each region sent {_mb(thin.sent)}", [thin.counted], f"validation loss {thin.loss:.3f}"
    if dense is not None:
        said += f" instead of {_mb(dense.sent)}, {dense.sent / max(thin.sent, 1):.0f} times less"
        counted.append(dense.counted)
        loss += f", dense {dense.loss:.3f}"
    seen = [_mb(nbytes) for nbytes in counted if nbytes is not None]
    if len(seen) == len(counted):
        said += f" (the operating system counted {' and '.join(seen)} on the loopback)"
    if thin.identical:
        replicas = f"all {len(thin.digests)} replicas hold the same bits (sha256 {thin.digests[0][:16]})"
    else:
        replicas = f"THE REPLICAS DIFFER (sha256 {', '.join(digest[:16] for digest in thin.digests)})"
    return f"{thin.label}: {said}; {loss}; {replicas}."


def picture(path: Path, outcomes: list[Outcome]) -> None:
    """Validation loss against bytes sent, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    for run, colour in zip(outcomes, ("#8a8f98", "#0b6bcb"), strict=False):
        points = [(sent / MB, loss) for sent, loss in run.curve if sent]
        if not points:
            continue
        axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3.5, linewidth=1.8)
        last = points[-1]
        axes.annotate(
            f"{run.label}\n{run.loss:.3f} at {_mb(run.sent)}",
            last,
            xytext=(0, -9),
            textcoords="offset points",
            ha="center",
            va="top",
            color=colour,
            fontweight="bold",
        )
    axes.set(xscale="log", xlabel="MB sent per region", ylabel="validation loss (nats per byte)")
    axes.margins(x=0.18, y=0.22)
    axes.grid(alpha=0.25, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _mb(nbytes: float) -> str:
    return f"{nbytes / MB:.0f} MB" if nbytes >= 100 * MB else f"{nbytes / MB:.2f} MB"
