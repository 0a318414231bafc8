"""Start the workers of a run, wait for them, and make one record of what they saw."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.training.lab import Lab
from benchmarks.training.record import read_json
from benchmarks.training.setting import Run

ROOT = Path(__file__).resolve().parents[2]
TAIL = 2000  # characters of a failed worker's output worth showing


class WorkerError(RuntimeError):
    """A worker failed; the message holds the end of its output."""


def launch(run: Run, lab: Lab) -> dict[str, Any]:
    """One record: losses, bytes sent and CPU seconds of each worker, and whether all replicas hold the same bits.

    Raises `WorkerError` when a worker fails; the others are ended first.
    """
    workers = 1 if run.setting.method == "alone" else run.workers
    with tempfile.TemporaryDirectory(prefix="thinwire-run-") as folder:
        results = [Path(folder) / f"{rank}.json" for rank in range(workers)]
        logs = [Path(folder) / f"{rank}.log" for rank in range(workers)]
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(workers):
                processes.append(_start(run, lab, rank, workers, results[rank], logs[rank]))
            _wait(processes, logs)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        return _record([read_json(path) for path in results], lab)


def _start(run: Run, lab: Lab, rank: int, workers: int, result: Path, log: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "benchmarks.training.worker", run.dump(), lab.interface, str(result)]
    env = os.environ | {
        "RANK": str(rank),
        "WORLD_SIZE": str(workers),
        "LOCAL_RANK": "0",
        "MASTER_ADDR": lab.address,
        "MASTER_PORT": str(lab.port),
        "GLOO_SOCKET_IFNAME": lab.interface,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
    }
    with log.open("wb") as output:
        return subprocess.Popen([*lab.prefixes[rank], *words], env=env, cwd=ROOT, stdout=output, stderr=output)


def _wait(processes: list[subprocess.Popen[bytes]], logs: list[Path]) -> None:
    while any(process.poll() is None for process in processes):
        for rank, process in enumerate(processes):
            if process.poll():
                raise WorkerError(f"worker {rank} ended with {process.returncode}:\n{logs[rank].read_text()[-TAIL:]}")
        time.sleep(0.1)
    for rank, process in enumerate(processes):
        if process.returncode:
            raise WorkerError(f"worker {rank} ended with {process.returncode}:\n{logs[rank].read_text()[-TAIL:]}")


def _record(seen: list[dict[str, Any]], lab: Lab) -> dict[str, Any]:
    first = seen[0]
    return {
        "loss": sum(worker["loss"] for worker in seen) / len(seen),
        "sent": sum(worker["sent"] for worker in seen) // len(seen) // lab.share,
        "sent_each": [worker["sent"] // lab.share for worker in seen],
        "counted_by": lab.counted_by,
        "cpu_s": sum(worker["cpu_s"] for worker in seen) / len(seen),
        "wall_s": max(worker["wall_s"] for worker in seen),
        "replicas_equal": len({worker["sha256"] for worker in seen}) == 1,
        "sha256": first["sha256"],
    } | {name: first[name] for name in ("rounds", "nothing_averaged", "payload_sent", "wire_sent", "sync_s") if name in first}
