"""The swarm suite: what it refuses, and how it shows what was measured."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.suite.record import OK, Asked, Link, Made, Percentiles, Record
from benchmarks.suite.runs import RunError
from benchmarks.swarm import joins
from benchmarks.swarm.__main__ import Bench, Options, table


@pytest.mark.parametrize(
    ("given", "why"),
    [({"members": 1}, "at least two"), ({"codecs": ("nonsense",)}, "nonsense"), ({"link": "fast"}, "20:80"), ({"rounds": -1}, "above 0")],
)
def test_what_cannot_be_measured_is_refused(given: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Options(**given)  # type: ignore[arg-type]


def test_one_run_a_codec(tmp_path: Path) -> None:
    with Bench(Options(codecs=("dct-topk", "int8"), members=3, results=tmp_path / "swarm.jsonl")) as bench:
        due = list(bench.due())
    assert [each.template.key for each in due] == [f"{c}, 3 members, 20 Mbit/s, 80 ms, cubic" for c in ("dct-topk", "int8")]


def test_the_table_shows_what_was_measured() -> None:
    record = Record(
        suite="swarm",
        key="k",
        status=OK,
        made=Made.now(),
        method="dct-topk",
        members=4,
        link=Link("namespaces", Asked("20 Mbit/s, 80 ms, cubic", up_mbit=20.0, down_mbit=20.0, rtt_ms=80.0)),
        seconds={"round": Percentiles.of([0.25, 0.5])},
        numbers={"payload_nbytes": 23472.0, "floor_s": 0.188, "over_floor": 1.75},
        checks={"replicas hold the same bits": True},
    )
    out = io.StringIO()
    Console(file=out, width=160).print(table([record]))
    assert all(word in out.getvalue() for word in ("dct-topk", "23,472", "0.188", "0.500", "1.75", "yes"))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"members": 2}, "at least 3"),
        ({"joins": 0}, "joins is 0"),
        ({"codec": "nonsense"}, "nonsense"),
        ({"step_ms": -1.0}, "step_ms is -1"),
    ],
)
def test_joins_that_cannot_be_measured_are_refused(given: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        joins.Options(**given)  # type: ignore[arg-type]


def test_a_newcomer_has_to_share_a_round_and_its_bits_with_all_members() -> None:
    members = [{"7": "a", "8": "b"}, {"7": "a", "8": "b"}]
    assert joins.same_bits({"8": "b", "9": "c"}, members)
    assert not joins.same_bits({"8": "a"}, members)
    assert not joins.same_bits({"9": "c"}, members)


def test_what_joins_add_needs_steps_with_and_without() -> None:
    join, start = {"began": 0.0, "counted": 2.0, "ended": 3.0}, {"began": 4.0, "counted": 5.0, "ended": 6.0}
    with pytest.raises(RunError, match="ask for more --joins"):
        joins.added([(1.0, 0.1, 0)], [join], [start], 3)
    quiet, busy = [(9.0, 0.1, 0), (9.5, 0.1, 3)], [(1.0, 0.1, 0), (1.5, 0.1, 3), (4.5, 0.1, 0), (4.6, 0.1, 3)]
    with pytest.raises(RunError, match="has counted"):
        joins.added([*quiet, *busy], [join], [start], 3)
