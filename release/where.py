"""Which Pythons are on this machine, and which torches can be had for them."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PYTHONS = ("3.10", "3.11", "3.12", "3.13")
OLDEST = (2, 6)  # what torch>= could ever say
_ASK = "import ensurepip, venv, sys; print(sys.version.split()[0])"
_TORCH = (
    "import json, numpy, torch; print(json.dumps([str(torch.__version__), str(__import__('pathlib').Path(torch.__file__).parents[1])]))"
)


@dataclass(frozen=True)
class Python:
    """An interpreter: `minor` as in "3.12", its whole version, its path."""

    minor: str
    version: str
    path: Path


def pythons() -> dict[str, Python]:
    """Those of `PYTHONS` that are on the path or that pyenv has, and can make environments; this one before others of its minor version."""
    found = {}
    for minor in PYTHONS:
        candidates = [Path(sys.executable)] if sys.version_info[:2] == _numbers(minor) else []
        on_path = shutil.which(f"python{minor}")
        candidates += sorted(_pyenv().glob(f"{minor}.*/bin/python{minor}"), key=lambda path: _numbers(path.parents[1].name), reverse=True)
        candidates += [Path(on_path)] if on_path else []
        for path in candidates:
            said = _said(path, _ASK)
            if said is not None and said.startswith(f"{minor}."):
                found[minor] = Python(minor, said, path)
                break
    return found


def offered(python: Python) -> tuple[list[str], str]:
    """The newest release of every minor version of torch, oldest first, that pip finds for an interpreter; or why it finds none."""
    asked = [str(python.path), "-m", "pip", "--disable-pip-version-check", "index", "versions", "torch"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=180)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [], f"pip cannot be asked: {error}"
    listed = re.search(r"^Available versions: (.*)$", done.stdout, re.M)
    if listed is None:
        return [], (done.stderr.strip().splitlines() or ["pip finds no torch"])[-1]
    return newest(re.split(r",\s*", listed[1].strip())), ""


def newest(versions: list[str]) -> list[str]:
    """The last release of each minor version from `OLDEST` on, oldest first, without local parts such as "+cpu".

    >>> newest(["2.7.1+cpu", "2.7.0", "2.10.0", "2.9.0rc1", "2.5.1"])
    ['2.7.1', '2.10.0']
    """
    plain = {version.partition("+")[0] for version in versions}
    released = sorted((version for version in plain if re.fullmatch(r"\d+(\.\d+)+", version)), key=_numbers)
    last = {_numbers(version)[:2]: version for version in released}
    return [version for minor, version in last.items() if minor >= OLDEST]


def here(python: Python) -> tuple[str, Path] | None:
    """The torch that an interpreter has already, and the folder that it lies in, or None."""
    said = _said(python.path, _TORCH)
    if said is None:
        return None
    version, folder = json.loads(said)
    return version, Path(folder)


def _said(path: Path, code: str) -> str | None:
    """The last line that an interpreter prints for some code, or None when it fails."""
    try:
        done = subprocess.run([str(path), "-I", "-c", code], capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip().splitlines()[-1] if done.returncode == 0 and done.stdout.strip() else None


def _pyenv() -> Path:
    return Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
