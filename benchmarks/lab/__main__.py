"""Open a lab, say what its links really are, and run a command in every region as torchrun would on a machine each.

    python -m benchmarks.lab home                            asked and measured
    python -m benchmarks.lab continents -- python train.py   the same, then RANK, WORLD_SIZE, MASTER_ADDR ... and the command

Needs root, iproute2 and /dev/net/tun; everything is gone at the end.
"""

import os
import sys
from dataclasses import dataclass

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.lab.topology import Topology
from benchmarks.lab.wan import Lab, Void, open_lab
from benchmarks.suite.options import one_sentence, parse


@dataclass(frozen=True)
class Options:
    """A lab of regions on this machine; what stands after -- is run in each."""

    topology: tyro.conf.Positional[str]
    """home, continents, cloud, or a TOML file."""
    unverified: tyro.conf.FlagCreatePairsOff[bool] = False
    """Run also when the links are not what was asked."""


def run(lab: Lab, command: list[str]) -> int:
    """One process a region, ended together; the first exit status that is not 0."""
    port = str(lab.port())
    each = []
    for i in range(len(lab.places)):
        env = {"RANK": str(i), "LOCAL_RANK": "0", "WORLD_SIZE": str(len(lab.places)), "MASTER_ADDR": lab.address, "MASTER_PORT": port}
        each.append(lab.start(i, command, env=env | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}))
    try:
        return next((status for status in [process.wait() for process in each] if status), 0)
    finally:
        for i, process in enumerate(each):
            if process.poll() is None:
                lab.kill(i)
                process.wait()


def table(lab: Lab) -> Table:
    """What each region's traffic was."""
    made = Table(title=f"{lab.topology.name}: IP bytes by region, counted by the relay", title_justify="left")
    for heading in ("region", "sent MB", "received MB", "packets", "dropped", "lost"):
        made.add_column(heading, justify="left" if heading == "region" else "right")
    for place, seen in zip(lab.places, lab.traffic(), strict=True):
        numbers = f"{seen.sent / 1e6:.3f}", f"{seen.received / 1e6:.3f}", seen.packets, seen.dropped, seen.lost
        made.add_row(place.name, *(str(number) for number in numbers))
    return made


def main(argv: list[str] | None = None) -> None:
    console = Console(width=None if sys.stdout.isatty() else 160, stderr=True)
    words = list(sys.argv[1:] if argv is None else argv)
    at = words.index("--") if "--" in words else len(words)
    command = words[at + 1 :]
    with one_sentence("interrupted"):
        options = parse(Options, words[:at], __doc__)
        with open_lab(Topology.read(options.topology)) as lab:
            try:
                link = lab.verify()
            except Void as error:
                if not options.unverified:
                    raise
                console.print(f"not what was asked: {error}", markup=False)
            else:
                console.print(f"asked: {link.asked}\nmeasured: {link.measured}", markup=False, highlight=False)
            status = run(lab, command) if command else 0
            console.print(table(lab))
    raise SystemExit(status)


if __name__ == "__main__":
    main()
