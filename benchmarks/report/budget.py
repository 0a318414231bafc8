"""Where the time goes: bars of shares, from every number called `share_...`."""

from collections.abc import Sequence

from benchmarks.report import drawing
from benchmarks.report.page import Picture
from benchmarks.report.words import dimensions, mid, rate, varying
from benchmarks.suite.record import OK, Record

FIRST = ("compute", "encode", "exchange", "decode", "apply")  # the pipeline; whatever else was measured comes after it
HATCHES = ("", "///", "", "\\\\\\", "", "...", "", "xxx")


def shares(record: Record) -> dict[str, float]:
    """By phase, of the time on the clock."""
    return {name.removeprefix("share_"): value for name, value in record.numbers.items() if name.startswith("share_") and value is not None}


def picture(records: Sequence[Record], suite: str) -> Picture | None:
    """A bar for each setting, the median over its runs."""
    told = [record for record in records if record.status == OK and shares(record)]
    if not told:
        return None
    bars: dict[str, list[Record]] = {}
    differ, _ = varying(told)
    for record in told:
        bars.setdefault(name_of(record, differ), []).append(record)
    phases = sorted({phase for record in told for phase in shares(record)}, key=lambda p: (FIRST.index(p) if p in FIRST else len(FIRST), p))
    with drawing.drawn():
        figure = drawing.figure(9.6, 1.1 + 0.27 * len(bars))
        axes = figure.subplots()
        left = [0.0] * len(bars)
        for i, phase in enumerate(phases):
            widths = [100 * (mid(shares(record).get(phase, 0.0) for record in runs) or 0.0) for runs in bars.values()]
            axes.barh(
                list(bars), widths, 0.75, left, label=phase, color=drawing.COLOURS[i % 8], hatch=HATCHES[i % 8], edgecolor=drawing.PAGE,
                linewidth=0.5,
            )  # fmt: skip
            left = [start + width for start, width in zip(left, widths, strict=True)]
        axes.set(xlim=(0, max(100, *left)), ylim=(len(bars) - 0.4, -0.6), xlabel="% of the time on the clock")
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0, labelsize=9)
        drawing.legend(figure, [axes], 5)
        made = drawing.svg(figure, f"{suite}-budget", "Shares of the time on the clock by phase, one bar for each setting")
    return Picture(made, "Where the time goes; what a bar lacks of 100 % no span explains.")


def name_of(record: Record, differ: Sequence[str]) -> str:
    """A setting in the words that tell it apart."""
    if record.suite == "training":
        return record.label
    own = dimensions(record)
    return ", ".join([f"{rate(record.link)} Mbit/s", f"H {record.sync_every}", *(f"{name} {own[name]}" for name in differ if name in own)])
