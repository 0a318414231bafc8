"""`make test-wheel`: the wheel of dist/ on every Python that is found and every torch that can be had for it.

Outcomes are kept in build/wheels.json for as long as the wheel and the smoke suite stay the same, so that a run that was stopped goes on.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from release.cell import ABSENT, FAILS, PASSES, SMOKE, UNTRIED, Outcome, attempt
from release.table import PAGE, render, written
from release.where import PYTHONS, Python, here, offered, pythons

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "build" / "wheels.json"


def main() -> None:
    options = argparse.ArgumentParser(prog="make test-wheel", description="Test the wheel of dist/ where it is installed.")
    options.add_argument("--installed", action="store_true", help="only Pythons that have a torch already; downloads none, writes nothing")
    options.add_argument("--minutes", type=float, default=40.0, help="no new environment is begun after so long (40)")
    options.add_argument("--python", nargs="+", default=PYTHONS, metavar="MINOR", help="only these, as 3.12")
    options.add_argument("--torch", nargs="+", metavar="VERSION", help="only these; writes nothing, and keeps what it finds")
    given = options.parse_args()
    wheel = the_wheel(ROOT / "dist")
    if given.installed:
        outcomes = list(installed(wheel))
        print(render(outcomes, f"{wheel.name}, with the torch that is here"))
    else:
        outcomes = everything(wheel, given.python, given.torch, given.minutes)
        table = render(outcomes, f"`{wheel.name}`:")
        print(table)
        if not given.torch and set(given.python) == set(PYTHONS):
            PAGE.write_text(written(PAGE.read_text(), table))
    failed = [outcome for outcome in outcomes if outcome.word == FAILS]
    if failed or not any(outcome.word == PASSES for outcome in outcomes):
        raise SystemExit(f"{len(failed)} failed, {sum(outcome.word == PASSES for outcome in outcomes)} passed")


def the_wheel(folder: Path) -> Path:
    """The one wheel of a folder. Raises `SystemExit` when there is none, or more."""
    found = sorted(folder.glob("*.whl"))
    if len(found) != 1:
        raise SystemExit(f"{folder} holds {len(found)} wheels, one is tested at a time: make build")
    return found[0]


def installed(wheel: Path) -> Iterator[Outcome]:
    """Outcomes with the torch of this environment, and of every other Python that has one."""
    own = Python(f"{sys.version_info[0]}.{sys.version_info[1]}", sys.version.split()[0], Path(sys.executable))
    found = here(own)
    if found is None:
        raise SystemExit(f"{own.path} has no torch: make setup")
    yield attempt(own, found[0], wheel, at=found[1])
    for minor, python in pythons().items():
        if minor == own.minor:
            continue
        other = here(python)
        if other is None:
            yield Outcome(minor, found[0], ABSENT, "that Python has no torch on this machine, and none was downloaded")
        else:
            yield attempt(python, other[0], wheel, at=other[1])


def everything(wheel: Path, minors: list[str], only: list[str] | None, minutes: float) -> list[Outcome]:
    """An outcome for every Python and every torch that pip finds for any of them."""
    kept = Kept(wheel)
    found = pythons()
    torches = {minor: offered(python) for minor, python in found.items() if minor in minors}
    every = only or sorted({torch for offers, _ in torches.values() for torch in offers}, key=lambda v: [int(n) for n in v.split(".")])
    outcomes, until = [], time.monotonic() + 60 * minutes
    for minor, torch in in_turn(minors, every):
        offers, why = torches.get(minor, ([], f"no Python {minor} is on the path or in pyenv"))
        old = kept.get(minor, torch)
        if old is not None:
            outcome = old
        elif torch not in offers and not (only and offers):
            outcome = Outcome(minor, torch, ABSENT, why or f"pip finds no torch {torch} for Python {minor}")
        elif time.monotonic() > until:
            outcome = Outcome(minor, torch, UNTRIED, f"the {minutes:.0f} minutes of this run were over")
        else:
            outcome = attempt(found[minor], torch, wheel)
            kept.put(outcome)
        print(f"{minor:5} {torch:8} {outcome.word} {outcome.why or outcome.build}, {outcome.seconds} s", file=sys.stderr, flush=True)
        outcomes.append(outcome)
    return outcomes


def in_turn(minors: list[str], torches: list[str]) -> Iterator[tuple[str, str]]:
    """All pairs, those first that say most: the ends of both, then a diagonal, then the rest."""
    pairs = [(minor, torch) for torch in torches for minor in minors]

    def rank(pair: tuple[str, str]) -> int:
        i, j = minors.index(pair[0]), torches.index(pair[1])
        if j in (0, len(torches) - 1) and i in (0, len(minors) - 1):
            return 0
        return 1 if i == j % len(minors) else 2

    return iter(sorted(pairs, key=rank))


class Kept:
    """Outcomes of this wheel and this smoke suite that need not be found again; what was not tried is tried again."""

    def __init__(self, wheel: Path) -> None:
        told = hashlib.sha256(b"".join(path.read_bytes() for path in (wheel, SMOKE, SMOKE.with_name("golden.json"))))
        self.of = told.hexdigest()
        self.all: dict[str, Mapping[str, object]] = {}
        if KEPT.exists():
            saved = json.loads(KEPT.read_text())
            self.all = saved["outcomes"] if saved["of"] == self.of else {}

    def get(self, minor: str, torch: str) -> Outcome | None:
        saved = self.all.get(f"{minor} {torch}")
        return Outcome(**saved) if saved and saved["word"] == PASSES else None  # type: ignore[arg-type]  # from asdict

    def put(self, outcome: Outcome) -> None:
        self.all[f"{outcome.python} {outcome.torch}"] = asdict(outcome)
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_text(json.dumps({"of": self.of, "outcomes": self.all}, indent=1))


if __name__ == "__main__":
    main()
