"""The sweep that chose the defaults: many settings, several seeds, loss against bytes; one line a run, and a picture.

    python -m benchmarks.training.sweep                      all settings, three seeds, two at a time
    python -m benchmarks.training.sweep --only demo --seeds 0
    python -m benchmarks.training.sweep --show               the picture and the table from what the file holds

The same task and methods as the table, with the replicas as threads of one process (`thinwire.LocalGroup`): the numbers are the same bits,
the bytes are the ledger's payloads (what a ring or an all-gather would send, without headers). Settings already in the file are skipped.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.suite.record import RESULTS, middle
from benchmarks.training.grid import GRID
from benchmarks.training.methods import build
from benchmarks.training.picture import draw
from benchmarks.training.setting import Run, Setting
from benchmarks.training.sweep_results import append, read, same_run
from benchmarks.training.task import adamw, batches, evaluate, warm_start
from benchmarks.training.worker import train
from examples.multiregion.data import Text, load, validation_batches
from examples.multiregion.model import GPT, sha256

PATIENCE_S = 600.0  # threads share cores: slowness is no fault here
MB = 1e6


@dataclass(frozen=True)
class Options:
    """Sweep settings."""

    only: str = ""
    """Only settings whose key contains this."""
    seeds: tuple[int, ...] = (0, 1, 2)
    jobs: int = 2
    """Runs at a time; each takes one core."""
    results: Path = RESULTS / "sweep.jsonl"
    picture: Path = RESULTS / "sweep.png"
    show: tyro.conf.FlagCreatePairsOff[bool] = False
    """Only draw and print what the results file holds."""


def _end_with_parent() -> None:
    """A sweep that is killed leaves no process behind that trains on."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def measure(run: Run) -> dict[str, Any]:
    """One run with all replicas in this process."""
    torch.set_num_threads(1)
    text = load()
    start = warm_start(run, text)
    seen = _dense(run, text, start) if run.setting.method == "ddp" else _threads(run, text, start)
    return seen | {"counted_by": "the ledger"}


def _threads(run: Run, text: Text, start: GPT) -> dict[str, Any]:
    from thinwire import LocalGroup

    groups = LocalGroup.world(run.workers, timeout_s=PATIENCE_S)
    replicas = [_copy(start) for _ in groups]
    methods = [build(run.setting, gpt, group) for gpt, group in zip(replicas, groups, strict=True)]

    def work(rank: int) -> Callable[[], None]:
        return lambda: train(run, methods[rank], batches(text, run, rank))

    _together([work(rank) for rank in range(run.workers)])
    for group in groups:
        group.leave()
    held_out = validation_batches(text)
    ledger = methods[0].ledger()
    digests = {sha256(gpt) for gpt in replicas}
    # Equal replicas have equal losses.
    losses = [evaluate(gpt, held_out) for gpt in (replicas[:1] if len(digests) == 1 else replicas)]
    return {"loss": sum(losses) / len(losses), "sent": ledger["payload_sent"], "replicas_equal": len(digests) == 1} | ledger


def _dense(run: Run, text: Text, start: GPT) -> dict[str, Any]:
    """DDP is one model on everybody's sequences; its bytes are those of a ring all-reduce."""
    gpt = _copy(start)
    opt, sources = adamw(gpt), [batches(text, run, rank) for rank in range(run.workers)]
    for _ in range(run.steps):
        opt.zero_grad()
        gpt.loss(torch.cat([source.draw() for source in sources])).backward()
        opt.step()
    numel = sum(p.numel() for p in gpt.parameters())
    sent = run.steps * 4 * numel * 2 * (run.workers - 1) // run.workers
    return {"loss": evaluate(gpt, validation_batches(text)), "sent": sent, "replicas_equal": True}


def _copy(start: GPT) -> GPT:
    gpt = GPT()
    gpt.load_state_dict(start.state_dict())
    return gpt


def _together(work: list[Callable[[], None]]) -> None:
    """Run in threads, and raise the first error of any of them in this one."""
    errors: list[BaseException] = []

    def guarded(one: Callable[[], None]) -> None:
        try:
            one()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(one,), daemon=True) for one in work]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads) and not errors:
        for thread in threads:
            thread.join(0.2)
    if errors:
        raise errors[0]


def sweep(options: Options, runs: list[Run], console: Console) -> None:
    """Do the runs that the file lacks; a failing setting is told and left out."""
    held = read(options.results)
    due = [run for run in runs if not any(same_run(record, run) for record in held)]
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn"), initializer=_end_with_parent) as pool:
        pending = {pool.submit(measure, run): run for run in due}
        try:
            for done, future in enumerate(as_completed(pending), 1):
                run = pending[future]
                try:
                    record = append(options.results, run, future.result())
                except (ValueError, TypeError, RuntimeError) as error:
                    console.print(f"{done}/{len(due)} {run.setting.key} seed {run.seed}: {error}", markup=False)
                else:
                    told = f"loss {record['loss']:.4f}, {record['sent'] / MB:.2f} MB"
                    console.print(f"{done}/{len(due)} {run.setting.key} seed {run.seed}: {told}", highlight=False)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True, wait=False)
            raise


def summary(settings: list[Setting], seeds: tuple[int, ...], records: list[dict[str, Any]]) -> Table:
    """Settings by loss, best first."""
    made = Table(title="loss against bytes sent per worker", title_justify="left")
    for heading in ("setting", "val loss", "range", "MB sent", "seeds", "replicas equal"):
        made.add_column(heading, justify="left" if heading == "setting" else "right")
    rows = []
    for setting in settings:
        found = [record for record in records if record["key"] == setting.key and record["seed"] in seeds]
        if found:
            loss, least, most = middle(record["loss"] for record in found)
            sent = middle(record["sent"] for record in found)[0]
            equal = "yes" if all(record["replicas_equal"] for record in found) else "NO"
            rows.append((loss, (setting.key, f"{loss:.3f}", f"{least:.3f} .. {most:.3f}", f"{sent / MB:.2f}", str(len(found)), equal)))
    for _, cells in sorted(rows):
        made.add_row(*cells)
    return made


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    settings = [setting for setting in GRID if options.only in setting.key]
    console = Console()
    if not options.show:
        try:
            sweep(options, [Run(setting, seed) for seed in options.seeds for setting in settings], console)
        except KeyboardInterrupt:
            raise SystemExit("interrupted: finished runs are in the results file, the next sweep goes on from there") from None
    records = read(options.results)
    Console(width=None if console.is_terminal else 140).print(summary(settings, options.seeds, records))
    draw(options.picture, records)


if __name__ == "__main__":
    main()
