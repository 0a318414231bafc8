"""The README's table is the one that a run writes where every cell passes, and a failing cell shows."""

import re

import pytest

from tests.compat import matrix
from tests.compat.loops import rows


def nodes() -> dict[str, str]:
    """A made-up run in which everything passes."""
    made = {f"tests/compat/test_loops.py::{test}[{row}]": "passed" for test in matrix.LOOP for row in rows()}
    made |= {f"tests/compat/test_trainer.py::test_trainer[{kind}]": "passed" for kind in ("Trainer", "SFTTrainer", "GRPOTrainer")}
    made |= {f"tests/compat/test_lightning.py::test_lightning[{kind}]": "passed" for kind in ("automatic", "manual")}
    made |= {f"tests/compat/test_sharded.py::test_sharded[{kind}-blockmax]": "passed" for kind in ("FSDP2", "HSDP", "tensor parallel")}
    return made | {"tests/compat/test_accelerate.py::test_accelerate": "passed"}


def test_the_readme_has_the_table_of_a_run_where_everything_passes() -> None:
    assert matrix.in_readme() == matrix.render(nodes())


def test_every_test_of_the_loops_is_behind_a_cell() -> None:
    patterns = [pattern for cells in matrix.TABLE.values() for pattern in cells]
    assert [node for node in nodes() if not any(re.search(pattern, node) for pattern in patterns)] == []


def test_a_cell_that_fails_or_has_no_test_shows() -> None:
    made = nodes()
    made[f"tests/compat/test_loops.py::{matrix.LOOP[2]}[inner Muon]"] = "failed"
    row = next(line for line in matrix.render(made).splitlines() if "Muon" in line)
    assert row.endswith("| yes | yes | **no** |")
    del made["tests/compat/test_accelerate.py::test_accelerate"]
    with pytest.raises(ValueError, match="no test is behind 'accelerate"):
        matrix.render(made)
