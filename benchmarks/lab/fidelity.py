"""How true the lab is: what one TCP connection and a ping find, over the grid of rates and round trips.

    python -m benchmarks.lab.fidelity            about three minutes; benchmarks/results/fidelity.jsonl

Needs root, iproute2 and /dev/net/tun, and a machine that does nothing else.
"""

from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace
from rich.table import Table

from benchmarks.lab.namespaces import refuse_if_impossible
from benchmarks.lab.probe import Probes, measure
from benchmarks.lab.topology import Topology
from benchmarks.lab.wan import open_lab
from benchmarks.suite.command import put
from benchmarks.suite.options import FileOptions, held, one_sentence, parse
from benchmarks.suite.record import OK, RESULTS, VOID, Link, Made, Measured, Record
from benchmarks.suite.runs import Due, end, run_all

GRID = [(mbit, rtt_ms) for mbit in (20, 100) for rtt_ms in (20, 80, 200)] + [(500, 20), (500, 80)]
SECONDS = 12.0  # of sending, the last 5 count
TOLERANCE, RTT_MS, CPU_SHARE = 0.05, 2.0, 0.5
TCP_SHARE = 1448 / 1500  # of a packet


@dataclass(frozen=True)
class Options(FileOptions):
    """Measure the lab itself."""

    results: Path = RESULTS / "fidelity.jsonl"


def due() -> list[Due]:
    """One flow between two regions for each rate and round trip, and four regions at 100 Mbit/s at once."""
    runs = [(2, Topology.uniform(2, mbit=mbit, rtt_ms=rtt_ms)) for mbit, rtt_ms in GRID]
    # Data and the acknowledgements of the other direction share each uplink: a deep queue would delay them and starve one flow.
    runs.append((4, Topology.uniform(4, mbit=100, rtt_ms=40, queue_ms=50)))
    return [_due(n, topology) for n, topology in runs]


def _due(n: int, topology: Topology) -> Due:
    label = f"{n} regions, {topology.name}"
    template = Record(suite="fidelity", key=label, status=OK, made=Made.now(), label=label, members=n)
    return Due(template, lambda: _measure(template, topology))


def _measure(template: Record, topology: Topology) -> Record:
    n = len(topology.regions)
    with open_lab(topology) as lab:
        found = measure(lab)
        lab.health()
        with Probes(lab) as probes:
            # Around the ring: every uplink and every downlink carries one connection.
            to = [lab.places[(i + 1) % n].address if n > 2 or i == 0 else None for i in range(n)]
            probes.ask([{"op": "listen"}] * n)
            answers = probes.ask([{"op": "stream", "to": address, "seconds": SECONDS} for address in to])
        goodput = min(rate for rate in answers if rate)
        health = lab.health()
    region = topology.regions[0]
    assert region.up_mbit is not None
    rtt_error = abs((found.measured.rtt_ms or 0.0) - topology.way.rtt_ms)
    room = region.up_mbit * (TCP_SHARE if n > 2 else 1.0)  # around the ring acknowledgements need their part too
    checks = {
        "rtt_within_2_ms": rtt_error <= RTT_MS,
        "goodput_within_5_percent": goodput >= (1 - TOLERANCE) * room,
        "relay_under_half_a_core": health["cpu_share"] <= CPU_SHARE,
    }
    return replace(
        template,
        status=OK if all(checks.values()) else VOID,
        reason=None if all(checks.values()) else ", ".join(name for name, held in checks.items() if not held),
        link=Link("namespaces", lab.link().asked, Measured(up_mbit=found.measured.up_mbit, rtt_ms=found.measured.rtt_ms)),
        numbers={"goodput_mbit": goodput, "relay_cpu_share": health["cpu_share"], "latest_ms": health["latest_ms"]},
        checks=checks,
    )


def table(records: list[Record]) -> Table:
    """Asked beside measured."""
    made = Table(title="one TCP connection (cubic) for each uplink, relay on the same cores", title_justify="left")
    for heading in (
        "regions",
        "Mbit/s",
        "ms",
        "round trip ms",
        "rate (UDP)",
        "goodput (TCP)",
        "of the rate",
        "relay, of a core",
        "latest ms",
        "held",
    ):
        made.add_column(heading, justify="right")
    for record in records:
        if record.link is None or record.link.measured is None:
            made.add_row(str(record.members), record.label, *[""] * 7, record.reason or "")
            continue
        asked, measured, numbers = record.link.asked, record.link.measured, record.numbers
        goodput = numbers["goodput_mbit"] or 0.0
        made.add_row(
            str(record.members), f"{asked.up_mbit:g}", f"{asked.rtt_ms:g}", f"{measured.rtt_ms:.2f}", f"{measured.up_mbit:.1f}",
            f"{goodput:.1f}", f"{goodput / (asked.up_mbit or 1):.1%}", f"{numbers['relay_cpu_share']:.1%}", f"{numbers['latest_ms']:.1f}",
            "yes" if all(record.checks.values()) else record.reason,
        )  # fmt: skip
    return made


def main(argv: list[str] | None = None) -> None:
    made: list[Record] = []
    with one_sentence():
        options = parse(Options, argv, __doc__)
        out = options.output(160)
        if not options.show:
            refuse_if_impossible(nat=False)
            made = run_all(due(), options.results, out.aside, keep=options.keep)
        records = held(options.results, "fidelity")
    put(out, "fidelity", records, options.results, lambda found: [table(list(found))])
    end(made)


if __name__ == "__main__":
    main()
