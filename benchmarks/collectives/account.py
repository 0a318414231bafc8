"""The arithmetic of a row: bandwidths by nccl-tests' definitions, and where the bytes went (the ledger check)."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple
from statistics import fmean

from benchmarks.collectives.parts import PHASES
from benchmarks.collectives.rows import Row
from benchmarks.lab.queueing import HEADER_NBYTES
from benchmarks.lab.wan import Lab, Traffic
from benchmarks.suite.fleet import Seen
from benchmarks.suite.record import Bytes, Percentiles

LARGE_NBYTES = 1_000_000  # of payload a round: from here on the ledger has to explain the interface's bytes


def seconds(laps: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, Percentiles]:
    """Of each phase and of the whole round; a round takes what its slowest member takes. Empty when no round committed.

    `laps` are each member's, by phase.
    """
    slowest = {phase: [max(each) for each in zip(*(member[phase] for member in laps), strict=True)] for phase in PHASES}
    whole = [max(each) for each in zip(*([sum(lap) for lap in zip(*member.values(), strict=True)] for member in laps), strict=True)]
    return {name: Percentiles.of(found) for name, found in (slowest | {"total": whole}).items() if found}


def bandwidths(row: Row, took: Mapping[str, Percentiles]) -> dict[str, float | None]:
    """In GB/s (10^9). algbw: float32 bytes of a member over the whole round; busbw: bytes that must cross each link over the transfer.

    busbw has nccl-tests' factors: all_reduce 2 (n - 1) / n of what a member brings, all_gather (n - 1) / n of what is gathered, here of
    payload bytes.
    """
    if not took:
        return {"algbw_gbs": None, "busbw_gbs": None}
    return {
        "algbw_gbs": row.nbytes / took["total"].p50 / 1e9,
        "busbw_gbs": row.moved_nbytes / took["transfer"].p50 / 1e9 if took["transfer"].p50 else None,
    }


def between(before: Sequence[Traffic], after: Sequence[Traffic]) -> Traffic:
    """What all regions together did meanwhile."""
    regions = [[b - a for a, b in zip(astuple(old), astuple(new), strict=True)] for old, new in zip(before, after, strict=True)]
    return Traffic(*map(sum, zip(*regions, strict=True)))


def counted(seen: Seen, lab: Lab, members: int, *, payload: float, ledger: float | None) -> Bytes:
    """A member's bytes of one round: `payload` and `ledger` as given, the rest from the kernel's counters and the relay's."""
    counts, per = seen.counts[:members], seen.rounds * members
    share = members if lab.share > 1 else 1
    before, after = seen.traffic
    wire = between(before[:members], after[:members]) if before and after else None
    return Bytes(
        payload_sent=payload,
        ledger_sent=ledger,
        interface_sent=fmean(each.sent for each in counts) / seen.rounds / share,
        interface_received=fmean(each.received for each in counts) / seen.rounds / share,
        wire_sent=wire.sent / per if wire else None,
        wire_received=wire.received / per if wire else None,
        counted_by=lab.counted_by,
    )


def where_bytes_went(moved: float, counted: Bytes, packets: float | None, wire: Traffic | None) -> dict[str, float | None]:
    """Shares of a round in which each member moves `moved` payload bytes; `wire` is of any number of whole rounds.

    - `overhead`: interface over payload, minus 1.
    - of the interface: `explained`, what the ledger handed to the transport; `accounted`, the same and 52 bytes of header for each of the
      `packets` that the interface sent (acknowledgements are nothing else; where a link is fast, one header serves up to 64 KiB).
    - of the wire, where a relay counts packets of 1500 bytes: `wire_explained` (the ledger), `header_share` (of packets with data),
      `ack_share` (packets without), `rest_share`: gloo's own messages, votes over the store, retransmissions. The four add up to 1.
    """
    shares: dict[str, float | None] = {}
    if counted.interface_sent:
        shares["overhead"] = counted.interface_sent / moved - 1
        if counted.ledger_sent:
            shares["explained"] = counted.ledger_sent / counted.interface_sent
            if packets is not None:
                shares["accounted"] = (counted.ledger_sent + packets * HEADER_NBYTES) / counted.interface_sent
    if wire is not None and wire.sent and counted.wire_sent:
        shares["wire_overhead"] = counted.wire_sent / moved - 1
        shares["header_share"] = (wire.sent - wire.ack_nbytes - wire.tcp_payload) / wire.sent
        shares["ack_share"] = wire.ack_nbytes / wire.sent
        if counted.ledger_sent:
            explained = counted.ledger_sent / counted.wire_sent
            shares |= {"wire_explained": explained, "rest_share": wire.tcp_payload / wire.sent - explained}
    return shares
