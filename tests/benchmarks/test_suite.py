"""All suites one after the other, and how a suite ends."""

import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import pytest
import tyro
from rich.console import Console

from benchmarks.collectives import __main__ as collectives
from benchmarks.collectives.rows import GROUPS
from benchmarks.kernels import __main__ as kernels
from benchmarks.lab import __main__ as lab
from benchmarks.lab import fidelity
from benchmarks.lab.namespaces import LabError
from benchmarks.report import __main__ as pages
from benchmarks.scaling import __main__ as scaling
from benchmarks.suite import __main__ as everything
from benchmarks.suite import provenance
from benchmarks.suite.record import RESULTS, Bytes, Percentiles, Record, ResultsError, append, read
from benchmarks.suite.runs import Due, RunError, end, run_all
from benchmarks.suite.whole import write_whole
from benchmarks.training import options as training
from benchmarks.training.rows import COMPARED, ROWS
from benchmarks.utilisation import __main__ as utilisation
from tests.benchmarks.made_up import record
from thinwire.comms import CODECS

T = TypeVar("T")


def test_all_runs_every_suite_and_then_the_page(tmp_path: Path) -> None:
    started: list[list[str]] = []

    def start(words: list[str]) -> int:
        started.append(words)
        if words[:2] in (["bench", "kernels"], ["bench", "training"]):
            Path(words[-1]).write_text("")
        return 1 if words[:2] == ["bench", "scaling"] else 0

    code = everything.run_suites(everything.Options(quick=True, results=tmp_path), start)
    assert code == 1  # and yet the others ran
    assert [words[1] for words in started[:-1]] == list(everything.ORDER)
    assert all("--quick" in words and "--keep" not in words for words in started[:-1])
    page = str(tmp_path / "report.html")
    assert started[-1] == ["report", str(tmp_path / "training.jsonl"), str(tmp_path / "kernels.json"), "-o", page]


def test_a_suite_ends_with_the_command_that_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(everything.sys, "executable", "/bin/echo")  # says what would have been run
    read_end, write_end = os.pipe()
    assert everything.start(["bench", "scaling"], write_end) == 0
    os.close(write_end)
    with os.fdopen(read_end) as said:
        assert said.read() == "-m benchmarks.suite.orphan thinwire.cli bench scaling\n"


def test_keep_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "kernels.json").write_text("{}")
    options = everything.Options(full=True, keep=True, results=tmp_path)
    assert options.commands("kernels") == []
    words = options.commands("training")[0]
    assert (words[:2], words[-3:]) == (["bench", "training"], ["--keep", "--results", str(tmp_path / "training.jsonl")])


def asked(suite: str, kind: type[T]) -> list[T]:
    """What --full asks of a suite, as the suite understands it."""
    return [tyro.cli(kind, args=words[2:]) for words in everything.Options(full=True).commands(suite)]


def test_full_trains_every_row_what_is_compared_three_times_and_some_over_links() -> None:
    parts = asked("training", training.Options)
    assert [part.link for part in parts] == ["", "", "10:80", "100:80", "1000:20"]
    unshaped = [run.setting.key for part in parts[:2] for run in part.runs()]
    times = {name: unshaped.count(row.setting.key) for name, row in ROWS.items()}
    assert times == {name: 3 if name in COMPARED else 1 for name in ROWS}
    assert {"ddp", "powersgd-1", "powersgd-4", "post-local-sgd", "textbook", "torchft", "demo-textbook", "diloco", "demo"} <= set(COMPARED)


def test_full_measures_collectives_of_every_size_and_every_codec() -> None:
    rows = [row for part in asked("collectives", collectives.Options) for row in part.rows()]
    assert {row.nbytes for row in rows} == set(collectives.SIZES)
    assert {row.codec for row in rows} == set(CODECS)
    assert {row.group for row in rows} == set(GROUPS)
    assert len({row.key("") for row in rows}) == len(rows)


def test_quick_is_one_command_a_suite() -> None:
    quick = everything.Options(quick=True)
    assert all(len(quick.commands(suite)) == 1 and "--quick" in quick.commands(suite)[0] for suite in everything.ORDER)
    assert "--quick" not in everything.Options(full=True).commands("scaling")[0]


def test_quick_results_do_not_mix_with_the_full_ones() -> None:
    assert everything.Options(full=True).folder == RESULTS
    assert everything.Options(quick=True).folder == RESULTS / "quick"
    for quick, full in ((True, True), (False, False)):
        with pytest.raises(ValueError, match=r"say --quick .* or --full"):
            everything.Options(quick=quick, full=full)


def test_a_failed_or_void_run_ends_with_1_and_an_absent_one_does_not() -> None:
    end([record("training", "a"), record("training", "b", status="absent", reason="not here")])
    for status in ("failed", "void"):
        with pytest.raises(SystemExit) as caught:
            end([record("training", "a"), record("training", "b", status=status)])
        assert caught.value.code == 1


def test_the_command_is_ready_to_be_typed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["thinwire bench training", "--link", "20:80", "--results", "my file"])
    assert provenance.command() == "thinwire bench training --link 20:80 --results 'my file'"
    monkeypatch.setattr(sys, "argv", ["/somewhere/benchmarks/training/__main__.py", "--quick"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", ModuleSpec("benchmarks.training.__main__", None))
    assert provenance.command() == "python -m benchmarks.training --quick"


@pytest.mark.parametrize("suite", [scaling, utilisation, collectives])
def test_show_of_nothing_and_of_an_edited_record_ends_in_a_sentence(suite: ModuleType, tmp_path: Path) -> None:
    name = suite.__name__.split(".")[1]
    path = tmp_path / "r.jsonl"
    append(path, record("training", "a"))
    with pytest.raises(SystemExit, match=rf"^error: .*r\.jsonl has no results of {name}; measure some"):
        suite.main(["--show", "--results", str(path)])
    seconds = {"sunk": Percentiles(1.0, 1.0, 1.0, 3)}
    counted = Bytes(interface_sent=1.0, interface_received=1.0)
    for numbers, why in (({"utilisation": 0.5}, r"lacks '\w+'"), ({"utilisation": None, "rounds": None}, r"lacks '\w+'|cannot be shown")):
        append(path, record(name, "b", seconds=seconds, bytes=counted, numbers=numbers))
        with pytest.raises(SystemExit, match=rf"^error: a record of .*r\.jsonl ({why}).*: it was edited; delete its line"):
            suite.main(["--show", "--results", str(path)])


def test_a_table_of_kernels_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "kernels.json.part").mkdir()  # stands for a full disk
    (tmp_path / "kernels.json").write_text("old")
    with pytest.raises(ResultsError, match=r"^cannot write .*kernels\.json: .*; free some space or give another --results$"):
        write_whole(tmp_path / "kernels.json", "new", option="--results")
    assert (tmp_path / "kernels.json").read_text() == "old"


@pytest.mark.parametrize("text", ["no json", '{"rows": 3}'])
def test_a_table_of_kernels_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "kernels.json").write_text(text)
    with pytest.raises(SystemExit, match=r"^error: .*kernels\.json.*measure it again"):
        kernels.main(["--show", "--results", str(tmp_path / "kernels.json")])


@pytest.mark.parametrize("error", [LabError("the relay ended"), RunError("worker 1 died"), OSError(28, "No space left on device")])
def test_whatever_breaks_a_run_is_recorded_and_the_next_one_runs(tmp_path: Path, error: Exception) -> None:
    def fail() -> Record:
        raise error

    good = record("training", "b")
    due = [Due(record("training", "a"), fail), Due(good, lambda: good)]
    made = run_all(due, tmp_path / "r.jsonl", Console(quiet=True), keep=False)
    assert [one.status for one in made] == [one.status for one in read(tmp_path / "r.jsonl")] == ["failed", "ok"]
    assert str(error) == made[0].reason


def test_help_keeps_the_lines_of_the_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for suite in (scaling, utilisation, collectives, lab, fidelity, everything, pages):
        with pytest.raises(SystemExit):
            suite.main(["--help"])
        said = capsys.readouterr().out
        examples = [line for line in (suite.__doc__ or "").splitlines() if line.startswith("    ")]
        assert examples
        assert all(line in said.splitlines() for line in examples), suite.__name__


def test_a_results_file_that_cannot_be_written_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    def measure() -> Record:
        raise AssertionError("measured")

    with pytest.raises(ResultsError, match=r"^cannot write .*: Is a directory; .* give another --results$"):
        run_all([Due(record("training", "a"), measure)], tmp_path, Console(quiet=True), keep=False)
