"""The kernels on a GPU: whether they hold the bits of the specification there, then time against the card's own copy and against torch.

    python -m benchmarks.kernels.gpu                      on a card: the table, and benchmarks/results/gpu.json
    python -m benchmarks.kernels.gpu --build              in a bare checkout: with the C++ library, a faster judge of more rows
    python -m benchmarks.kernels.gpu --show --markdown    what the results file holds, for docs/kernels.md
    python -m benchmarks.kernels.gpu --interpret          no card: every path in Triton's interpreter, which says nothing about speed

Needs torch, triton, numpy and xxhash; thinwire itself need not be installed. Ends with status 1 when a bit differs or a kernel fails.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if find_spec("thinwire") is None:  # a bare checkout
    sys.path.insert(0, str(ROOT / "src"))

RESULTS = ROOT / "benchmarks/results/gpu.json"
SHARE = 0.6  # of the budget that comparing may take
CPU = {"elements": 4096, "copied": 2**16, "repeats": 1, "kinds": 2, "many": 0, "huge": 3 * 4096}
GPU = {"elements": 2**28, "copied": 2**30, "repeats": 15, "kinds": 7, "many": 2**21, "huge": 2**31 + 3 * 4096}
ROOM = 160  # bytes of the device's memory that a parameter may take, most of it the peers'


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.kernels.gpu", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--results", type=Path, help=f"where the results are (default {RESULTS.relative_to(ROOT)}; of a part: nowhere)")
    parser.add_argument("--show", action="store_true", help="only print what the results file holds")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    parser.add_argument("--interpret", action="store_true", help="tiny sizes on the CPU, in Triton's interpreter")
    parser.add_argument("--build", action="store_true", help="make the C++ library, where thinwire was not installed with it")
    parser.add_argument("--budget", type=float, default=480, help="seconds after which nothing new is begun (default 480)")
    parser.add_argument("--workers", type=int, help="processes that compile and compare (default: one for two cores)")
    parser.add_argument("--elements", type=int, help="parameters of a call, a power of two (default 2^28, less where memory is short)")
    parser.add_argument("--only", default="", help="rows and codecs whose name contains this")
    parser.add_argument("--corrupt", action="store_true", help="flip a bit of what the kernels gave, to see that it is found")
    return parser.parse_args(words)


class Run:
    """What is known so far. Every step is written down at once: a run that is cut off has said what it could."""

    def __init__(self, options: argparse.Namespace, device: str) -> None:
        self.options, self.device, self.sizes = options, device, CPU if device == "cpu" else GPU
        self.file: Path | None = options.results or (None if device == "cpu" or options.only else RESULTS)
        self.equal: dict[str, Any] = {"compared": 0, "codecs": [], "differences": [], "not checked": []}
        self.record: dict[str, Any] = {"equal": self.equal, "rows": []}
        self._start = time.monotonic()

    def left(self, share: float = 1.0) -> float:
        """Seconds of this share of the budget; of none left a little."""
        return max(share * float(self.options.budget) - (time.monotonic() - self._start), 1e-3)

    def late(self, share: float = 1.0) -> bool:
        return self.left(share) < 1

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._start:4.0f} s] {text}", flush=True)

    def keep(self, **found: Any) -> None:
        """Add to the record, in memory and on disk."""
        self.record |= found | {"seconds": round(time.monotonic() - self._start)}
        if self.file:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text(json.dumps(self.record, indent=1) + "\n")

    @property
    def failed(self) -> bool:
        return bool(self.equal["differences"]) or any("error" in row for row in self.record["rows"])


def measure(run: Run) -> None:
    """Bits first: what is fast and wrong has no time."""
    import torch
    import triton

    from benchmarks.kernels import gpu_same, gpu_time, peers
    from benchmarks.suite.provenance import provenance
    from thinwire.kernels import native

    judge = "the C++ library" if native.available() else "numpy (no C++ library: --build makes it)"
    run.keep(**provenance(), triton=triton.__version__, judge=judge, **gpu_time.machine(run.device))
    run.say(f"{run.record['device']}; torch {torch.__version__}, triton {triton.__version__}; the judge of bits is {judge}")
    compare(run, [name for name in (gpu_same.TABLE if run.device == "cpu" else gpu_same.NAMES) if run.options.only in name])
    run.keep(copy=gpu_time.copy_speed(run.device, run.sizes["copied"]), elements=elements(run))
    run.say(f"copy_ moves {run.record['copy']['best'] / 1e12:.3f} TB/s at best")
    peers.backend = "eager" if run.device == "cpu" else peers.backend
    peers.BASIS = peers.BASIS.to(run.device)
    time_all(run)


def elements(run: Run) -> int:
    """Parameters of a call: many times the last cache, and such that the peers fit too."""
    import torch

    if run.device == "cpu" or run.options.elements:
        return int(run.options.elements or run.sizes["elements"])
    return min(run.sizes["elements"], 1 << (torch.cuda.mem_get_info()[0] // ROOM).bit_length() - 1)


def compare(run: Run, names: list[str]) -> None:
    """A codec a job, in several processes: each compiles its own kernels."""
    import torch

    from benchmarks.kernels import gpu_huge, gpu_same

    run.equal["not checked"] = names
    kinds, many = run.sizes["kinds"], run.sizes["many"]
    jobs = [gpu_same.Job(name, run.device, kinds, many, run.options.corrupt and not i) for i, name in enumerate(names)]
    with multiprocessing.get_context("spawn").Pool(min(run.options.workers or max((os.cpu_count() or 2) // 2, 1), len(jobs) or 1)) as pool:
        found = pool.imap_unordered(gpu_same.compare, jobs)
        try:
            for _ in jobs:
                note(run, *found.next(timeout=run.left(SHARE)))
        except multiprocessing.TimeoutError:
            run.say("the time for comparing is up")
    for name in [one for one in ("int8", "dct-topk32-int8") if run.options.only in one]:
        fits = run.device == "cpu" or torch.cuda.mem_get_info()[0] > gpu_huge.NBYTES
        if run.late(SHARE) or not fits:
            run.equal["not checked"].append(f"{name}, huge")
        else:
            note(run, *gpu_huge.compare(name, run.device, run.sizes["huge"]))
    run.say(f"{run.equal['compared']} results compared, {len(run.equal['differences'])} differ")


def note(run: Run, name: str, compared: int, differences: list[Any]) -> None:
    run.equal["compared"] += compared
    run.equal["codecs"].append(name)
    run.equal["differences"] += [str(one) for one in differences]
    run.equal["not checked"] = [other for other in run.equal["not checked"] if other != name]
    for one in differences[:5]:
        run.say(f"DIFFERENT: {one}")
    run.keep()


def time_all(run: Run) -> None:
    """Row after row. One that was not measured, or failed, says so in the table."""
    import torch

    from benchmarks.kernels import gpu_rows, gpu_table

    for row in gpu_rows.ROWS:
        if run.options.only in row.name:
            floor = 1e12 * row.moved / run.record["copy"]["best"]
            told: dict[str, Any] = {"operation": row.name, "bytes": row.moved, "floor": floor, "goal": row.goal, "peers": {}}
            run.record["rows"].append(told)
            if not run.late():
                time_row(run, row, told)
            run.keep()
            run.say("  ".join(gpu_table.cells(told)))
            if run.device != "cpu":
                torch.cuda.empty_cache()


def time_row(run: Run, row: Any, told: dict[str, Any]) -> None:
    """Ours, then the others."""
    try:
        ready = row.ready(run.device, run.record["elements"])
    except Exception as error:
        told["error"] = reason(error)
        return
    timed(run, ready.ours, told)
    if "ms" in told and row.goal and run.device != "cpu":
        told["met"] = told["ms"] <= row.goal * told["floor"]
    for name, peer in ready.peers.items():
        told["peers"][name] = {}
        if not run.late():
            timed(run, peer, told["peers"][name])


def timed(run: Run, call: Any, told: dict[str, Any]) -> None:
    """Milliseconds for 1e9 parameters, or why there are none."""
    from statistics import median

    from benchmarks.kernels import gpu_time

    try:
        taken = gpu_time.seconds(call, run.device, run.sizes["repeats"])
    except Exception as error:  # whatever torch.compile, or a card that is too small, comes up with
        told["error"] = reason(error)
        return
    per = 1e12 / run.record["elements"]
    told |= {"ms": median(taken) * per, "least": min(taken) * per}


def reason(error: Exception) -> str:
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first[:160]}"


def build() -> None:
    """Put the library beside the Python files, where a bare checkout finds it; not where another is installed."""
    from thinwire.kernels import native

    beside, folder = ROOT / "kernels/libthinwire.so", ROOT / "build/gpu"
    if not beside.exists() and native.available():
        return
    subprocess.run(["cmake", "-S", ROOT / "csrc", "-B", folder], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", folder, "--parallel"], check=True, stdout=subprocess.DEVNULL)
    shutil.copy(folder / "libthinwire.so", beside)
    native.library.cache_clear()


def device(options: argparse.Namespace) -> str:
    """Where to run; the interpreter must be chosen before Triton is imported."""
    import torch

    if options.interpret or (os.environ.get("TRITON_INTERPRET") == "1" and not torch.cuda.is_available()):
        os.environ["TRITON_INTERPRET"] = "1"
        return "cpu"
    if not torch.cuda.is_available():
        raise SystemExit("error: no GPU here; --interpret goes through everything on the CPU and measures nothing")
    os.environ["TRITON_INTERPRET"] = "0"
    return "cuda"


def main() -> None:
    options = parsed()
    file = options.results or RESULTS
    if options.show and not file.exists():
        raise SystemExit(f"error: {file} is not there; a run on a GPU makes it")
    run = Run(options, "cpu") if options.show else Run(options, device(options))
    if options.show:
        run.record = json.loads(file.read_text())
    else:
        if options.build:
            build()
        measure(run)
    from benchmarks.kernels import gpu_table

    print("", gpu_table.text(run.record, markdown=options.markdown), sep="\n")
    sys.exit(run.failed)


if __name__ == "__main__":
    main()
