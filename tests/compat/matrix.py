"""The compatibility table of the README: which tests are behind each cell, and how it is written.

pytest tests/compat --write-matrix -m ""        runs all of them and writes the table from what passed
"""

import re
from collections.abc import Mapping
from pathlib import Path

from tests.compat.loops import INNER, SCHEDULERS, rows

README = Path(__file__).resolve().parents[2] / "README.md"
BEGIN, END = "<!-- written by pytest tests/compat --write-matrix -->", "<!-- end of the table -->"
COLUMNS = ("alone it is the plain run", "members end identical", "resumes in mid-window")
LOOP = (
    "test_alone_it_is_the_plain_loop_bit_for_bit",
    "test_members_end_with_the_same_bits",
    "test_resuming_in_a_window_is_the_same_as_never_having_stopped",
)


def _loops(*names: str) -> tuple[str, ...]:
    """A pattern for each column."""
    which = "|".join(re.escape(name) for name in names)
    return tuple(rf"test_loops\.py::{test}\[({which})\]$" for test in LOOP)


def _all(pattern: str) -> tuple[str, ...]:
    """One test that makes all three comparisons."""
    return (pattern,) * len(COLUMNS)


def _table() -> dict[str, tuple[str, ...]]:
    single = [name for name in rows() if not name.startswith(("inner ", "scheduler "))]
    made = {"plain loop, AdamW": _loops("AdamW")}
    made[f"{len(INNER)} more torch optimizers: {', '.join(INNER)}"] = _loops(*(f"inner {name}" for name in INNER))
    made[f"all {len(SCHEDULERS)} scheduler families of torch"] = _loops(*(f"scheduler {name}" for name in SCHEDULERS))
    made |= {name: _loops(name) for name in single if name != "AdamW"}
    made["accelerate: prepare, accumulate, clip, save_state"] = _all(r"test_accelerate\.py::test_accelerate$")
    made["transformers Trainer: clip, scheduler, checkpoint"] = _all(r"test_trainer\.py::test_trainer\[Trainer\]$")
    made["trl SFTTrainer, GRPOTrainer"] = _all(r"test_trainer\.py::test_trainer\[(SFTTrainer|GRPOTrainer)\]$")
    made["lightning: automatic and manual, epoch resume"] = _all(r"test_lightning\.py::test_lightning\[(automatic|manual)\]$")
    for kind, told in (
        ("FSDP2", "FSDP2, uneven and empty shards, region x shard"),
        ("HSDP", "HSDP"),
        ("tensor parallel", "tensor parallel"),
    ):
        made[f"{told}; torch.distributed.checkpoint"] = _all(rf"test_sharded\.py::test_sharded\[{kind}-[a-z-]+\]$")
    return made


TABLE = _table()


def render(outcomes: Mapping[str, str]) -> str:
    """The table from the outcome of every test by its node id. Raises `ValueError` for a cell without a test."""
    lines = [f"| bit for bit | {' | '.join(COLUMNS)} |", "|---|" + "---|" * len(COLUMNS)]
    for label, patterns in TABLE.items():
        cells = []
        for pattern in patterns:
            found = [outcome for node, outcome in outcomes.items() if re.search(pattern, node)]
            if not found:
                raise ValueError(f"no test is behind {label!r}: {pattern}")
            cells.append("yes" if set(found) == {"passed"} else "**no**")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def written(text: str, table: str) -> str:
    """The README with that table in its place."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}"


def in_readme() -> str:
    """The table that the README has."""
    return README.read_text().split(BEGIN)[1].split(END)[0].strip()
