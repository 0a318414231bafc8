"""The surface: which points, what their records must say, and that it falls back to simulated links."""

from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lab.namespaces import LabError
from benchmarks.lab.topology import Topology
from benchmarks.lab.wan import Lab, Place, Traffic
from benchmarks.suite.counters import Counts
from benchmarks.suite.fleet import Enough, Seen
from benchmarks.suite.record import Asked, Link, Record, read
from benchmarks.utilisation import __main__ as command
from benchmarks.utilisation import bench
from benchmarks.utilisation.bench import Bench, made_of
from benchmarks.utilisation.points import MEMBERS, Point, full, quick
from tests.benchmarks.made_up import MADE
from tests.benchmarks.test_lab import needs_lab

LAB = Lab("namespaces", Topology.uniform(2), (Place("r0", "10.77.0.1"), Place("r1", "10.77.1.1")), "wan0", 1)
SECONDS = {"wall": 10.0, "compute": 6.0, "inner": 0.2, "encode": 0.3, "exchange": 3.0, "decode": 0.2, "apply": 0.1, "around": 0.1}


def member(**more: Any) -> dict[str, Any]:
    """What a worker of four rounds says; 1 % of its wall time is unexplained."""
    return {**SECONDS, "rounds": 4, "payload": 4000, "ledger": 4400, "sync": [0.5, 0.6, 0.7, 0.8], **more}


def seen(*members: dict[str, Any], checked: tuple[str, ...] = ("a", "a")) -> Seen:
    before, after = ([Traffic(n, n, n, n, n, n, 0, 0)] * 2 for n in (0, 4000))
    return Seen(4, list(members), [Counts(8000, 8000, 8, 0)] * 2, [{"sha256": each, "wire": [0, 0]} for each in checked], (before, after))


def template() -> Record:
    return Record(suite="utilisation", key="a", status="failed", made=MADE, link=Link("namespaces", Asked("20 Mbit/s")))


# -- the points


def test_full_has_48_points_and_more_each_measured_once() -> None:
    points = full()
    assert len(points) >= 48
    assert len({point.key for point in points}) == len({point.label for point in points}) == len(points)


def test_points_of_a_link_lie_next_to_each_other_so_that_it_is_measured_once() -> None:
    links = [point.topology for point in full()]
    assert sum(a != b for a, b in pairwise(links)) == len(set(links)) - 1


def test_windows_of_seconds_are_warmed_up_once() -> None:
    warm = {point.label: point.warm_rounds for point in full()}
    assert warm["none, H=20, 20 Mbit/s, 80 ms, cubic"] == warm["blockmax64, H=100, 20 Mbit/s, 80 ms, cubic"] == 1
    assert warm["none, H=20, 100 Mbit/s, 80 ms, cubic"] == warm["blockmax64, H=20, 20 Mbit/s, 80 ms, cubic"] == 2


def test_full_covers_every_axis() -> None:
    points = full()
    assert {point.congestion for point in points} == {"cubic", "bbr"}
    assert {point.loss for point in points} == {0.0, 0.001, 0.01}
    assert {point.mbit for point in points} == {20, 100, 1000}
    assert {point.up_mbit for point in points} == {None, 20}
    assert {bool(point.overlap) for point in points} == {False, True}
    assert len({point.codec for point in points}) >= 3
    assert len({point.sync_every for point in points}) >= 3


def test_quick_is_a_few_points() -> None:
    assert 1 <= len(quick()) <= 6


@pytest.mark.parametrize("words", [["--only", "pigeon"], ["--pace-ms", "-3"], ["--rounds", "-3"], ["--seconds", "-1"]])
def test_options_that_cannot_be_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(words)
    assert "Error" in capsys.readouterr().err


# -- the record


def test_shares_and_the_residual_add_up_to_the_wall_time() -> None:
    made = made_of(template(), seen(member(), member()), LAB)
    assert made.status == "ok"
    assert made.numbers["utilisation"] == made.numbers["share_compute"] == pytest.approx(0.6)
    shares = [value or 0.0 for name, value in made.numbers.items() if name.startswith("share_")]
    assert sum(shares) + (made.numbers["residual"] or 0.0) == pytest.approx(1.0)
    assert made.numbers["residual"] == pytest.approx(0.01)


def test_bytes_are_those_of_a_round_and_member() -> None:
    counted = made_of(template(), seen(member(), member()), LAB).bytes
    assert counted is not None
    assert (counted.payload_sent, counted.ledger_sent, counted.interface_sent, counted.wire_sent) == (1000, 1100, 2000, 1000)


@pytest.mark.parametrize(
    ("spoiled", "why"),
    [
        (seen(member(compute=5.8), member(compute=5.8)), "residual at most 2 %"),
        (seen(member(compute=6.4), member(compute=6.4)), "residual at most 2 %"),  # more than the wall is no explanation either
        (seen(member(exchange=3.5, around=-0.4), member(exchange=3.5, around=-0.4)), "no phase is counted twice"),
        (seen(member(), member(rounds=3)), "every round averaged"),
        (seen(member(), member(), checked=("a", "b")), "replicas hold the same bits"),
    ],
)
def test_what_does_not_hold_fails_the_point(spoiled: Seen, why: str) -> None:
    made = made_of(template(), spoiled, LAB)
    assert (made.status, made.reason) == ("failed", f"not so: {why}")


def test_the_table_says_which_links_are_simulated_and_what_failed() -> None:
    good = made_of(template(), seen(member(), member()), LAB)
    bad = made_of(template(), seen(member(), member(rounds=3)), LAB)
    link = Link("simulated", Asked("20 Mbit/s"))
    settings: dict[str, Any] = {"codec": "none", "overlap": 0}
    records = [
        Record(**{name: getattr(one, name) for name in one.__struct_fields__} | {"settings": settings, "link": link}) for one in (good, bad)
    ]
    shown = command.table(records)
    assert list(shown.columns[1].cells) == ["20 Mbit/s, simulated"] * 2
    assert list(shown.columns[8].cells) == ["1.00%", "1.00% (failed)"]


# -- real runs


@needs_lab
def test_two_rounds_in_the_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = Point(1000, 5, "blockmax64")
    monkeypatch.setattr(bench, "RTT_MS", 1.0)
    monkeypatch.setattr(Point, "topology", property(lambda self: Topology.uniform(MEMBERS, rtt_ms=2)))  # nothing to be off from
    with Bench(Enough(3, 0.1), pace_ms=5) as here:
        assert here.simulated == ""
        made = next(iter(here.due([point]))).measure()
    assert made.link is not None
    assert (made.link.lab, made.key) == ("namespaces", point.key)
    assert made.checks["replicas hold the same bits"]
    assert made.checks["every round averaged"]
    assert made.bytes is not None
    assert (made.bytes.interface_sent or 0) > (made.bytes.ledger_sent or 0) > (made.bytes.payload_sent or 0) > 1000


def test_where_regions_cannot_be_links_are_simulated_and_labelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: Topology) -> None:
        raise LabError("no root here; run as root")

    points = [Point(1000, 2, "blockmax64", overlap=1), Point(1000, 2, "blockmax64", congestion="bbr")]
    monkeypatch.setattr(bench, "open_lab", refuse)
    monkeypatch.setattr(command, "quick", lambda: points)
    results = tmp_path / "r.jsonl"
    with suppress(SystemExit):  # on a busy machine the residual of so short a run may be large
        command.main(["--quick", "--rounds", "3", "--pace-ms", "5", "--results", str(results)])
    assert "links are simulated inside one process: no root here; run as root" in capsys.readouterr().err
    made, absent = read(results)
    assert made.link is not None
    assert (made.link.lab, made.link.asked.rtt_ms, made.key) == ("simulated", 80.0, f"{points[0].key} simulated")
    assert made.checks["replicas hold the same bits"]
    assert made.checks["every round averaged"]
    assert made.seconds["sync"].n == 3
    assert made.bytes is not None
    assert made.bytes.interface_sent is None
    assert (made.bytes.wire_sent or 0) > (made.bytes.payload_sent or 0)
    assert (absent.status, absent.reason) == ("absent", "a simulated link knows no bbr: no root here; run as root")
