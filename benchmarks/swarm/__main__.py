"""What a round of a swarm takes over links like yours: members found over libp2p, one in each region of the lab.

    python -m benchmarks.swarm                     4 regions, 20 Mbit/s and 80 ms: a minute (root)
    python -m benchmarks.swarm --link 100:40 --members 6 --codecs dct-topk int8

The floor is what no protocol beats that gives every member every payload: a payload to each of the others over one uplink, and two round
trips to agree on what counts.
"""

import json
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.lab.wan import Lab, open_lab
from benchmarks.suite.link import LinkOptions
from benchmarks.suite.options import one_sentence, parse
from benchmarks.suite.record import OK, RESULTS, Link, Made, Percentiles, Record, append
from benchmarks.suite.runs import RunError

START_S, ROUND_S = 120.0, 60.0


@dataclass(frozen=True)
class Options:
    """How many, over what."""

    members: int = 4
    link: str = "20:80"
    """Mbit/s and round trip in ms, of every region."""
    codecs: tuple[str, ...] = ("dct-topk", "blockmax")
    rounds: int = 20
    """With all members, that are measured."""
    results: Path = RESULTS / "swarm.jsonl"


class Worker:
    """A process in a region, and what it has said."""

    def __init__(self, lab: Lab, folder: Path, i: int, words: list[str]) -> None:
        self.log = folder / f"swarm-{i}-{time.monotonic_ns()}.log"
        self.process = lab.start(i, [sys.executable, "-m", "benchmarks.swarm.worker", *words], log=self.log, cwd=Path.cwd())

    def said(self) -> list[dict[str, object]]:
        """Its lines so far."""
        text = self.log.read_text() if self.log.exists() else ""
        return [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]

    def wait(self, key: str, count: int, timeout_s: float) -> list[dict[str, object]]:
        """Its lines with `key`, once there are `count`."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            found = [line for line in self.said() if key in line]
            if len(found) >= count:
                return found
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise RunError(f"a member did not come to {count} x {key} in {timeout_s:.0f} s: {self.log.read_text()[-300:]}")


def measure(lab: Lab, folder: Path, link: Link, options: Options, codec: str, rate_mbit: float, rtt_s: float) -> Record:
    """Rounds of one codec."""
    stop = folder / f"stop-{codec}"
    workers: list[Worker] = []
    peers: list[str] = []
    try:
        for i in range(options.members):
            words = [codec, str(options.members), str(options.rounds), lab.places[i].address, str(stop), *peers]
            workers.append(Worker(lab, folder, i, words))
            (hello,) = workers[-1].wait("address", 1, START_S)[:1]
            peers = peers or [str(hello["address"])]
        rounds = workers[0].wait("round", options.rounds + 3, options.rounds * ROUND_S)[3:]
        stop.touch()
        hashes = {str(worker.wait("sha256", 1, START_S)[0]["sha256"]) for worker in workers}
    finally:
        for worker in workers:
            worker.process.kill()
    seconds = sorted(float(line["seconds"]) for line in rounds)  # type: ignore[arg-type]
    payload = median(float(line["payload"]) for line in rounds) / (options.members - 1)  # type: ignore[arg-type]
    floor = (options.members - 1) * payload * 8 / (rate_mbit * 1e6) + 2 * rtt_s
    middle = median(seconds)
    return Record(
        suite="swarm",
        key=f"{codec}, {options.members} members, {options.link}",
        status=OK,
        made=Made.now(),
        method=codec,
        members=options.members,
        steps=len(rounds),
        link=link,
        seconds={"round": Percentiles.of(seconds)},
        numbers={"payload_nbytes": payload, "floor_s": floor, "over_floor": middle / floor, "last_hashes": float(len(hashes))},
        checks={"within 3 x the floor": middle <= 3 * floor},
    )


def main(argv: list[str] | None = None) -> None:
    with one_sentence("interrupted: nothing of this run is kept"), ExitStack() as stack:
        options = parse(Options, argv, __doc__)
        topology = LinkOptions(link=options.link).regions(options.members)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="thinwire-")))
        rate, rtt_ms = (float(part) for part in options.link.split(":"))
        lab = stack.enter_context(open_lab(topology))
        link = lab.verify()
        table = Table("codec", "payload", "floor", "round p50", "p95", "x floor", title=f"{options.members} members, {topology.name}")
        for codec in options.codecs:
            record = append(options.results, measure(lab, folder, link, options, codec, rate, rtt_ms / 1000))
            took, n = record.seconds["round"], record.numbers
            times = [f"{value:.3f} s" for value in (n["floor_s"] or 0.0, took.p50, took.p95)]
            table.add_row(codec, f"{n['payload_nbytes']:,.0f} B", *times, f"{n['over_floor']:.2f}")
        Console().print(table)


if __name__ == "__main__":
    main()
