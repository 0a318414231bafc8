"""Results files: a line a run, whatever happens to the disk, to the process or to the file."""

import resource
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.suite.record import ResultsError, append, read
from benchmarks.suite.runs import Due, run_all
from tests.benchmarks.made_up import record


def labels(path: Path) -> list[str]:
    return [one.label for one in read(path)]


def test_a_line_that_a_crash_cut_off_is_taken_away_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    for name in ("a", "b"):
        append(path, record("scaling", name, label=name))
    path.write_bytes(path.read_bytes()[:-30])
    assert labels(path) == ["a"]
    append(path, record("scaling", "c", label="c"))
    assert labels(path) == ["a", "c"]


def test_a_last_line_that_lacks_only_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    append(path, record("scaling", "a", label="a"))
    path.write_bytes(path.read_bytes()[:-1])
    append(path, record("scaling", "b", label="b"))
    assert labels(path) == ["a", "b"]


def test_what_a_full_disk_took_of_a_line_is_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    append(path, record("scaling", "a", label="a"))
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, hard))  # some of the line fits
    try:
        with pytest.raises(ResultsError, match=r"^cannot write .*r\.jsonl: No space left on device; free some space or give another"):
            append(path, record("scaling", "b"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before


def test_a_device_is_no_results_file() -> None:
    def measure() -> None:
        raise AssertionError("measured")

    full = Path("/dev/full")
    with pytest.raises(ResultsError, match=r"^cannot write /dev/full: it is no regular file; .* give another --results$"):
        run_all([Due(record("scaling", "a"), measure)], full, Console(quiet=True), keep=False)  # type: ignore[arg-type]
    with pytest.raises(ResultsError, match=r"^cannot read /dev/full: it is no regular file"):
        read(full)  # which never ends


def test_keep_does_not_go_on_from_a_file_with_an_edited_line(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    append(path, record("scaling", "a"))
    path.write_text(path.read_text().replace('"ok"', '"ok') + path.read_text())
    with pytest.raises(ResultsError, match=r"r\.jsonl, line 1 is no record: .*; mend or delete that line$"):
        run_all([], path, Console(quiet=True), keep=True)
