"""Collectives: one exchange, for each codec, group and size."""

from collections.abc import Sequence

from benchmarks.report.page import Row, Section, Table
from benchmarks.report.words import dimensions, link_words, number, percent, percentiles_ms, said, significant, size, varying, yes
from benchmarks.suite.record import OK, Record

LEFT_OUT = ("sends", "rtt", "loss", "TCP", "lab")  # the codec spelt out; the link has a column of its own
SIZES = ("nbytes", "size_nbytes", "size")  # names of a setting or number that holds the message's bytes


def section(records: Sequence[Record]) -> Section:
    return Section(
        "collectives",
        "Collectives",
        "One exchange. algbw is the size over the time, busbw that times nccl-tests' factor; encode, transfer and decode are "
        "p50 / p95 / p99. Payload and interface bytes are a member's, for one exchange.",
        [table(records)],
        [record.made for record in records],
    )


def nbytes(record: Record) -> float:
    """Of the message before it is encoded."""
    told = [record.settings.get(name) for name in SIZES] + [record.numbers.get(name) for name in SIZES]
    return next((float(value) for value in told if isinstance(value, int | float)), 4.0 * record.numel)


def table(records: Sequence[Record]) -> Table:
    differ = [name for name in varying(records)[0] if name.replace(" ", "_") not in SIZES and name not in LEFT_OUT]
    links = len({link_words(record.link) for record in records}) > 1
    headings = [
        "size", *("group" if name == "method" else name for name in differ), *["link"] * links, "algbw GB/s", "busbw GB/s", "encode ms",
        "transfer ms", "decode ms", "payload", "interface sent", "interface received", "overhead", "correct", "success",
    ]  # fmt: skip
    rows = [_row(record, differ, links) for record in sorted(records, key=nbytes)]
    return Table(headings, rows, words=1 + len(differ) + links)


def _row(record: Record, differ: Sequence[str], links: bool) -> Row:
    own, counted = dimensions(record), record.bytes
    first = [size(nbytes(record)), *(own.get(name, "") for name in differ), *[link_words(record.link)] * links]
    if record.status != OK and not record.numbers:
        return Row([*first, *[""] * 11], said(record), record.status)
    cells = [
        significant(number(record, "algbw_gbs")),
        significant(number(record, "busbw_gbs")),
        *(percentiles_ms(record.seconds.get(phase)) for phase in ("encode", "transfer", "decode")),
        *(size(getattr(counted, name) if counted else None) for name in ("payload_sent", "interface_sent", "interface_received")),
        percent(overhead(record)),
        yes(all(record.checks.values()) if record.checks else None),
        percent(number(record, "success", "success_rate"), 0),
    ]
    return Row([*first, *cells], "" if record.status == OK else said(record), record.status)


def overhead(record: Record) -> float | None:
    """Of the interface bytes over the payload."""
    told, counted = number(record, "overhead"), record.bytes
    if told is None and counted and counted.payload_sent and counted.interface_sent:
        return counted.interface_sent / counted.payload_sent - 1
    return told
