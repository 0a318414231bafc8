"""All suites one after the other, and how a suite ends."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import tyro

from benchmarks.suite import __main__ as everything
from benchmarks.suite import provenance
from benchmarks.suite.record import RESULTS
from benchmarks.suite.runs import end
from benchmarks.training import options as training
from tests.benchmarks.made_up import record


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


def test_keep_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "kernels.json").write_text("{}")
    options = everything.Options(full=True, keep=True, results=tmp_path)
    assert options.commands("kernels") == []
    assert options.commands("training")[0] == ["bench", "training", "--keep", "--results", str(tmp_path / "training.jsonl")]


def test_full_trains_also_over_links_and_quick_does_not() -> None:
    full, quick = everything.Options(full=True), everything.Options(quick=True)
    asked = [words[2:-2] for words in full.commands("training")]
    assert [words[:2] for words in asked] == [[], ["--link", "10:80"], ["--link", "100:80"], ["--link", "1000:20"]]
    for words in asked:  # which the suite understands
        assert tyro.cli(training.Options, args=words).runs()
    assert len(quick.commands("training")) == len(full.commands("scaling")) == 1


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
