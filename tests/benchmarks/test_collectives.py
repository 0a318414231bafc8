import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.collectives import __main__ as command
from benchmarks.collectives import bench
from benchmarks.collectives.account import bandwidths, between, seconds, where_bytes_went
from benchmarks.collectives.bench import Ask, Bench, made_of
from benchmarks.collectives.parts import CodedRounds, numbers
from benchmarks.collectives.rows import MB, Row, grid
from benchmarks.collectives.show import bytes_moved, ledger_check, speed
from benchmarks.lab.namespaces import LabError
from benchmarks.lab.topology import Topology
from benchmarks.lab.wan import Lab, Place, Traffic, Void
from benchmarks.suite import kept
from benchmarks.suite.counters import Counts
from benchmarks.suite.fleet import Seen
from benchmarks.suite.record import Bytes, Percentiles, Record, read
from benchmarks.suite.runs import RunError, not_measured, run_all
from thinwire import LocalGroup

PLACES = (Place("a", "10.0.0.1"), Place("b", "10.0.0.2"))


def lab() -> Lab:
    return Lab("namespaces", Topology.uniform(2), PLACES, "wan0", 1)


def texts(table: Table) -> str:
    console = Console(width=300, record=True, file=StringIO())
    console.print(table)
    return console.export_text()


@pytest.mark.parametrize(
    ("group", "codec", "moved"),
    [
        ("torch", "none", 2 * 3 / 4 * MB),
        ("gloo", "none", 2 * 3 / 4 * MB),
        ("local", "none", 3 * MB),
        ("torch", "bf16", 3 * MB / 2),
        ("torch", "blockmax", 3 * 60 * 64),
    ],
)
def test_what_has_to_move_follows_the_factors_of_nccl_tests(group: str, codec: str, moved: float) -> None:
    assert Row(group, codec, MB, 4).moved_nbytes == moved


def test_a_codec_that_saves_nothing_is_an_all_reduce() -> None:
    assert Row("torch", "int8", 1024, 4).collective == "all_reduce"
    assert Row("torch", "int8", MB, 4).collective == "all_gather"


@pytest.mark.parametrize("bad", [("pigeon", "none", 4, 2), ("torch", "none", 5, 2), ("torch", "none", 4, 1)])
def test_rows_that_make_no_sense_are_refused(bad: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"give|choose"):
        Row(*bad)


def test_rows_of_one_world_come_together() -> None:
    worlds = [(row.group, row.members) for row in grid(("torch", "gloo", "local"), ("none", "int8"), (1024, 4096), (2, 4))]
    assert len(worlds) == 3 * 2 * 2 * 2
    assert sum(a != b for a, b in pairwise(worlds)) == 3 * 2 - 1


def test_a_round_takes_what_its_slowest_member_takes() -> None:
    laps = [
        {"encode": [1.0, 1.0], "transfer": [5.0, 2.0], "decode": [0.0, 0.0]},
        {"encode": [2.0, 0.0], "transfer": [3.0, 4.0], "decode": [0.0, 1.0]},
    ]
    took = seconds(laps)
    assert (took["encode"].p50, took["transfer"].p50, took["total"].p99) == (2.0, 5.0, 6.0)
    assert seconds([{"encode": [], "transfer": [], "decode": []}] * 2) == {}


def test_bandwidths_are_bytes_over_time() -> None:
    took = {name: Percentiles(s, s, s, 1) for name, s in (("total", 2.0), ("transfer", 0.5))}
    found = bandwidths(Row("torch", "none", 4 * MB, 4), took)
    assert found == {"algbw_gbs": 4 * MB / 2.0 / 1e9, "busbw_gbs": 1.5 * 4 * MB / 0.5 / 1e9}
    assert bandwidths(Row("torch", "none", 4 * MB, 4), {}) == {"algbw_gbs": None, "busbw_gbs": None}


def test_the_shares_of_the_wire_add_up_to_one() -> None:
    none = Traffic(*[0] * 8)
    # Two regions, two rounds: 100 packets of 1448 payload bytes and 50 acknowledgements each.
    one = Traffic(100 * 1500 + 50 * 52, 152_600, 150, 144_800, 50, 2600, 0, 0)
    wire = between([none, none], [one, one])
    assert (wire.sent, wire.acks) == (2 * 152_600, 100)
    counted = Bytes(ledger_sent=72_000, interface_sent=75_000, wire_sent=76_300)
    found = where_bytes_went(70_000, counted, 50.0, wire)
    assert found["header_share"] == pytest.approx(5200 / 152_600)
    assert found["rest_share"] == pytest.approx((72_400 - 72_000) / 76_300)
    assert sum(found[name] or 0 for name in ("wire_explained", "header_share", "ack_share", "rest_share")) == pytest.approx(1)
    assert found["explained"] == 72 / 75
    assert found["accounted"] == (72_000 + 50 * 52) / 75_000
    assert found["overhead"] == pytest.approx(75 / 70 - 1)


def test_where_nobody_counts_nothing_is_said() -> None:
    assert where_bytes_went(100, Bytes(ledger_sent=5), None, None) == {}


@pytest.mark.parametrize("codec", ["none", "int8", "dct-topk"])
def test_the_aggregate_is_checked_against_the_codecs_stages(codec: str) -> None:
    row = Row("local", codec, 64 * 1024, 2)
    members = LocalGroup.world(2)
    parts = [CodedRounds(row, member.rank, member) for member in members]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda part: part.prepare(), parts))
        seen = list(pool.map(lambda part: part.run(3), parts))
    assert [(s["committed"], len(s["laps"]["transfer"])) for s in seen] == [(3, 3)] * 2
    assert seen[0]["ledger"] > 3 * row.payload_nbytes
    checked = [part.check() for part in parts]
    assert checked[0]["right"] is True
    assert checked[0]["hash"] == checked[1]["hash"]
    assert parts[0].result is not None
    parts[0].result[-1] += 1e-3
    assert parts[0].check()["right"] is False
    for member in members:
        member.leave()


def test_members_bring_different_numbers() -> None:
    row = Row("torch", "none", 4096, 2)
    assert not torch.equal(numbers(row, 0), numbers(row, 1))


def seen(*, committed: int = 2, hashes: Sequence[str] = ("x", "x"), right: bool = True) -> Seen:
    laps = {"encode": [0.1] * committed, "transfer": [0.2] * committed, "decode": [0.0] * committed}
    members = [{"laps": laps, "committed": committed, "ledger": 3_200_000, "wire": [0, 0]}] * 2
    checked = [{"hash": name, "right": right if i == 0 else None} for i, name in enumerate(hashes)]
    none = Traffic(*[0] * 8)
    one = Traffic(3_400_000, 3_400_000, 2300, 3_250_000, 100, 5200, 0, 0)
    return Seen(2, members, [Counts(3_300_000, 3_310_000, 99, 4)] * 2, checked, ([none, none], [one, one]))


def template(row: Row) -> Record:
    return next(iter(Bench(Ask(Topology.uniform(2))).due([row]))).template


def test_a_record_holds_bytes_a_round_and_what_was_checked() -> None:
    row = Row("torch", "none", 1_600_000, 2)
    made = made_of(row, template(row), seen(), lab())
    assert made.status == "ok"
    assert made.bytes == Bytes(1_600_000, 1_600_000, 1_650_000, 1_655_000, 1_700_000, 1_700_000, "wan0 in each worker's network namespace")
    assert (made.numbers["success"], made.numbers["retransmitted"]) == (1.0, 2.0)
    assert "1,650,000" in texts(bytes_moved([made]))
    assert "100%" in texts(speed([made]))
    assert "at least 96.97%" in ledger_check([made])[0]
    assert not_measured([made]) == []


@pytest.mark.parametrize(
    ("spoiled", "why"),
    [
        (seen(right=False), "not so: aggregate is right"),
        (seen(hashes=("x", "y")), "not so: members hold the same bits"),
        (seen(committed=0), "no round committed"),
    ],
)
def test_a_row_that_went_wrong_is_recorded_as_failed(spoiled: Seen, why: str) -> None:
    row = Row("torch", "none", 1_600_000, 2)
    made = made_of(row, template(row), spoiled, lab())
    assert (made.status, made.reason) == ("failed", why)
    assert why in not_measured([made])[0]


def test_after_a_death_the_next_row_has_new_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dead(nullcontext[Any]):
        made = ended = 0

        def __enter__(self) -> "Dead":
            Dead.made += 1
            return self

        def __exit__(self, *_: object) -> None:
            Dead.ended += 1

        def ask(self, *_: object) -> Seen:
            raise RunError(f"worker {Dead.made} ended with -9: it said nothing")

    monkeypatch.setattr(bench, "Fleet", lambda *_: Dead())
    results = tmp_path / "r.jsonl"
    with Bench(Ask(Topology.uniform(2))) as here:
        run_all(here.due([Row("local", "none", 4, 2), Row("local", "int8", 4096, 2)]), results, Console(quiet=True), keep=False)
    assert [(r.status, r.reason) for r in read(results)] == [
        ("failed", "worker 1 ended with -9: it said nothing"),
        ("failed", "worker 2 ended with -9: it said nothing"),
    ]
    assert Dead.ended == 2


@pytest.mark.parametrize(("error", "status"), [(Void("off by 9 %"), "void"), (LabError("not root"), "absent")])
def test_a_link_that_is_not_there_is_recorded_once_tried(monkeypatch: pytest.MonkeyPatch, error: Exception, status: str) -> None:
    tried = []

    def fail(*_: object) -> None:
        tried.append(1)
        raise error

    monkeypatch.setattr(kept, "open_fleet", fail)
    with Bench(Ask(Topology.uniform(2, mbit=100, rtt_ms=20))) as here:
        made = [due.measure() for due in here.due([Row("torch", "none", 4, 2), Row("gloo", "none", 4, 2)])]
    assert [(r.status, r.reason) for r in made] == [(status, str(error))] * 2
    assert len(tried) == 1


def test_what_does_not_fit_is_recorded_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "available_nbytes", lambda: 100 * MB)
    due = next(iter(Bench(Ask(Topology.uniform(4))).due([Row("torch", "none", 16 * MB, 4)])))
    made = due.measure()
    assert made.status == "absent"
    assert "GB of memory" in (made.reason or "")


def test_what_takes_too_long_on_the_link_is_recorded_as_absent() -> None:
    due = next(iter(Bench(Ask(Topology.uniform(4, mbit=1, rtt_ms=20))).due([Row("torch", "none", 16 * MB, 4)])))
    made = due.measure()
    assert (made.status, made.reason) == ("absent", "one round would take 201 s on this link, above --most-s 10")


def test_simulated_rows_say_which_link_they_simulate() -> None:
    link = Ask(Topology.uniform(4)).asked(Row("simulated", "none", 4, 4))
    assert (link.lab, link.asked.up_mbit, link.asked.rtt_ms) == ("simulated", 100.0, 20.0)
    assert Ask(Topology.uniform(4, mbit=5, rtt_ms=80)).asked(Row("simulated", "none", 4, 4)).asked.up_mbit == 5.0


@pytest.mark.parametrize("words", [["--groups", "pigeon"], ["--codecs", "nonsense"], ["--link", "fast"], ["--topology", "nowhere"]])
def test_options_that_cannot_be_name_the_remedy(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(words)
    assert re.search(r"choose|known|give", capsys.readouterr().err)


@pytest.mark.slow
def test_threads_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--groups", "local", "simulated", "--codecs", "none", "blockmax", "--sizes", "4096", "--members", "2", "--rounds", "3"]
    command.main([*words, "--link", "1000:1", "--results", str(tmp_path / "r.jsonl")])
    made = read(tmp_path / "r.jsonl")
    assert [(r.method, r.status) for r in made] == [("local", "ok")] * 2 + [("simulated", "ok")] * 2
    assert all(all(r.checks.values()) and r.numbers["success"] == 1 for r in made)
    assert made[2].bytes is not None
    assert (made[2].bytes.wire_sent or 0) > (made[2].bytes.ledger_sent or 0) > 4096
    assert "simulated" in capsys.readouterr().out


@pytest.mark.slow
def test_processes_end_to_end(tmp_path: Path) -> None:
    words = ["--groups", "torch", "gloo", "--codecs", "none", "int8", "--sizes", "65536", "--members", "2", "--rounds", "3"]
    command.main([*words, "--results", str(tmp_path / "r.jsonl")])
    made = read(tmp_path / "r.jsonl")
    assert [(r.method, r.status) for r in made] == [("torch", "ok")] * 2 + [("gloo", "ok")] * 2
    assert all(r.bytes is not None and (r.bytes.interface_sent or 0) > r.numbers["moved_nbytes"] for r in made)  # type: ignore[operator]
