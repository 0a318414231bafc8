"""All suites one after the other, then the page of their results.

    thinwire bench all --quick       small sizes, about five minutes; ./results/quick (in a checkout benchmarks/results/quick)
    thinwire bench all --full        about 70 minutes on two cores; ./results (in a checkout benchmarks/results)
    thinwire bench all --full --keep goes on where it was interrupted

Each suite is a process of its own, so that one that breaks takes nothing with it; the others run, and the exit status tells.
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.suite.fleet import ORPHAN
from benchmarks.suite.full import FULL
from benchmarks.suite.options import one_sentence, parse
from benchmarks.suite.record import RESULTS

FILES = {suite: f"{suite}.jsonl" for suite in ("training", "utilisation", "scaling", "collectives")} | {"kernels": "kernels.json"}
ORDER = ("kernels", "collectives", "scaling", "utilisation", "training")
PAGE = "report.html"
END_S = 30.0  # an interrupted suite has its links to take down


@dataclass(frozen=True)
class Options:
    """Measure everything; one of --quick and --full."""

    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    """Small sizes, about five minutes."""
    full: tyro.conf.FlagCreatePairsOff[bool] = False
    """About 70 minutes on two cores."""
    keep: tyro.conf.FlagCreatePairsOff[bool] = False
    """Skip what the results already hold."""
    results: Path | None = None
    """Folder of the results and the page."""

    def __post_init__(self) -> None:
        if self.quick == self.full:
            raise ValueError("say --quick (about five minutes) or --full (about 70 minutes)")

    @property
    def folder(self) -> Path:
        return self.results or (RESULTS / "quick" if self.quick else RESULTS)

    def commands(self, suite: str) -> list[list[str]]:
        """The suite's; none when there is nothing left to do."""
        file = self.folder / FILES[suite]
        if suite == "kernels" and self.keep and file.exists():  # its results are one table, not a line a run
            return []
        keep = ["--keep"] * (self.keep and suite != "kernels")
        parts = FULL.get(suite, [[]]) if self.full else [["--quick"]]
        return [["bench", suite, *part, *keep, "--results", str(file)] for part in parts]


def start(words: list[str]) -> int:
    """Run `thinwire WORDS`; its exit status."""
    with subprocess.Popen([sys.executable, "-m", ORPHAN, "thinwire.cli", *words]) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:  # which the terminal sent to the suite as well
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
            raise


def run_suites(options: Options, start: Callable[[list[str]], int]) -> int:
    """Every suite and the page; the worst exit status."""
    codes = []
    for suite in ORDER:
        for words in options.commands(suite):
            print(f"thinwire {' '.join(words)}", flush=True)
            codes.append(start(words))
    files = [str(path) for path in (options.folder / FILES[suite] for suite in FILES) if path.exists()]
    if files:
        codes.append(start(["report", *files, "-o", str(options.folder / PAGE)]))
    return max(codes, default=0)


def main(argv: list[str] | None = None) -> None:
    with one_sentence("interrupted: finished runs are in the results, the same command with --keep goes on from there"):
        code = run_suites(parse(Options, argv, __doc__), start)
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    main()
