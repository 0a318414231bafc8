"""What `make build` makes: an sdist that needs no git and holds no results, and a wheel that is the same from the checkout and from it."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NAME = f"thinwire-{version('thinwire')}"
BARE = ("-C", "wheel.cmake=false")  # all but the library: a second instead of minutes
LIBRARY = "thinwire/kernels/libthinwire.so"
SETTINGS = {"SOURCE_DATE_EPOCH": "1700000000"}


def built(kind: str, source: Path, out: Path, *options: str, path: str | None = None) -> Path:
    """The sdist or the wheel that the build makes of a folder, with the tools of this environment: no network."""
    env = os.environ | SETTINGS | ({} if path is None else {"PATH": path})
    command = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(out), *options, str(source)]
    done = subprocess.run(command, cwd=out, env=env, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = out.glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return made


def unpacked(sdist: Path, into: Path) -> Path:
    with tarfile.open(sdist) as archive:
        if sys.version_info >= (3, 12):
            archive.extractall(into, filter="data")
        else:
            archive.extractall(into)
    return into / NAME


def contents(wheel: Path) -> Mapping[str, str]:
    """Digests of all files by name."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


def test_the_sdist_holds_the_source_and_no_results_caches_or_links(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    names = {member.name.removeprefix(f"{NAME}/") for member in members}
    assert sdist.name == f"{NAME}.tar.gz"
    assert all(member.isfile() and member.name.startswith(f"{NAME}/") for member in members)
    assert {"PKG-INFO", "LICENSE", "csrc/pool.cpp", "optim/diloco.py", "src/thinwire/__init__.py", "docs/wire-format.md"} <= names
    odd = r"(^|/)(results|__pycache__|build|dist|\.\w[^/]*)(/|$)|\.(pyc|so|o|whl)$"
    assert sorted(name for name in names if re.search(odd, name)) == [".gitignore"]  # the build reads it
    assert sdist.stat().st_size < 5e6


def test_the_sdist_holds_what_git_knows(sdist: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no checkout")
    listed = subprocess.run(["git", "ls-files", "-s", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    known = {name: mode.split()[0] for mode, name in (line.split("\t") for line in listed.split("\0") if line)}
    with tarfile.open(sdist) as archive:
        names = {member.name.removeprefix(f"{NAME}/") for member in archive.getmembers()}
    links = {name for name, mode in known.items() if mode == "120000"}
    apart = {name for name in known if name.startswith(("benchmarks/results/", ".ci/", ".pre-commit"))}
    assert {f"src/thinwire/{name}" for name in ("comms", "kernels", "optim")} <= links
    assert known.keys() - names == links | apart


def test_the_wheel_is_the_same_from_the_checkout_and_from_the_sdist_without_git(sdist: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "bin"):
        (tmp_path / name).mkdir()
    (tmp_path / "bin" / "git").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin" / "git").chmod(0o755)
    one = built("wheel", ROOT, tmp_path / "a", *BARE)
    other = built("wheel", unpacked(sdist, tmp_path), tmp_path / "b", *BARE, path=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert contents(one) == contents(other)
    assert one.read_bytes() == other.read_bytes()
    names = contents(one).keys()
    assert {"thinwire/__init__.py", "thinwire/py.typed", "thinwire/optim/diloco.py", "thinwire/comms/stages/pack.py"} <= names
    assert {"thinwire/cli.py", "thinwire/output.py", "thinwire/suite/examples/multiregion/data.py"} <= names
    assert {f"thinwire/suite/benchmarks/{path}" for path in ("suite/record.py", "lab/home.toml", "report/page.html.j2")} <= names
    assert "thinwire/comms/swarm/web/page.html" in names
    assert not [name for name in names if "/results/" in name]
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"thinwire"}
    assert not [name for name in names if "test" in name or name.endswith((".pyc", ".cpp", ".h"))]
    with zipfile.ZipFile(one) as archive:
        assert not [member.filename for member in archive.infolist() if member.external_attr >> 28 == 0xA], "a link in a wheel"


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_wheels_built_in_two_places_are_equal_byte_by_byte_and_serve_every_python(sdist: Path, tmp_path: Path) -> None:
    wheels = []
    for name in ("one", "another-place"):
        (tmp_path / name).mkdir()
        source = unpacked(sdist, tmp_path / name)
        (tmp_path / name / "out").mkdir()
        made = built("wheel", source, tmp_path / name / "out", "-C", f"build-dir={tmp_path / name / 'objects'}")
        tools = os.environ | SETTINGS | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        repair = [sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", str(tmp_path / name), str(made)]
        subprocess.run(repair, env=tools, check=True, capture_output=True, timeout=120)
        wheels += (tmp_path / name).glob("*.whl")
        shutil.rmtree(source)
    one, other = wheels
    assert one.name == other.name
    assert re.fullmatch(rf"{NAME}-py3-none-(manylinux_2_\d+_\w+\.?)+\.whl", one.name)
    assert LIBRARY in contents(one)
    assert contents(one) == contents(other)
    assert one.read_bytes() == other.read_bytes()
