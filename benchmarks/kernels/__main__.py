"""The table of the kernels: time an element, against a probe of memory and against what exists, in one process.

    python -m benchmarks.kernels                       all rows, about two minutes; the table, and benchmarks/results/kernels.json
    python -m benchmarks.kernels --only fused          rows whose name contains this
    python -m benchmarks.kernels --isa 1               as on a processor without AVX-512 (goals may take 1.3 times)
    python -m benchmarks.kernels --show --markdown     what the results file holds, for docs/kernels.md
    python -m benchmarks.kernels.picture               docs/kernels.png from it

The authors' DeMo takes part when a checkout of github.com/bloc97/DeMo (and einops) is on PYTHONPATH, else the algorithm written here.
"""

import json
import os
import platform
import sys
import tempfile
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tyro

from benchmarks.kernels import demo, dense, fused, index, peers, report, suite, transform
from benchmarks.kernels.operation import QUICK, Operation, Sizes
from benchmarks.report.gather import kernels_table
from benchmarks.suite.options import one_sentence, parse
from benchmarks.suite.provenance import RESULTS, provenance
from benchmarks.suite.whole import write_whole
from thinwire.kernels import native
from thinwire.output import Form

OPERATIONS: list[Operation] = [*dense.OPERATIONS, *transform.OPERATIONS, *fused.OPERATIONS, *index.OPERATIONS]
ROOT = Path(__file__).resolve().parents[2]
ISA = {0: "baseline", 1: "x86-64-v3 (AVX2)", 2: "x86-64-v4 (AVX-512)"}


@dataclass(frozen=True)
class Options(Form):
    """Measure the kernels."""

    only: str = ""
    """Only rows whose name contains this."""
    rounds: int = 15
    """Calls of ours in a repetition."""
    repetitions: int = 3
    """Times through the whole table."""
    megabytes: int = 1024
    """Of each of the pool's two arrays; more than the last cache holds."""
    isa: int = 2
    """Instruction set: 0 baseline, 1 AVX2, 2 AVX-512; the best that the processor has up to this."""
    results: Path | None = None
    """Default: for the whole table benchmarks/results/kernels.json (kernels-isa1.json with --isa 1), for a part none."""
    quick: tyro.conf.FlagCreatePairsOff[bool] = False
    """Every path in seconds, at sizes that say nothing about speed."""
    show: tyro.conf.FlagCreatePairsOff[bool] = False
    """Only print what the results file holds."""
    markdown: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print Markdown."""

    def __post_init__(self) -> None:
        if not self.operations:
            raise ValueError(f"no row contains {self.only!r}; rows are {', '.join(operation.name for operation in OPERATIONS)}")

        if self.markdown and (self.json or self.plain):
            raise ValueError("--markdown, --json and --plain are forms of one output; give one of them")
        if self.show and self.file is None:
            raise ValueError("--show prints a whole table: leave --only and --quick out, or say which --results")

    @property
    def file(self) -> Path | None:
        """Where the results are."""
        whole = not self.only and not self.quick
        return self.results or (RESULTS / ("kernels.json" if self.isa >= 2 else f"kernels-isa{self.isa}.json") if whole else None)

    @property
    def operations(self) -> list[Operation]:
        return [operation for operation in OPERATIONS if self.only in operation.name]


class Plugin:
    """What the suite gets from the command line."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def pytest_configure(self, config: pytest.Config) -> None:
        config.stash[suite.SETTINGS] = (self._options.megabytes, QUICK if self._options.quick else Sizes(), self._options.rounds)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        operations = [
            pytest.param(one, id=one.name, marks=pytest.mark.benchmark(group=one.name, timer=suite.clock_of(one)))
            for one in self._options.operations
        ]
        metafunc.parametrize("repetition", range(self._options.repetitions))
        metafunc.parametrize("operation", operations)


def measure(options: Options) -> dict[str, Any]:
    """Run the suite under pytest-benchmark; the record that goes into the results file."""
    torch.set_num_threads(1)
    isa, load = native.set_isa(options.isa), os.getloadavg()[0]
    if options.quick:
        peers.backend = "eager"
    with tempfile.TemporaryFile() as file:  # without a name: whatever ends this process, nothing is left
        # Of the repository's own settings for tests none applies: no time limit, no warnings as errors.
        words = "-q --no-header --disable-warnings --tb=short --exitfirst -p no:cacheprovider --import-mode=importlib".split()
        words += f"-c {os.devnull} --benchmark-quiet --benchmark-disable-gc --benchmark-json=/dev/fd/{file.fileno()}".split()
        with redirect_stdout(sys.stderr):  # its dots are progress
            code = pytest.main([*words, f"--rootdir={ROOT}", suite.__file__], plugins=[Plugin(options)])
        if code == pytest.ExitCode.INTERRUPTED:
            raise KeyboardInterrupt
        if code != 0:
            print("error: a measurement failed, see above", file=sys.stderr)
            raise SystemExit(1)
        file.seek(0)
        record = json.load(file)
    return {
        **provenance(),
        "cpu": record["machine_info"]["cpu"].get("brand_raw", platform.processor()),
        "cores": os.cpu_count(),
        "load": load,  # of other programs: the rows with two threads need both cores
        "isa": ISA[isa] if native.available() else "none: built without the C++ library",
        "numpy": np.__version__,
        "pytest_benchmark": record["version"],
        "backend": peers.backend,
        "DeMo": demo.label(),
        "rounds": options.rounds,
        "repetitions": options.repetitions,
        "megabytes": options.megabytes,
        "rows": report.rows(options.operations, record["benchmarks"], isa=isa, authors=demo.authors() is not None),
    }


def main(argv: list[str] | None = None) -> None:
    with one_sentence("interrupted: a table is written whole or not at all"):
        options = parse(Options, argv, __doc__)
        out = options.output(160)
        if options.quick:
            options = replace(options, rounds=2, repetitions=1, megabytes=1)
        record = kernels_table(options.file) if options.show and options.file else measure(options)
        if options.file and not options.show:
            write_whole(options.file, json.dumps(record, indent=1) + "\n", option="--results")
    if options.markdown:
        print(report.markdown(record["rows"]))
    else:
        out.say(report.table(report.title(record), record["rows"]), report.legend(record))
        out.tell(record)


if __name__ == "__main__":
    main()
