"""Results of the sweep as JSON lines: one line a run, with the setting, the commit and the versions that made it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from msgspec.structs import asdict as fields_of

from benchmarks.suite.record import Made
from benchmarks.training.setting import Run


def append(path: Path, run: Run, seen: dict[str, Any]) -> dict[str, Any]:
    """Write one run's record at the end of `path` and return it."""
    record = {"key": run.setting.key} | asdict(run) | seen | fields_of(Made.now())
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
    wanted = {"key": run.setting.key, "seed": run.seed, **run.sizes}
    return all(record[name] == value for name, value in wanted.items())
