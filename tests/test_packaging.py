"""What a user installs: a light import, relative links, one wheel for every Python."""

import os
import re
import statistics
import subprocess
import sys
import zipfile
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
    # CPU seconds: the import only computes, and a busy machine must not change the answer.
    code = "import time, torch; start = time.process_time(); import thinwire; print(time.process_time() - start)"
    seconds = [float(run(code, cwd=tmp_path)) for _ in range(5)]
    assert min(seconds) < IMPORT_S, f"median {statistics.median(seconds):.3f} s, all {seconds}"


def test_import_pulls_in_nothing_heavy_that_torch_does_not(tmp_path: Path) -> None:
    code = "import sys, torch; before = set(sys.modules); import thinwire; print(*sorted(set(sys.modules) - before))"
    added = run(code, cwd=tmp_path).split()
    assert "thinwire.optim.diloco" in added
    assert [name for name in added if name.startswith(HEAVY)] == []


def test_version_is_the_installed_one() -> None:
    assert thinwire.__version__ == version("thinwire")
    assert re.fullmatch(r"\d+\.\d+\.\d+", thinwire.__version__)


@pytest.mark.parametrize("folder", FOLDERS)
def test_links_are_relative_and_lead_to_the_root(folder: str) -> None:
    link = ROOT / "src" / "thinwire" / folder
    assert link.is_symlink()
    assert link.readlink() == Path("../..") / folder
    assert link.resolve() == ROOT / folder


def test_the_command_is_installed() -> None:
    [command] = entry_points(group="console_scripts", name="thinwire")
    assert command.load() is cli.main


@pytest.mark.slow
def test_wheel_serves_every_python_and_holds_the_package_only(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(ROOT)],
        cwd=tmp_path,
        check=True,
        timeout=280,
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert re.fullmatch(rf"thinwire-{re.escape(version('thinwire'))}-py3-none-\w+\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        members = archive.infolist()
    names = {member.filename for member in members}
    assert {"thinwire/__init__.py", "thinwire/py.typed", "thinwire/optim/diloco.py", "thinwire/comms/stages/pack.py"} <= names
    assert "thinwire/kernels/libthinwire.so" in names
    assert {"thinwire/cli.py", "thinwire/output.py", "thinwire/suite/examples/multiregion/data.py"} <= names
    assert {f"thinwire/suite/benchmarks/{path}" for path in ("suite/record.py", "lab/home.toml", "report/page.html.j2")} <= names
    assert "thinwire/comms/swarm/web/page.html" in names
    assert not [name for name in names if "/results/" in name]
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"thinwire"}
    assert not [name for name in names if "test" in name or name.endswith((".pyc", ".cpp", ".h"))]
    assert not [member.filename for member in members if member.external_attr >> 28 == 0xA], "a link in a wheel"
