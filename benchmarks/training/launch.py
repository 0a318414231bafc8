"""Start the workers of a run in the lab, wait for them, and make one record of what they saw."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import which
from typing import IO, Any

import msgspec
from msgspec.structs import replace

from benchmarks.lab.wan import Lab
from benchmarks.suite.fleet import ORPHAN, written
from benchmarks.suite.record import OK, ROOT, Bytes, Made, Point, Record
from benchmarks.suite.runs import RunError
from benchmarks.training.curve import merge
from benchmarks.training.setting import Run
from benchmarks.training.worker import Seen

TAIL = 2000  # characters of a failed worker's output worth showing
POLL_S = 0.1
LAST_WORDS_S = 2.0  # after the first death: who dies of it says so too, and the cause may be another's


def template(run: Run, lab: Lab) -> Record:
    """The record of a run before anything was measured."""
    sizes = {name: value for name, value in run.sizes.items() if name not in ("workers", "steps")}
    link = lab.link()
    return Record(
        suite="training",
        key=run.key(link.asked.topology),
        status=OK,
        made=Made.now(),
        method=run.setting.method,
        label=run.setting.label,
        members=_workers(run),
        sync_every=run.setting.sync_every,
        steps=run.steps,
        seed=run.seed,
        link=link,
        settings=run.setting.options | sizes,
    )


def launch(run: Run, lab: Lab, *, timeout_s: float) -> Record:
    """Losses, bytes, seconds and the learning curve of all workers, and whether all replicas hold the same bits.

    Raises `RunError` when a worker fails or `timeout_s` is over, `LabError` when the links are gone; the others are ended first.
    """
    workers = _workers(run)
    with ExitStack() as stack:
        # Without names: whatever ends this process, no file is left.
        results, logs = ([stack.enter_context(tempfile.TemporaryFile()) for _ in range(workers)] for _ in range(2))
        env = _env(lab, workers) | stack.enter_context(_helpers(run, lab, workers))
        processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank, (result, log) in enumerate(zip(results, logs, strict=True)):
                own = {"RANK": str(rank), "WORKER_ADDRESS": lab.places[rank].address}
                words = [sys.executable, "-m", ORPHAN, "benchmarks.training.worker", run.dump(), lab.interface, str(result.fileno())]
                pipes: dict[str, Any] = {"stdout": log, "stderr": subprocess.STDOUT, "pass_fds": (result.fileno(),)}
                processes.append(lab.start(rank, words, env=env | own, cwd=ROOT, **pipes))
            _wait(processes, logs, timeout_s, lab.check)
        finally:
            _end(processes)
        seen = [msgspec.json.decode(written(result), type=Seen) for result in results]
    return record_of(template(run, lab), seen, lab)


def record_of(before: Record, seen: Sequence[Seen], lab: Lab) -> Record:
    """The record of a run that went well."""
    n, first = len(seen), seen[0]
    ledger = dict(first.ledger)
    loss, wall_s = sum(worker.loss for worker in seen) / n, max(worker.wall_s for worker in seen)

    def mean(name: str, share: int = 1) -> float | None:
        values = [getattr(worker.moved, name) for worker in seen]
        return None if None in values else sum(values) / n / share

    moved = Bytes(
        payload_sent=ledger.pop("payload_sent", None),
        ledger_sent=ledger.pop("wire_sent", None),
        interface_sent=mean("sent", lab.share),
        interface_received=mean("received", lab.share),
        wire_sent=mean("wire_sent"),
        wire_received=mean("wire_received"),
        counted_by=lab.counted_by,
    )
    return replace(
        before,
        numel=first.numel,
        bytes=moved,
        numbers={"loss": loss, "cpu_s": sum(worker.cpu_s for worker in seen) / n, "wall_s": wall_s} | ledger,
        checks={"replicas_equal": len({worker.sha256 for worker in seen}) == 1}
        | ({"all_rounds_averaged": not ledger["nothing_averaged"]} if "nothing_averaged" in ledger else {}),
        curve=[*merge([worker.marks for worker in seen], lab.share), Point(before.steps, loss, wall_s, moved.interface_sent or 0.0)],
    )


def _workers(run: Run) -> int:
    return 1 if run.setting.method == "alone" else run.workers


def _env(lab: Lab, workers: int) -> dict[str, str]:
    return {
        "WORLD_SIZE": str(workers),
        "LOCAL_RANK": "0",
        "MASTER_ADDR": lab.address,
        "MASTER_PORT": str(lab.port()),
        "GATE_PORT": str(lab.port()),
        "OMP_NUM_THREADS": "1",
        "RUST_LOG": "error",  # torchft
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]),
    }


@contextmanager
def _helpers(run: Run, lab: Lab, workers: int) -> Iterator[dict[str, str]]:
    """What a method needs beside its workers, and how they find it: torchft's lighthouse, in region 0."""
    if run.setting.method != "torchft":
        yield {}
        return
    beside = Path(sys.executable).with_name("torchft_lighthouse")
    program = str(beside) if beside.exists() else which("torchft_lighthouse")
    if program is None:
        raise RunError("the program torchft_lighthouse is missing; pip install torchft==0.2.0 again")
    port = lab.port()
    words = [program, "--bind", f"0.0.0.0:{port}", "--min_replicas", str(workers), "--quorum_tick_ms", "50"]
    lighthouse = lab.start(0, words, env={"RUST_LOG": "error"}, cwd=Path("/"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield {"TORCHFT_LIGHTHOUSE": f"http://{lab.address}:{port}"}
    finally:
        _end([lighthouse])


def _end(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()


def _wait(processes: Sequence["subprocess.Popen[bytes]"], logs: Sequence[IO[bytes]], timeout_s: float, check: Callable[[], None]) -> None:
    deadline = time.monotonic() + timeout_s
    while None in (codes := [process.poll() for process in processes]):
        if any(codes):
            deadline = min(deadline, time.monotonic() + LAST_WORDS_S)
        check()
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_S)
    if any(codes):
        raise RunError(_blame(codes, [written(log).decode(errors="replace") for log in logs]))
    running = [str(rank) for rank, code in enumerate(codes) if code is None]
    if running:
        raise RunError(
            f"no result after {timeout_s:g} s (workers {', '.join(running)} still run): a worker hangs, or the link is too thin; "
            f"give a longer --timeout-s or fewer --steps\n{written(logs[int(running[0])]).decode(errors='replace')[-TAIL:]}"
        )


def _blame(codes: Sequence[int | None], said: Sequence[str]) -> str:
    """One sentence about the worker that most likely failed first, then the end of its output."""
    failed = [rank for rank, code in enumerate(codes) if code]
    killed = [rank for rank in failed if (codes[rank] or 0) < 0]
    alone = [rank for rank in failed if "onnection" not in _last(said[rank])]  # the others lost their connection to it
    rank = (killed or alone or failed)[0]
    code = codes[rank] or 0
    if code < 0:
        told = f"worker {rank} was killed by {signal.Signals(-code).name}; run it again with --keep, with more memory if it ran out of that"
    else:
        remedy = "install that" if "ModuleNotFoundError" in _last(said[rank]) else "mend that"
        told = f"worker {rank} failed: {_last(said[rank]) or f'it ended with {code}'}; {remedy} and run again with --keep"
    return f"{told}\n{said[rank][-TAIL:]}"


def _last(said: str) -> str:
    return (said.strip().splitlines() or [""])[-1]
