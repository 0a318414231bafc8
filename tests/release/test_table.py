"""The table of what was run: every cell is in it, and what does not pass has its reason."""

from pathlib import Path

import pytest

from release.__main__ import in_turn, the_wheel
from release.cell import ABSENT, FAILS, PASSES, UNTRIED, Outcome
from release.table import BEGIN, END, PAGE, render, written
from release.where import PYTHONS, newest

OUTCOMES = [
    Outcome("3.10", "2.9.1", PASSES, build="2.9.1+cu128 with stand-ins for 15 libraries of CUDA", import_s=0.0912),
    Outcome("3.12", "2.9.1", FAILS, "smoke: two members of DeMo end with different weights"),
    Outcome("3.13", "2.9.1", UNTRIED, "40 minutes were over"),
    Outcome("3.10", "2.10.0", ABSENT, "pip finds no torch 2.10.0 for Python 3.10"),
    Outcome("3.13", "2.10.0", UNTRIED, "40 minutes were over"),
]


def test_torches_in_order_and_a_reason_for_each_that_does_not_pass() -> None:
    assert render(OUTCOMES, "thinwire:") == "\n".join(
        [
            "thinwire:",
            "",
            "| torch | Python 3.10 | Python 3.11 | Python 3.12 | Python 3.13 |",
            "|---|---|---|---|---|",
            "| 2.9.1 | passes, 91 ms | not asked for | fails (1) | not tried (2) |",
            "| 2.10.0 | none to be had (3) | not asked for | not asked for | not tried (2) |",
            "",
            "1. fails: smoke: two members of DeMo end with different weights",
            "2. not tried: 40 minutes were over",
            "3. none to be had: pip finds no torch 2.10.0 for Python 3.10",
            "",
            "Builds of torch: 2.9.1+cu128 with stand-ins for 15 libraries of CUDA.",
        ]
    )


def test_the_page_has_a_place_for_it() -> None:
    page = PAGE.read_text()
    assert page.count(BEGIN) == page.count(END) == 1
    assert written(f"a\n{BEGIN}\nold\n{END}\nz", "new") == f"a\n{BEGIN}\nnew\n{END}\nz"


def test_every_pair_has_its_turn_and_the_corners_come_first() -> None:
    torches = ["2.6.0", "2.7.1", "2.10.0"]
    turns = list(in_turn(list(PYTHONS), torches))
    assert set(turns[:4]) == {(minor, torch) for minor in ("3.10", "3.13") for torch in ("2.6.0", "2.10.0")}
    assert sorted(turns) == sorted((minor, torch) for minor in PYTHONS for torch in torches)


def test_the_newest_of_each_minor_version_counts() -> None:
    assert newest(["2.10.0", "2.7.1+cpu", "2.7.0", "2.9.0rc1", "2.5.1", "1.13.1"]) == ["2.7.1", "2.10.0"]


def test_one_wheel_at_a_time(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holds 0 wheels, one is tested at a time: make build"):
        the_wheel(tmp_path)
