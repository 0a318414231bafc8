"""Utilisation: the share of the time that is training, over links, steps a round, codecs and overlaps."""

from collections.abc import Sequence

from matplotlib import colormaps

from benchmarks.report import budget
from benchmarks.report.page import Cell, Heat, Heats, Row, Section, Table
from benchmarks.report.words import dimensions, mid, number, percent, rate, said, troubled, varying
from benchmarks.suite.record import OK, Record

UNEXPLAINED = 0.02  # the most of the time that spans may leave unexplained
DARK = 0.55  # above this brightness black ink reads better than white


def section(records: Sequence[Record]) -> Section:
    differ, alike = varying(records)
    maps = [heat(name, members) for name, members in panels(records, differ).items()]
    bad = troubled(records)
    blocks = [
        Heats(maps, "Compute utilisation; under it the residual: time that no span explains, in % of the time on the clock. Grey: not ok."),
        *([Table(["point"], [Row([_title(r, differ)], said(r), r.status) for r in bad], "Points that do not count")] if bad else []),
        table(records, differ),
        *([bars] if (bars := budget.picture(records, "utilisation")) else []),
    ]
    over = [record for record in records if record.status == OK and abs(residual(record) or 0.0) > UNEXPLAINED]
    return Section(
        "utilisation",
        "Compute utilisation",
        "Compute spans over time on the clock. On this surface only, compute may be paced by sleeping: the exchange, its codec and the "
        f"link are real. Verified points: {len(records) - len(bad)} of {len(records)}; residual over {percent(UNEXPLAINED, 0)}: "
        f"{len(over)}. Everywhere the same: {alike or 'nothing'}.",
        blocks,
        [record.made for record in records],
    )


def utilisation(record: Record) -> float | None:
    return number(record, "utilisation", "compute_utilisation")


def residual(record: Record) -> float | None:
    return number(record, "residual")


def panels(records: Sequence[Record], differ: Sequence[str]) -> dict[str, list[Record]]:
    """A map for each combination of everything that is neither the rate of the link nor the steps a round."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(_words(record, differ), []).append(record)
    return found


def _words(record: Record, differ: Sequence[str]) -> str:
    own = dimensions(record)
    return ", ".join(own[name] if name in ("codec", "rtt", "TCP") else f"{name} {own[name]}" for name in differ if name in own)


def _title(record: Record, differ: Sequence[str]) -> str:
    return ", ".join(part for part in (f"{rate(record.link)} Mbit/s", f"H {record.sync_every}", _words(record, differ)) if part)


def heat(name: str, records: Sequence[Record]) -> Heat:
    """Rates by steps a round; a cell is the median of its records."""
    rates = list(dict.fromkeys(rate(record.link) for record in sorted(records, key=_mbit)))
    every = sorted({record.sync_every for record in records})
    cells = [(rate_, [_cell([r for r in records if (rate(r.link), r.sync_every) == (rate_, steps)]) for steps in every]) for rate_ in rates]
    return Heat(name or "all points", "Mbit/s \\ H", [str(steps) for steps in every], cells)


def _mbit(record: Record) -> tuple[float, float]:
    asked = record.link.asked if record.link else None
    up, down = (asked.up_mbit, asked.down_mbit) if asked else (None, None)
    return (float("inf") if up is None else up, float("inf") if down is None else down)


def _cell(records: Sequence[Record]) -> Cell:
    good = [record for record in records if record.status == OK]
    value = mid(utilisation(record) for record in good)
    if value is None:
        return Cell(records[0].status if records else "")
    red, green, blue, _ = colormaps["cividis"](min(max(value, 0.0), 1.0))
    bright = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    colour = "#" + "".join(f"{round(255 * channel):02x}" for channel in (red, green, blue))
    return Cell(percent(value, 0), percent(mid(map(residual, good))), colour, "#000000" if bright > DARK else "#ffffff")


def table(records: Sequence[Record], differ: Sequence[str]) -> Table:
    """Every point, folded: the maps show the same."""
    headings = ["Mbit/s", "H", *differ, "utilisation", "residual", "within 2 %"]
    rows = []
    for record in sorted(records, key=lambda r: (_mbit(r), r.sync_every, _words(r, differ))):
        own, left = dimensions(record), residual(record)
        within = "" if left is None else "yes" if abs(left) <= UNEXPLAINED else "NO"
        told = [percent(utilisation(record)), percent(left, 2), within] if record.status == OK else [record.status, "", ""]
        rows.append(Row([rate(record.link), str(record.sync_every), *(own.get(name, "") for name in differ), *told], status=record.status))
    return Table(headings, rows, f"All {len(rows)} points with their residuals", words=2 + len(differ), folded=True)
