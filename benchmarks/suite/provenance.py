"""What made a number, with nothing but torch and the standard library: a bare checkout on a machine with a card has no more."""

import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from shutil import which

import torch

ROOT = Path(__file__).resolve().parents[2]


def provenance() -> dict[str, str]:
    """Time, commit, versions, machine."""
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def commit() -> str:
    """The checkout's commit, marked when files differ from it."""

    def git(*words: str) -> str:
        if which("git") is None:
            return ""
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    return (git("rev-parse", "--short=12", "HEAD") or "uncommitted") + ("+changes" if git("status", "--porcelain") else "")
