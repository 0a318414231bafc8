"""The GPU's benchmark where there is no GPU: every path in Triton's interpreter, and that its comparison of bits can fail."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.kernels import gpu, gpu_table

pytest.importorskip("triton")

ROWS = [
    *("int8 quantise", "int4 pack", "fp4 pack", "fp8 pack", "sign pack", "int8 to float32", "DCT 64 x 64", "top-k 32 of 4096"),
    *("block-max 64", "fused encode", "fused encode, block-max sign", "fused encode, DCT block-max vote", "fused decode, W=8"),
    *("mean of 8 int8", "check of 8 payloads"),
]


def run(*words: str, interpret: str = "0") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.kernels.gpu", *words]
    environment = os.environ | {"TRITON_INTERPRET": interpret, "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=gpu.ROOT, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
def test_a_dry_run_compares_bits_and_fills_every_row(tmp_path: Path) -> None:
    before, path = gpu.RESULTS.exists(), tmp_path / "gpu.json"
    done = run("--interpret", "--results", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(path.read_text())
    assert {"torch", "triton", "commit", "device", "copy", "elements", "judge", "seconds"} <= set(record)
    assert [row["operation"] for row in record["rows"]] == ROWS
    for row in record["rows"]:
        assert row["ms"] > 0
        assert "met" not in row  # the interpreter's time is nobody's
        assert {name for name, peer in row["peers"].items() if "ms" not in peer} == set()
    assert {"int8, huge", "dct-topk32-int8", "fp4"} <= set(record["equal"]["codecs"])
    assert record["equal"]["compared"] > 200
    assert (record["equal"]["differences"], record["equal"]["not checked"]) == ([], [])
    assert "says nothing about speed" in done.stdout
    assert all(name in done.stdout for name in ROWS)
    shown = run("--show", "--markdown", "--results", str(path)).stdout
    assert shown.count("\n| ") == len(ROWS) + 2
    assert gpu.RESULTS.exists() == before


@pytest.mark.slow
def test_a_bit_that_differs_is_found_and_named() -> None:
    done = run("--only", "fp4", "--corrupt", interpret="1")
    assert done.returncode == 1
    assert "DIFFERENT: fp4, rows of trouble: the payload differs from byte" in done.stdout


@pytest.mark.slow
def test_what_there_was_no_time_for_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    done = run("--interpret", "--budget", "0", "--only", "int4", "--results", str(path))
    record = json.loads(path.read_text())
    assert record["equal"]["not checked"] == ["int4"]
    assert "ms" not in record["rows"][0]
    assert "not measured" in done.stdout


def test_without_a_gpu_it_says_what_to_do() -> None:
    done = run()
    assert done.returncode != 0
    assert done.stderr == "error: no GPU here; --interpret goes through everything on the CPU and measures nothing\n"


def test_a_peer_or_a_kernel_that_fails_stays_in_the_table() -> None:
    class Row:
        name, goal = "o", 2.0

        @staticmethod
        def ready(device: str, elements: int) -> Any:
            raise RuntimeError("out of memory\nand more")

    made = gpu.Run(gpu.parsed([]), "cpu")
    made.record["elements"], told = 8, {"operation": "o", "floor": 1.0, "goal": 2.0, "peers": {}}
    made.record["rows"].append(told)
    gpu.time_row(made, Row(), told)
    told["peers"]["DeMo"] = {}
    gpu.timed(made, lambda: torch.zeros(2) + torch.zeros(3), told["peers"]["DeMo"])
    assert gpu_table.cells(told)[1] == "RuntimeError: out of memory"
    assert "DeMo: RuntimeError: The size of tensor" in gpu_table.cells(told)[-1]
    assert made.failed


def test_a_row_within_its_goal_is_met() -> None:
    row = {"operation": "o", "ms": 3.0, "floor": 2.0, "goal": 1.25, "met": False, "peers": {"DeMo": {"ms": 30.0}}}
    assert gpu_table.cells(row) == ("o", "3", "2", "1.50 (1.25)", "NO", "10.0 DeMo 30")
