"""A swarm of homes: routers let nobody in, and still all members count."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.lab import namespaces
from benchmarks.lab.namespaces import LabError
from benchmarks.lab.topology import Region, Topology, Way
from benchmarks.lab.wan import open_lab
from tests.benchmarks.test_lab import needs_lab

MEMBER = [sys.executable, "-m", "tests.benchmarks.home_member"]
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@needs_lab
def test_two_members_behind_home_routers_meet_through_one_that_is_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    try:
        namespaces.refuse_if_impossible(nat=True)
    except LabError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    regions = (Region("site", 100, 100), Region("home-a", 100, 100, nat=True), Region("home-b", 100, 100, nat=True))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with open_lab(Topology("homes", regions, Way(20.0))) as lab:
        members = [lab.start(0, MEMBER, cwd=ROOT, **pipes)]
        peer = members[0].stdout.readline().strip()
        assert lab.address in peer
        members += [lab.start(i, [*MEMBER, peer], cwd=ROOT, **pipes) for i in (1, 2)]
        told = [member.stdout.readline() for member in members[1:]]
        assert all("/192.168." in address for address in told)
        assert [member.stdout.readline() for member in members] == ["together\n"] * 3
        for member in members:
            member.communicate("go\n", timeout=60)
