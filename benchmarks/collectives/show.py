"""The records as tables: one of speed, one of bytes."""

from collections.abc import Sequence

from rich.table import Table

from benchmarks.collectives.account import LARGE_NBYTES
from benchmarks.collectives.parts import PHASES
from benchmarks.collectives.rows import size
from benchmarks.suite.record import OK, Record

MS = 1e3


def speed(records: Sequence[Record]) -> Table:
    """Durations, bandwidths, correctness and success."""
    made = Table(title="collectives: time of a round, slowest member (ms: p50 / p95 / p99)", title_justify="left")
    for heading in ("group", "codec", "n", "fp32", "op", *PHASES, "algbw GB/s", "busbw GB/s", "right", "success", "rounds"):
        made.add_column(heading, justify="left" if heading in ("group", "codec", "op") else "right", no_wrap=True)
    for record in records:
        named = (*_named(record), str(record.settings.get("collective", "")).replace("all_", ""))
        if not record.seconds:
            continue
        phases = [_percentiles(record, phase) for phase in PHASES]
        rates = [_number(record, name, ".3g") for name in ("algbw_gbs", "busbw_gbs")]
        right = "yes" if all(record.checks.values()) else "NO"
        made.add_row(*named, *phases, *rates, right, _number(record, "success", ".0%"), _number(record, "rounds", ".0f"))
    return made


def ledger_check(records: Sequence[Record]) -> list[str]:
    """What the library's own rows of at least 1 MB of payload a round say about the bytes that it accounts for."""
    large = [r for r in records if r.method == "torch" and r.bytes and (r.bytes.payload_sent or 0) >= LARGE_NBYTES and r.status == OK]
    told = []
    for name, worst, target, what in (
        ("explained", min, ">= 99 %", "the ledger explains of the interface's bytes at least"),
        ("accounted", min, ">= 99 %", "the ledger and 52 bytes of header a packet account for at least"),
        ("overhead", max, "<= 3 %", "the interface carries over the payload at most"),
        ("wire_overhead", max, "headers alone are 3.6 %", "packets of 1500 bytes carry over the payload, acknowledgements in it, at most"),
        ("rest_share", max, "<= 1 %", "of these packets neither ledger nor headers nor acknowledgements explain more than"),
    ):
        found = [value for r in large if (value := r.numbers.get(name)) is not None]
        if found:
            told.append(f"ledger check, {len(found)} rows of 1 MB of payload a round and more: {what} {worst(found):.2%} ({target})")
    return told


def bytes_moved(records: Sequence[Record]) -> Table:
    """Bytes of a round and where they went, of rows whose bytes are counted."""
    made = Table(title="collectives: bytes a member and round", title_justify="left")
    of_interface = ("payload", "interface out", "in", "overhead", "explained", "accounted")
    of_wire = ("wire out", "wire overhead", "headers", "acks", "rest", "sent again")
    for heading in ("group", "codec", "n", "fp32", *of_interface, *of_wire):
        made.add_column(heading, justify="left" if heading in ("group", "codec") else "right", no_wrap=True)
    for record in records:
        counted = record.bytes
        if record.status != OK or counted is None or (counted.interface_sent is None and counted.wire_sent is None):
            continue
        made.add_row(
            *_named(record),
            *(_count(n) for n in (counted.payload_sent, counted.interface_sent, counted.interface_received)),
            *(_number(record, name, ".2%") for name in ("overhead", "explained", "accounted")),
            _count(counted.wire_sent),
            *(_number(record, name, ".2%") for name in ("wire_overhead", "header_share", "ack_share", "rest_share")),
            _number(record, "retransmitted", ".1f"),
        )
    return made


def _named(record: Record) -> tuple[str, str, str, str]:
    nbytes = record.settings.get("nbytes")
    return record.method, str(record.settings.get("codec")), str(record.members), size(nbytes) if isinstance(nbytes, int) else ""


def _percentiles(record: Record, phase: str) -> str:
    found = record.seconds[phase]
    return " / ".join(f"{MS * seconds:.3g}" for seconds in (found.p50, found.p95, found.p99)) if found.p99 else ""


def _number(record: Record, name: str, form: str) -> str:
    value = record.numbers.get(name)
    return "" if value is None else format(value, form)


def _count(nbytes: float | None) -> str:
    return "" if nbytes is None else f"{nbytes:,.0f}"
