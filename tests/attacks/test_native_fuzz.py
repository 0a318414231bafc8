"""Bad input for the C++ library under AddressSanitizer and UBSan (csrc/fuzz); `make fuzz` runs a million cases, this some of them."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    # Whatever the sanitizers are told elsewhere, here they must stop at the first finding.
    env = {name: value for name, value in os.environ.items() if not name.endswith("SAN_OPTIONS")}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="module")
def fuzzer() -> str:
    made = run("make", "--silent", f"--jobs={os.cpu_count()}", "-C", "csrc/fuzz")
    assert made.returncode == 0, f"csrc/fuzz needs make and a C++ compiler:\n{made.stdout}{made.stderr}"
    return str(ROOT / "build" / "fuzz" / "tw_fuzz")


def test_only_error_codes_come_back(fuzzer: str) -> None:
    done = run(fuzzer, "cases=60000", "seed=1")
    assert done.returncode == 0, done.stderr[-6000:]
    assert "60000 cases" in done.stdout
    assert "no finding" in done.stdout


def test_a_case_can_be_run_again(fuzzer: str) -> None:
    assert run(fuzzer, "case=4711", "seed=1").returncode == 0
