"""Find and read the results: files of records, or a folder with a file a suite; and the table of the kernels."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.suite.record import Record, ResultsError, read

MEASURE = "`thinwire bench all --quick` measures some"


@dataclass(frozen=True)
class Found:
    """The newest record of every run, the kernels' tables, the files they are from, and what a reader has to know of these."""

    records: tuple[Record, ...]
    kernels: tuple[dict[str, Any], ...]
    files: tuple[str, ...]
    notes: tuple[str, ...]

    def of(self, suite: str) -> list[Record]:
        return [record for record in self.records if record.suite == suite]


def gather(paths: Iterable[Path]) -> Found:
    """Everything that `paths` hold; of two records of one run the one read last.

    Raises `ResultsError` when there is nothing, or something that is no result.
    """
    records: dict[tuple[str, str], Record] = {}
    kernels: list[dict[str, Any]] = []
    files: list[str] = []
    notes: list[str] = []
    for path in paths:
        found, left_out = _files(path)
        if left_out:
            notes.append(f"Of {path} these files were left out, they hold no records: {', '.join(left_out)}.")
        for file in found:
            files.append(str(file))
            if file.suffix == ".json":
                kernels.append(kernels_table(file))
            else:
                records.update({(record.suite, record.key): record for record in read(file)})
                if cut_off(file):
                    notes.append(f"The last line of {file} is cut off, as after a crash, and was left out; the run it tells of is missing.")
    if not records and not kernels:
        raise ResultsError(f"no results in {', '.join(map(str, paths))}; {MEASURE}")
    return Found(tuple(records.values()), tuple(kernels), tuple(files), tuple(notes))


def _files(path: Path) -> tuple[list[Path], list[str]]:
    """The result files of a folder, and the names of others that look like it; a file is itself."""
    if path.is_dir():
        every = sorted(path.glob("*.jsonl"))
        ours = [file for file in every if _holds_records(file)]
        return [*ours, *sorted(path.glob("kernels*.json"))], [file.name for file in every if file not in ours]
    if not path.exists():
        raise ResultsError(f"there is no {path}; give a file or a folder of results ({MEASURE})")
    return [path], []


def _holds_records(file: Path) -> bool:
    """Whether any line names a suite: a folder may hold other things in JSON lines; a broken line within ours is an error, not another."""
    try:
        return any(b'"suite":' in line for line in file.read_bytes().split(b"\n"))
    except OSError as error:
        raise ResultsError(f"cannot read {file}: {error.strerror or error}") from None


def cut_off(file: Path) -> bool:
    """Whether the last line has no end, and is none."""
    last = file.read_bytes().rpartition(b"\n")[2]
    try:
        return bool(last.strip()) and not msgspec.json.decode(last, type=Record)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return True


def kernels_table(file: Path) -> dict[str, Any]:
    """The results of the suite `kernels`. Raises `ResultsError`."""
    try:
        found: dict[str, Any] = json.loads(file.read_text())
        missing = [name for name in ("rows", "cpu", "torch", "commit") if name not in found]
    except OSError as error:
        raise ResultsError(f"cannot read {file}: {error.strerror or error}") from None
    except json.JSONDecodeError as error:
        raise ResultsError(f"{file}, line {error.lineno} is no JSON: {error.msg}; measure it again with `thinwire bench kernels`") from None
    except (UnicodeDecodeError, TypeError):
        missing = ["a table"]
    if missing:
        raise ResultsError(f"{file} is no table of kernels: it lacks {', '.join(missing)}; measure it again with `thinwire bench kernels`")
    return found
