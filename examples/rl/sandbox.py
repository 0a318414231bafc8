"""Untrusted Python in a process of its own, with limits that it cannot lift: what a tool or code environment runs completions in.

What is guaranteed, and where (`Sandbox.mode` says which; `examples.rl.jail` is how):

    "full"   As root (Linux 5.12), or as anybody where the kernel allows user namespaces (Linux 6.0).
             Nothing of the program outlives the call, however it forks. It sees no network, no file but those of the system's /usr, the
             Python it runs in and its own folder, no environment, no process but its own. It writes to nothing but its folder, of
             `disk_nbytes`.
    "plain"  As root where namespaces are forbidden, which is so in most containers; only if asked for with `allow_plain`.
             No process of the program outlives the call. It sees the network, and every file that any user may read; it may write where
             any user may (/tmp), `file_nbytes` a file, and leave shared memory behind.
    neither  `SandboxError` when the sandbox is made, with what the kernel said.

In both: `processes` at once, each of `memory_nbytes` address space and `cpu_s` of processor time, all together `wall_s`. So memory is
bounded by processes * (memory_nbytes + open_files * file_nbytes), the latter for nameless files. Of each stream `output_nbytes` are read,
then the program is ended. It is no defence against a hole in the kernel: for those who may try one, run the worker itself in a virtual
machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

JAIL = Path(__file__).with_name("jail.py")
MAX_FILES_NBYTES = 1 << 20
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41}
_KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219}
_GRACE_S = 30.0  # for the keeper, on a busy machine, beyond the program's time
Mode = Literal["full", "plain"]


class SandboxError(RuntimeError):
    """This machine gives no sandbox; says why and what would help."""


@dataclass(frozen=True)
class Bounds:
    """What a program may use."""

    wall_s: float = 5.0
    cpu_s: int = 4
    memory_nbytes: int = 256 << 20
    processes: int = 8
    file_nbytes: int = 8 << 20
    disk_nbytes: int = 16 << 20
    open_files: int = 32
    output_nbytes: int = 64 << 10

    def __post_init__(self) -> None:
        if self.wall_s <= 0 or self.memory_nbytes < 64 << 20 or self.open_files < 8:
            raise ValueError(f"{self}: wall_s is above 0, memory_nbytes at least 64 MB (Python itself), open_files at least 8")
        for name in ("cpu_s", "processes", "file_nbytes", "disk_nbytes", "output_nbytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"Bounds.{name} is {getattr(self, name)}; at least 1")


@dataclass(frozen=True)
class Ran:
    """How a program ended. `ended` is its exit code, minus the signal that killed it, or None when it was ended for time or output. Exit
    codes from 192 on read as signals."""

    ended: int | None
    stdout: bytes
    stderr: bytes
    seconds: float

    @property
    def ok(self) -> bool:
        return self.ended == 0


class Sandbox:
    """Runs programs, one at a time or from several threads. Raises `SandboxError` where the machine cannot."""

    def __init__(self, bounds: Bounds = Bounds(), *, allow_plain: bool = False, python: str | None = None) -> None:
        self.bounds = bounds
        self._python = os.path.realpath(python or str(getattr(sys, "_base_executable", sys.executable)))
        self.mode: Mode = self._probe(("full", "plain") if allow_plain else ("full",))

    def run(self, files: Mapping[str, str], main: str = "main.py") -> Ran:
        """Write `files` (plain names) to an empty folder, run `main` there; raises `ValueError` for files that cannot be."""
        if main not in files or any("/" in name or "\0" in name or name in ("", ".", "..") for name in files):
            raise ValueError(f"files {sorted(files)} with main {main!r}; give plain names, main among them")
        text = json.dumps(dict(files))  # surrogates and NUL go through
        if len(text) > MAX_FILES_NBYTES:
            raise ValueError(f"{len(text)} bytes of files, at most {MAX_FILES_NBYTES}")
        return self._run(self.mode, text, main)

    def _probe(self, modes: tuple[Mode, ...]) -> Mode:
        said = []
        for mode in modes:
            try:
                ran = self._run(mode, json.dumps({"main.py": "print('inside')"}), "main.py")
            except SandboxError as error:
                said.append(f"{mode}: {error}")
                continue
            if ran.stdout == b"inside\n" and ran.ok:
                return mode
            said.append(f"{mode}: {(ran.stderr or ran.stdout)[-200:].decode(errors='replace').strip() or ran.ended}")
        raise SandboxError(
            f"no sandbox here ({'; '.join(said)}). It needs Linux 5.12, and to be root with CAP_SYS_ADMIN or user namespaces (sysctl "
            "kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns); for root in a container, allow_plain=True"
        )

    def _run(self, mode: Mode, files: str, main: str) -> Ran:
        with tempfile.TemporaryDirectory(prefix="thinwire-sandbox-", ignore_cleanup_errors=True) as folder, _input(files) as source:
            os.chmod(folder, 0o755 if mode == "full" else 0o700)
            reading, writing = os.pipe()
            with contextlib.ExitStack() as stack:
                stack.callback(os.close, reading)
                started = time.monotonic()
                command = [self._python, "-I", "-S", "-B", str(JAIL), json.dumps(self._settings(mode, folder, main, writing))]
                try:
                    keeper = subprocess.Popen(
                        command,
                        stdin=source,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.PIPE,
                        env={},
                        pass_fds=(writing,),
                        start_new_session=True,
                    )
                finally:
                    os.close(writing)
                stdout, stderr = _collect(keeper, self.bounds)
                seconds = time.monotonic() - started
                verdict = _verdict(os.read(reading, 1 << 16))
        if "failed" in verdict:
            raise SandboxError(str(verdict["failed"]))
        return Ran(verdict.get("ended"), stdout, stderr, seconds)

    def _settings(self, mode: Mode, folder: str, main: str, verdict: int) -> dict[str, Any]:
        bounds = self.bounds
        others = 2 if mode == "full" and os.geteuid() != 0 else 0  # the keeper and the first process, under the same user id
        return {
            "mode": mode,
            "folder": folder,
            "main": main,
            "verdict": verdict,
            "parent": os.getpid(),
            "python": self._python,
            "visible": _visible(self._python),
            "pivot_root": _PIVOT_ROOT.get(platform.machine(), -1),
            "keyctl": _KEYCTL.get(platform.machine(), -1),
            "wall_s": bounds.wall_s,
            "disk_nbytes": bounds.disk_nbytes,
            "limits": {
                "RLIMIT_AS": bounds.memory_nbytes,
                "RLIMIT_CPU": bounds.cpu_s,
                "RLIMIT_NPROC": bounds.processes + others,
                "RLIMIT_FSIZE": bounds.file_nbytes,
                "RLIMIT_NOFILE": bounds.open_files,
                "RLIMIT_CORE": 0,
                "RLIMIT_MSGQUEUE": 0,
                "RLIMIT_MEMLOCK": 0,
            },
        }


def _visible(python: str) -> list[str]:
    """What a program must see to be Python."""
    wanted = ["/usr", "/lib", "/lib64", "/lib32", "/libx32", "/etc/ld.so.cache"]
    prefix = os.path.dirname(os.path.dirname(python))
    if prefix != "/" and not f"{prefix}/".startswith("/usr/"):
        wanted.append(prefix)
    return [path for path in dict.fromkeys(wanted) if os.path.lexists(path)]


@contextlib.contextmanager
def _input(text: str) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as file:
        file.write(text.encode())
        file.seek(0)
        yield file


def _collect(keeper: subprocess.Popen[bytes], bounds: Bounds) -> tuple[bytes, bytes]:
    """Read both streams until the keeper ends; whoever writes too much, or takes too long to end, is ended."""
    assert keeper.stdout is not None
    assert keeper.stderr is not None
    read: dict[Any, bytearray] = {keeper.stdout: bytearray(), keeper.stderr: bytearray()}
    deadline, told = time.monotonic() + bounds.wall_s + _GRACE_S, False
    with keeper, selectors.DefaultSelector() as selector:
        for stream in read:
            selector.register(stream, selectors.EVENT_READ)
        try:
            while selector.get_map() and (left := deadline - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    kept: bytearray = read[key.fileobj]
                    data = os.read(key.fd, 1 << 16)
                    kept += data[: bounds.output_nbytes - len(kept)]
                    if data and len(kept) >= bounds.output_nbytes and not told:
                        told = True
                        keeper.terminate()
                    if not data:
                        selector.unregister(key.fileobj)
            keeper.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        finally:
            if keeper.poll() is None:
                keeper.kill()
    return bytes(read[keeper.stdout]), bytes(read[keeper.stderr])


def _verdict(data: bytes) -> dict[str, Any]:
    if not data:
        return {"failed": "the keeper was killed"}
    verdict: dict[str, Any] = json.loads(data)
    return verdict
