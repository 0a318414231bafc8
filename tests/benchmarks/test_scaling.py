import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lab.topology import Topology
from benchmarks.lab.wan import Lab, Place, Void
from benchmarks.scaling import __main__ as command
from benchmarks.scaling.bench import Bench, made_of
from benchmarks.scaling.rows import GLOO, Row, crossing, gathered_nbytes, payload_nbytes, ring_nbytes
from benchmarks.suite import kept
from benchmarks.suite.counters import Counts
from benchmarks.suite.fleet import Enough, Seen
from benchmarks.suite.record import Record, read

PHASES = ("encode", "exchange", "decode", "apply")


def template(row: Row) -> Record:
    return next(iter(Bench(Topology.uniform(4), Enough()).due([row]))).template


def lab() -> Lab:
    return Lab("namespaces", Topology.uniform(4), tuple(Place(f"r{i}", "10.0.0.1") for i in range(4)), "wan0", 1)


def seen(*, hashes: tuple[str, ...] = ("x", "x"), fail: bool = False) -> Seen:
    def member(exchange_s: float) -> dict[str, Any]:
        rounds = [] if fail else [dict.fromkeys(PHASES, 0.0) | {"exchange": exchange_s, "encode": 0.5}] * 3
        return {"seconds": rounds, "ledger": 3 * 40_000}

    checked = [{"hash": name} for name in hashes] + [None, None]
    return Seen(3, [member(1.0), member(2.0), None, None], [Counts(3 * 50_000, 3 * 60_000)] * 4, checked, ([], []))


@pytest.mark.parametrize("payload", [1_000_000, 200_000, 15_000])
def test_from_the_crossing_on_the_all_gather_brings_more_than_the_ring(payload: int) -> None:
    n = crossing(payload, 4_000_000)
    for peers, larger in ((int(n) - 1, False), (int(n) + 2, True)):
        assert (gathered_nbytes(peers, payload) > ring_nbytes(peers, 4_000_000)) == larger


def test_the_payload_is_that_of_the_real_layout() -> None:
    assert payload_nbytes("none") == payload_nbytes(GLOO) == 4 * 1_334_080
    assert payload_nbytes("int8") < payload_nbytes("none") / 3.9


def test_rows_that_a_worker_has_no_part_in_leave_it_out() -> None:
    made = made_of(Row("blockmax", 2), template(Row("blockmax", 2)), seen(), lab())
    assert (made.status, made.members) == ("ok", 2)
    assert made.seconds["sync"].p50 == 2.5
    assert made.bytes is not None
    assert (made.bytes.interface_sent, made.bytes.interface_received, made.bytes.ledger_sent) == (50_000, 60_000, 40_000)
    assert made.numbers["explained"] == 0.8
    assert [str(cell) for cell in command.table([made]).columns[6].cells] == ["546"]


@pytest.mark.parametrize(("spoiled", "why"), [(seen(hashes=("x", "y")), "different bits"), (seen(fail=True), "no round committed")])
def test_a_row_that_went_wrong_is_recorded_as_failed(spoiled: Seen, why: str) -> None:
    made = made_of(Row("int8", 2), template(Row("int8", 2)), spoiled, lab())
    assert made.status == "failed"
    assert why in (made.reason or "")


def test_a_void_link_is_recorded_and_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried = []

    def fail(*_: object) -> None:
        tried.append(1)
        raise Void("r0 to r1: 3 ms too slow")

    monkeypatch.setattr(kept, "open_fleet", fail)
    words = ["--peers", "2", "--codecs", "int8", "--link", "100:20", "--results", str(tmp_path / "r.jsonl")]
    with pytest.raises(SystemExit) as caught:
        command.main(words)
    assert caught.value.code == 1
    command.main([*words, "--show"])  # which old trouble does not fail
    assert [(r.status, r.method) for r in read(tmp_path / "r.jsonl")] == [("void", GLOO), ("void", "int8")]
    assert len(tried) == 1


@pytest.mark.parametrize("words", [["--peers", "1"], ["--codecs", "nonsense"], ["--link", "fast"]])
def test_options_that_cannot_be_name_the_remedy(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(words)
    assert re.search(r"known|give", capsys.readouterr().err)


@pytest.mark.slow
def test_two_peers_end_to_end(tmp_path: Path) -> None:
    command.main(["--peers", "2", "--codecs", "blockmax", "--rounds", "3", "--results", str(tmp_path / "r.jsonl")])
    gloo, ours = read(tmp_path / "r.jsonl")
    assert (gloo.status, ours.status) == ("ok", "ok")
    assert gloo.bytes is not None
    assert ours.bytes is not None
    assert (gloo.bytes.interface_sent or 0) > 50 * (ours.bytes.interface_sent or 0)
