"""What made a number, with nothing but torch and the standard library: a bare checkout on a machine with a card has no more."""

import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from shutil import which

import torch

ROOT = Path(__file__).resolve().parents[2]
CHECKOUT = (ROOT / "pyproject.toml").exists()  # else these modules lie in site-packages, where no results belong
RESULTS = ROOT / "benchmarks" / "results" if CHECKOUT else Path("results")


def provenance() -> dict[str, str]:
    """Time, command, commit, versions, machine."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command(),
        "commit": commit(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def program() -> str:
    """The name of what this process runs, as it is typed."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    by_name = spec is not None and Path(sys.argv[0]).suffix == ".py"  # `python -m`; `thinwire bench` says its own name
    return f"python -m {spec.name.removesuffix('.__main__')}" if by_name else Path(sys.argv[0]).name


def command() -> str:
    """What this process was started with, ready to be typed again."""
    return " ".join([program(), *(shlex.quote(word) for word in sys.argv[1:])])


def commit() -> str:
    """The checkout's commit, marked when files differ from it; outside of a checkout the installed version."""
    if not CHECKOUT:
        return f"thinwire {version('thinwire')}"

    def git(*words: str) -> str:
        if which("git") is None:
            return ""
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    return (git("rev-parse", "--short=12", "HEAD") or "uncommitted") + ("+changes" if git("status", "--porcelain") else "")
