"""One wheel in one new environment with one torch: made outside the checkout, tested from another directory, thrown away."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from release import standins
from release.where import Python

SMOKE = Path(__file__).with_name("smoke.py")
CORE = ("numpy", "xxhash")  # what thinwire needs beside torch
FREE_GB = 21.0  # a torch with its libraries takes 6; 15 stay free
CARD = re.compile(r"(nvidia|cuda|triton|pytorch-triton)\b", re.I)  # what torch wants for cards only
PASSES, FAILS, ABSENT, UNTRIED = "passes", "fails", "none to be had", "not tried"


@dataclass(frozen=True)
class Outcome:
    """Of a Python ("3.12") and a torch ("2.9.1"): `word` is one of the four above, `why` a sentence unless it passes.

    `build` is the torch's own version and what was done to import it, `import_s` the processor time of importing thinwire over torch.
    """

    python: str
    torch: str
    word: str
    why: str = ""
    build: str = ""
    import_s: float = 0.0
    seconds: float = 0.0


class Unfit(Exception):
    """What could not be installed, and why."""


def attempt(python: Python, torch: str, wheel: Path, *, at: Path | None = None) -> Outcome:
    """Install and test; `at`: the site-packages of a torch that is here already. Never raises for what fails there."""
    began = time.monotonic()

    def outcome(word: str, why: str = "", build: str = "", import_s: float = 0.0) -> Outcome:
        return Outcome(python.minor, torch, word, why, build, import_s, round(time.monotonic() - began, 1))

    free = shutil.disk_usage(tempfile.gettempdir()).free / 1e9
    if at is None and free < FREE_GB:
        return outcome(UNTRIED, f"{free:.0f} GB are free in {tempfile.gettempdir()}, {FREE_GB:.0f} are needed")
    with _environment(python) as (interpreter, elsewhere):
        try:
            _pip(interpreter, "--no-deps", str(wheel))
            build = _borrow(interpreter, at) if at is not None else _fetch(interpreter, torch)
        except Unfit as error:
            return outcome(ABSENT, str(error))
        command = [str(interpreter), "-I", str(SMOKE), "--version", wheel.name.split("-")[1]]
        try:
            done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, timeout=600)
        except subprocess.TimeoutExpired:
            return outcome(FAILS, "the smoke suite did not end within 600 s", build)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return outcome(FAILS, _last(done.stderr), build)
    told = json.loads(done.stdout.splitlines()[-1])
    return outcome(PASSES, "", build or str(told["torch"]), float(told["import_s"]))


@contextmanager
def _environment(python: Python) -> Iterator[tuple[Path, Path]]:
    """A new environment in a folder of its own, and an empty directory to work in; both are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="thinwire-wheel-") as folder:
        venv, elsewhere = Path(folder) / "venv", Path(folder) / "elsewhere"
        elsewhere.mkdir()
        subprocess.run([str(python.path), "-m", "venv", str(venv)], check=True, timeout=300)
        yield venv / "bin" / "python", elsewhere


def _borrow(interpreter: Path, site: Path) -> str:
    """Put the packages of another environment behind those of this one; its editable installs stay there, since only a path is added."""
    own = subprocess.run(
        [str(interpreter), "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout.strip()  # fmt: skip
    Path(own, "borrowed.pth").write_text(f"{site}\n")
    lacking = [name for name in CORE if _runs(interpreter, f"import {name}")]
    if lacking:
        _pip(interpreter, *lacking)
    return ""


def _fetch(interpreter: Path, torch: str) -> str:
    """Install torch without what cards need, and put stand-ins for the libraries that it cannot be loaded without."""
    _pip(interpreter, "--no-deps", "--no-compile", f"torch=={torch}")
    wants = "import importlib.metadata as m; print('\\n'.join(m.requires('torch') or []))"
    said = subprocess.run([str(interpreter), "-I", "-c", wants], capture_output=True, text=True, check=True, timeout=60).stdout
    needs = [line for line in said.splitlines() if line and "extra ==" not in line and not CARD.match(line)]
    _pip(interpreter, *needs, *CORE)
    why = _runs(interpreter, "import torch")
    made: list[str] = []
    if why:
        where = "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
        found = subprocess.run([str(interpreter), "-I", "-c", where], capture_output=True, text=True, check=True, timeout=60).stdout.strip()
        made = standins.put(Path(found))
        why = _runs(interpreter, "import torch")
    if why:
        raise Unfit(f"torch {torch} cannot be imported: {why}")
    version = "import torch; print(torch.__version__)"
    said = subprocess.run([str(interpreter), "-I", "-c", version], capture_output=True, text=True, check=True, timeout=120).stdout.strip()
    return f"{said} with stand-ins for {len(made)} libraries of CUDA" if made else said


def _runs(interpreter: Path, code: str) -> str:
    """Why some code fails in a new process, or "" when it does not."""
    done = subprocess.run([str(interpreter), "-I", "-c", code], capture_output=True, text=True, timeout=300)
    return _last(done.stderr) if done.returncode else ""


def _pip(interpreter: Path, *what: str) -> None:
    command = [str(interpreter), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-cache-dir"]
    done = subprocess.run([*command, *what], capture_output=True, text=True, timeout=1200)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise Unfit((errors or [_last(done.stderr)])[0].removeprefix("ERROR: "))


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1].strip()
