"""Results as JSON lines: one line a run, with the setting, the commit and the versions that made it."""

import json
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from shutil import which
from statistics import median
from typing import Any

import torch

from benchmarks.training.setting import Run

RESULTS = Path(__file__).resolve().parents[1] / "results"


def read_json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def append(path: Path, run: Run, seen: dict[str, Any]) -> dict[str, Any]:
    """Write one run's record at the end of `path` and return it."""
    record = {"key": run.setting.key} | asdict(run) | seen | provenance()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
    return record


def read(path: Path) -> list[dict[str, Any]]:
    """All records of a file; none when there is no file. A line cut off by a crash is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def same_run(record: dict[str, Any], run: Run) -> bool:
    """Whether a record is of this very run, whatever its label."""
    wanted = asdict(run) | {"setting": None}
    return record["key"] == run.setting.key and all(record[name] == value for name, value in wanted.items() if value is not None)


def middle(values: Iterable[float]) -> tuple[float, float, float]:
    """Median, least and greatest."""
    values = sorted(values)
    return median(values), values[0], values[-1]


def provenance() -> dict[str, Any]:
    """What made a number: time, commit, versions, machine."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def commit() -> str:
    """The checkout's commit, marked when files differ from it."""
    root = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str:
        if which("git") is None:
            return ""
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False).stdout.strip()

    return (git("rev-parse", "--short=12", "HEAD") or "uncommitted") + ("+changes" if git("status", "--porcelain") else "")
