"""What a user installs: a light import, relative links, one wheel for every Python."""

import os
import re
import statistics
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

import thinwire
from thinwire import cli

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("comms", "kernels", "optim")
IMPORT_S = 0.15
HEAVY = ("hivemind", "triton", "rich", "tyro", "matplotlib", "transformers", "torch._dynamo", "torch._inductor")


def run(code: str, *, cwd: Path) -> str:
    """What a fresh interpreter prints; in `cwd`, so that the repository is not on its path by accident.

    It keeps bytecode as an interpreter does by default: where that is off, every import compiles the source again.
    """
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_adds_little_to_torch(tmp_path: Path) -> None:
    # CPU seconds: the import only computes, and a busy machine must not change the answer. Frozen: a collection of all of torch's objects
    # may fall into any import, and takes longer than ours.
    code = "import gc, time, torch; gc.freeze(); start = time.process_time(); import thinwire; print(time.process_time() - start)"
    seconds = [float(run(code, cwd=tmp_path)) for _ in range(5)]
    assert min(seconds) < IMPORT_S, f"median {statistics.median(seconds):.3f} s, all {seconds}"


def test_import_pulls_in_nothing_heavy_that_torch_does_not(tmp_path: Path) -> None:
    code = "import sys, torch; before = set(sys.modules); import thinwire; print(*sorted(set(sys.modules) - before))"
    added = run(code, cwd=tmp_path).split()
    assert "thinwire.optim.diloco" in added
    assert [name for name in added if name.startswith(HEAVY)] == []


def test_the_version_is_written_once_and_told_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    told = re.findall(r'^version = "(\d+\.\d+\.\d+)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert told == [thinwire.__version__] == [version("thinwire")]
    cli.main(["--version"])
    assert capsys.readouterr().out == f"thinwire {told[0]}\n"
    headings = re.findall(r"^## \[(.+)\] - (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0][0] == told[0]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for _, date in headings[1:])
    assert not re.search(r"\d+\.\d+\.\d+", (ROOT / "csrc" / "CMakeLists.txt").read_text())


@pytest.mark.parametrize("folder", FOLDERS)
def test_links_are_relative_and_lead_to_the_root(folder: str) -> None:
    link = ROOT / "src" / "thinwire" / folder
    assert link.is_symlink()
    assert link.readlink() == Path("../..") / folder
    assert link.resolve() == ROOT / folder


def test_the_command_is_installed() -> None:
    [command] = entry_points(group="console_scripts", name="thinwire")
    assert command.load() is cli.main
