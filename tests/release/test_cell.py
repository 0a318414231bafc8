"""One environment: what stands in for the libraries of CUDA, and when none is begun."""

import ctypes
import shutil
import subprocess
from collections import namedtuple
from pathlib import Path

import pytest

from release import cell, standins
from release.where import Python


def compiled(source: str, path: Path, *options: str) -> None:
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-x", "none", "-o", str(path), *options]
    subprocess.run(command, input=source, text=True, check=True)


def test_what_is_linked_against_a_library_that_is_not_there_is_loaded_and_told_that_there_is_no_device(tmp_path: Path) -> None:
    lib, real = tmp_path / "lib", tmp_path / "libcudathing.so.12"
    lib.mkdir()
    compiled("int cudaCount(void) { return 0; }", real, "-Wl,-soname,libcudathing.so.12")
    compiled("int cudaCount(void); int count(void) { return cudaCount(); }", lib / "libtorch_toy.so", str(real), "-Wl,-rpath,$ORIGIN")
    real.unlink()
    with pytest.raises(OSError, match=r"libcudathing\.so\.12"):
        ctypes.CDLL(str(lib / "libtorch_toy.so"))
    assert standins.put(tmp_path) == ["libcudathing.so.12"]
    assert ctypes.CDLL(str(lib / "libtorch_toy.so")).count() == standins.NO_DEVICE
    assert standins.put(tmp_path) == []


def test_no_environment_is_begun_on_a_disk_that_is_nearly_full(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**11, 9 * 10**10, 10**10))
    outcome = cell.attempt(Python("3.12", "3.12.1", Path("/nowhere")), "2.9.1", Path("thinwire-0.1.0-py3-none-any.whl"))
    assert (outcome.python, outcome.torch, outcome.word) == ("3.12", "2.9.1", cell.UNTRIED)
    assert outcome.why.startswith("10 GB are free in ")
