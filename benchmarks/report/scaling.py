"""Scaling: bytes each way and the time of a sync against the number of peers."""

from collections.abc import Sequence

from benchmarks.report import drawing
from benchmarks.report.page import Picture, Row, Section, Table
from benchmarks.report.words import dimensions, link_words, megabytes, percentiles_ms, said, varying
from benchmarks.suite.record import OK, Percentiles, Record

SYNC = ("sync", "exchange", "transfer")  # names of the phase that is a whole sync


def section(records: Sequence[Record]) -> Section:
    made = picture(records)
    return Section(
        "scaling",
        "Scaling",
        "Of one sync: the bytes of a member each way, and its time (p50 / p95 / p99), for more and more peers.",
        [table(records), *([made] if made else [])],
        [record.made for record in records],
    )


def sync(record: Record) -> Percentiles | None:
    return next((record.seconds[name] for name in SYNC if name in record.seconds), None)


def name_of(record: Record, differ: Sequence[str], links: bool) -> str:
    """A line of the picture: everything but the peers."""
    own = dimensions(record)
    words = [own[name] for name in differ if name in own and name not in ("members", "rtt", "loss", "TCP", "lab")]
    return ", ".join([*(words or [record.label or record.method or "sync"]), *[link_words(record.link)] * links])


def lines(records: Sequence[Record]) -> dict[str, list[Record]]:
    """By name, in order of peers."""
    differ, _ = varying(records)
    links = len({link_words(record.link) for record in records}) > 1
    found: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: record.members):
        found.setdefault(name_of(record, differ, links), []).append(record)
    return found


def table(records: Sequence[Record]) -> Table:
    rows = []
    for name, members in lines(records).items():
        for record in members:
            counted = record.bytes
            each = (getattr(counted, field) if counted else None for field in ("payload_sent", "interface_sent", "interface_received"))
            cells = [name, link_words(record.link), str(record.members), *(megabytes(one) for one in each), percentiles_ms(sync(record))]
            rows.append(Row(cells, "" if record.status == OK else said(record), record.status))
    return Table(["setting", "link", "peers", "payload MB", "MB sent", "MB received", "sync ms"], rows, words=2)


def picture(records: Sequence[Record]) -> Picture | None:
    """Bytes sent and received, and the time of a sync, against peers."""
    found = lines([record for record in records if record.status == OK and record.bytes and sync(record)])
    if not found:
        return None
    looks = drawing.styles([(name, name) for name in found])
    peers = sorted({record.members for members in found.values() for record in members})
    with drawing.drawn():
        figure = drawing.figure(9.6, 4.0 + 0.22 * -(-len(looks) // 2))
        panels = figure.subplots(1, 3)
        for name, members in found.items():
            look = looks[name]
            at = [record.members for record in members]
            for axes, field in zip(panels, ("interface_sent", "interface_received"), strict=False):
                told = [(n, getattr(r.bytes, field) / 1e6) for n, r in zip(at, members, strict=True) if getattr(r.bytes, field)]
                if told:
                    axes.plot(*zip(*told, strict=True), color=look.colour, marker=look.marker, linestyle=look.dash, label=name)
            spans = [one for record in members if (one := sync(record))]
            median = [one.p50 for one in spans]
            up = [[0.0] * len(spans), [one.p95 - one.p50 for one in spans]]
            panels[2].errorbar(
                at, median, yerr=up, color=look.colour, marker=look.marker, linestyle=look.dash, linewidth=1.4, capsize=2, label=name
            )
        for axes, title in zip(panels, ("MB sent by a member", "MB received by a member", "seconds of a sync"), strict=True):
            axes.set_title(title, fontsize=10)
            axes.set(xscale="log", xlabel="peers", ylim=(0, None))
            axes.set_xticks(peers, [str(n) for n in peers])
            axes.minorticks_off()
        drawing.legend(figure, panels, 2)
        made = drawing.svg(figure, "scaling", "Megabytes sent and received by a member and seconds of a sync against the number of peers")
    return Picture(made, "Bytes are of the interface counters; the bar over a time reaches to its p95.")
