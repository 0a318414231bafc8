"""The gate's benchmark counts what it says it counts."""

import os

import torch

from benchmarks.rl.gate import Row, line, measured, on_wire, rows
from examples.rl.tiny import Tiny
from thinwire.comms.swarm.blobs import CHUNK_NBYTES


def test_a_row_counts_payloads_and_what_they_take_in_a_swarm() -> None:
    torch.set_num_threads(1)
    start = Tiny().module.state_dict()
    found = measured(Row(1e-6, 1, "int8", True, updates=2), start, groups=1)
    numel = sum(value.numel() for value in start.values())
    assert found.same
    assert found.accuracy is None
    assert found.payload == found.int8 == 2 * -(-numel // 1024) * 1028
    assert len(found.rounds) == 2
    assert sum(found.rounds) == found.wire < found.payload / 4
    assert found.ddp == 4 * numel * 2
    assert "int8 visible" in line(found)


def test_bytes_on_the_wire_are_those_of_chunks() -> None:
    assert on_wire(os.urandom(CHUNK_NBYTES + 5)) == CHUNK_NBYTES + 5
    assert on_wire(bytes(10)) == 10
    assert 0 < on_wire(bytes(CHUNK_NBYTES + 5)) < 200


def test_small_learning_rates_come_first_and_a_large_one_is_compared() -> None:
    assert [row.name for row in rows(quick=True)] == [row.name for row in rows(quick=False)][:4]
    assert {row.visible for row in rows(quick=False) if row.lr == 3e-4} == {True, False}
