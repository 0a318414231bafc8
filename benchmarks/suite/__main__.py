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
from functools import partial
from pathlib import Path

import tyro

from benchmarks.suite.fleet import ORPHAN
from benchmarks.suite.full import FULL
from benchmarks.suite.options import one_sentence, parse
from benchmarks.suite.record import RESULTS
from thinwire.output import Form, Output

FILES = {suite: f"{suite}.jsonl" for suite in ("training", "utilisation", "scaling", "collectives")} | {"kernels": "kernels.json"}
ORDER = ("kernels", "collectives", "scaling", "utilisation", "training")
PAGE = "report.html"
END_S = 30.0  # an interrupted suite has its links to take down


@dataclass(frozen=True)
class Options(Form):
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


def start(words: list[str], out: int | None = None) -> int:
    """Run `thinwire WORDS`; its exit status. `out` is a descriptor for what it says, that of this process unless given."""
    with subprocess.Popen([sys.executable, "-m", ORPHAN, "thinwire.cli", *words], stdout=out) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:  # which the terminal sent to the suite as well
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
            raise


def run_suites(options: Options, start: Callable[[list[str]], int], out: Output | None = None) -> int:
    """Every suite and the page; the worst exit status."""
    out, done = out or options.output(), list[dict[str, object]]()
    form = ["--plain"] * options.plain

    def do(words: list[str]) -> int:
        out.say(f"thinwire {' '.join(words)}")
        code = start([*words, *form])
        done.append({"command": f"thinwire {' '.join(words)}", "status": code})
        return code

    codes = [do(words) for suite in ORDER for words in options.commands(suite)]
    files = [str(path) for path in (options.folder / FILES[suite] for suite in FILES) if path.exists()]
    page = options.folder / PAGE
    if files:
        codes.append(do(["report", *files, "-o", str(page)]))
    out.tell({"status": max(codes, default=0), "commands": done, "files": files, "page": page if files else None})
    return max(codes, default=0)


def main(argv: list[str] | None = None) -> None:
    with one_sentence("interrupted: finished runs are in the results, the same command with --keep goes on from there"):
        options = parse(Options, argv, __doc__)
        out = options.output()
        code = run_suites(options, partial(start, out=sys.stderr.fileno() if out.as_json else None), out)
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    main()
