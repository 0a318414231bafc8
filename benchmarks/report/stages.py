"""Bytes by stage: what the codec made, what the library handed over, what the kernel counted, what went over the link."""

from collections.abc import Sequence

from benchmarks.report import drawing
from benchmarks.report.page import Picture, Row, Section, Table
from benchmarks.report.words import dimensions, megabytes, mid, percent, varying
from benchmarks.suite.record import OK, Record

STAGES = {"payload": "payload_sent", "ledger": "ledger_sent", "interface": "interface_sent", "wire": "wire_sent"}
LINK = ("rtt", "loss", "TCP", "lab")
WIRE = {"wire_explained": "ledger", "header_share": "TCP/IP headers", "ack_share": "bare acknowledgements", "rest_share": "the rest"}
MOST = 40  # bars; the table has all


def of(record: Record) -> dict[str, float]:
    """Bytes by stage, as far as they were counted."""
    found = {stage: getattr(record.bytes, name) if record.bytes else None for stage, name in STAGES.items()}
    return {stage: nbytes for stage, nbytes in found.items() if nbytes}


def told(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """By a method's name the medians, of methods that have payload and something after it; of collectives the largest size only."""
    records = [record for record in records if record.status == OK and len(of(record)) > 1 and "payload" in of(record)]
    largest = max((record.numel for record in records if record.suite == "collectives"), default=0)
    kept = [record for record in records if record.suite != "collectives" or record.numel == largest]
    found: dict[str, list[Record]] = {}
    for suite in dict.fromkeys(record.suite for record in kept):
        most = max(record.steps for record in kept if record.suite == suite)
        own = [record for record in kept if record.suite == suite and record.steps == most]
        differ = [name for name in varying(own)[0] if name not in LINK]
        for record in own:
            found.setdefault(f"{suite}: {_name(record, differ)}", []).append(record)
    return {name: {stage: value for stage in STAGES if (value := mid(of(r).get(stage) for r in runs))} for name, runs in found.items()}


def _name(record: Record, differ: Sequence[str]) -> str:
    """Over all links: what a member sends hardly depends on it."""
    own = dimensions(record)
    words = [own[name] if name in ("codec", "group") else f"{name} {own[name]}" for name in differ if name in own and name != "method"]
    return record.label or ", ".join([record.method, *words])


def section(records: Sequence[Record]) -> Section | None:
    found = told(records)
    if not found:
        return None
    rows = [Row([name, *(_cell(stages, stage) for stage in STAGES)]) for name, stages in found.items()]
    rest = wire_table(records)
    return Section(
        "stages",
        "Bytes by stage",
        "What a member sends, at each stage: payload is what the codec made, ledger what the library says it handed to the transport, "
        "interface what the kernel counted, wire the same as IP packets of 1500 bytes.",
        [Table(["method", *(f"{stage} MB" for stage in STAGES)], rows), *([rest] if rest else []), picture(found)],
    )


def wire_table(records: Sequence[Record]) -> Table | None:
    """What the wire's bytes are, of records that tell it."""
    told = [record for record in records if record.status == OK and any(record.numbers.get(name) is not None for name in WIRE)]
    by_name: dict[str, list[Record]] = {}
    for record in told:
        differ = [name for name in varying([one for one in told if one.suite == record.suite])[0] if name not in LINK]
        by_name.setdefault(f"{record.suite}: {_name(record, differ)}", []).append(record)
    rows = [Row([name, *(percent(mid(run.numbers.get(number) for run in runs), 2) for number in WIRE)]) for name, runs in by_name.items()]
    return Table(["method", *WIRE.values()], rows, "What the bytes on the wire are", folded=True) if rows else None


def _cell(stages: dict[str, float], stage: str) -> str:
    over = "" if stage == "payload" or stage not in stages else f" ({stages[stage] / stages['payload'] - 1:+.1%})"
    return megabytes(stages.get(stage)) + over


def picture(found: dict[str, dict[str, float]]) -> Picture:
    """Bars of what each stage has over the payload."""
    drawn = dict(list(found.items())[:MOST])
    with drawing.drawn():
        figure = drawing.figure(9.6, 1.2 + 0.6 * len(drawn))
        axes = figure.subplots()
        for i, stage in enumerate(list(STAGES)[1:]):
            places = [place + 0.25 * (i - 1) for place, stages in enumerate(drawn.values()) if stage in stages]
            over = [100 * (stages[stage] / stages["payload"] - 1) for stages in drawn.values() if stage in stages]
            bars = axes.barh(places, over, 0.23, label=stage, color=drawing.COLOURS[i], edgecolor=drawing.PAGE)
            axes.bar_label(bars, [f"{value:+.1f} %" for value in over], padding=3, fontsize=8)
        axes.set_yticks(range(len(drawn)), [f"{name}\npayload {megabytes(stages['payload'])} MB" for name, stages in drawn.items()])
        axes.tick_params(axis="y", length=0, labelsize=9)
        axes.set(ylim=(len(drawn) - 0.45, -0.55), xlabel="% over the payload")
        axes.margins(x=0.12)
        axes.axvline(0, color=drawing.FRONT, linewidth=1)
        axes.grid(axis="y", visible=False)
        drawing.legend(figure, [axes], 3)
        made = drawing.svg(figure, "stages", "Bytes over the payload at each later stage, in percent, for each method")
    return Picture(
        made, f"The way from payload to wire{f', of the first {MOST}' if len(found) > MOST else ''}: {percent(0.03, 0)} is the goal."
    )
