"""The smoke suite on what is installed here: the digests that it compares other Pythons and torches with are those of this code."""

import json
import sys
from importlib.metadata import version

import pytest

from release import smoke
from thinwire.kernels import native


@pytest.fixture
def levels() -> list[int]:
    before = native.isa()
    chosen = smoke.instruction_sets()
    native.set_isa(before)
    return chosen


def test_weights_and_payloads_are_those_of_the_golden_file(levels: list[int]) -> None:
    before = native.isa()
    found = smoke.digests(levels)
    native.set_isa(before)
    assert found == json.loads(smoke.GOLDEN.read_text())


def test_a_checkpoint_in_mid_window_changes_nothing() -> None:
    smoke.resumes()


def test_processes_end_like_threads() -> None:
    golden = json.loads(smoke.GOLDEN.read_text())
    told = smoke.ranks()
    assert len(told) == smoke.MEMBERS
    smoke.over_gloo(told, golden)
    with pytest.raises(SystemExit, match="ranks of DiLoCo over gloo end unlike threads"):
        smoke.over_gloo(told, golden | {"DiLoCo, together": "another"})


def test_another_place_and_another_version_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="expected it in"):
        smoke.installed(version("thinwire"))
    monkeypatch.setattr(sys, "prefix", "/")
    smoke.installed(version("thinwire"))
    with pytest.raises(SystemExit, match=r"its wheel is 9\.9\.9"):
        smoke.installed("9.9.9")
