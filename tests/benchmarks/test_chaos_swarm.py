"""Chaos over the real swarm: libp2p daemons, a DHT, processes that die."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.suite.record import OK, read


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("events", "members", "seed"), [(50, 4, 0)])
def test_a_swarm_survives_what_the_plan_does_to_it(events: int, members: int, seed: int, tmp_path: Path) -> None:
    results = tmp_path / "chaos.jsonl"
    command = [sys.executable, "-m", "thinwire.cli", "chaos", "--events", str(events), "--members", str(members), "--seed", str(seed)]
    done = subprocess.run([*command, "--results", str(results)], capture_output=True, text=True, timeout=1400, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    (record,) = read(results)
    assert record.status == OK
    assert record.numbers["divergent"] == record.numbers["hangs"] == record.numbers["left_behind"] == 0
    assert (record.numbers["rounds"] or 0) > events
