"""Programs that loop, fork, allocate, write, print, hide or spy: each is stopped at its bound, and nothing of it is left."""

import copy
import json
import os
import platform
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from examples.rl import sandbox as module
from examples.rl.sandbox import MAX_FILES_NBYTES, Bounds, Ran, Sandbox, SandboxError

BOUNDS = Bounds(wall_s=60.0, cpu_s=1, memory_nbytes=128 << 20, processes=6, file_nbytes=1 << 20, disk_nbytes=2 << 20, output_nbytes=4096)
MARK = "thinwire-sandbox-test"


def make(*, plain: bool = False, bounds: Bounds = BOUNDS) -> Sandbox:
    try:
        if not plain:
            return Sandbox(bounds)
        made = Sandbox(bounds, allow_plain=True, python=world_python())
        made.mode = "plain"
        if not made.run({"main.py": ""}).ok:
            pytest.skip("plain needs root and a Python that every user may run")
        return made
    except SandboxError as error:
        pytest.skip(str(error))


def world_python() -> str:
    """One that any user may run."""
    found = "/usr/bin/python3"
    if not os.path.exists(found):
        pytest.skip("there is no /usr/bin/python3")
    return found


@pytest.fixture(scope="module", params=["full", "plain"])
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    return make(plain=request.param == "plain")


@pytest.fixture(scope="module")
def full() -> Sandbox:
    return make()


def run(sandbox: Sandbox, code: str, **files: str) -> Ran:
    return sandbox.run({"main.py": code, **files})


def hurried(sandbox: Sandbox) -> Sandbox:
    """For programs that only the clock ends."""
    made = copy.copy(sandbox)
    made.bounds = replace(sandbox.bounds, wall_s=1.5)
    return made


def left_over() -> list[str]:
    """Processes with the mark on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if MARK in (entry / "cmdline").read_bytes().decode(errors="replace"):
                    found.append(entry.name)
            except OSError:
                continue
    return found


def test_a_program_prints_reads_its_files_and_ends(sandbox: Sandbox) -> None:
    code = "import sys, json\nprint(json.load(open('data'))['x'])\nprint('two', file=sys.stderr)\nsys.exit(3)"
    ran = run(sandbox, code, data='{"x": "\u00e9"}')
    assert (ran.ended, ran.stdout, ran.stderr) == (3, "\u00e9\n".encode(), b"two\n")
    assert not ran.ok


def test_it_has_no_environment_no_input_and_no_rights(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    code = """
import json, os, sys
lines = open("/proc/self/status").read().splitlines() if os.path.exists("/proc/self") else []
status = dict(line.split(":\\t", 1) for line in lines)
told = [sys.stdin.read(), os.getuid(), os.listdir("."), status.get("CapEff"), status.get("NoNewPrivs"), os.getcwd()]
print(json.dumps([dict(os.environ), *told]))
"""
    environment, read, user, folder, effective, no_new, where = json.loads(run(sandbox, code).stdout)
    assert set(environment) <= {"LC_CTYPE"}  # Python itself sets it
    assert (read, folder) == ("", ["main.py"])
    assert user not in (0, *(entry.pw_uid for entry in pwd.getpwall()))
    assert effective in (None, "0" * 16)
    assert no_new in (None, "1")
    assert where == "/box" or where.startswith("/tmp/thinwire-sandbox-")


def test_an_endless_loop_is_ended_by_its_processor_time(sandbox: Sandbox) -> None:
    ran = run(sandbox, "while True: pass")
    assert ran.ended in (-9, -24)


def test_sleep_is_ended_by_the_clock(sandbox: Sandbox) -> None:
    ran = run(hurried(sandbox), "import time; time.sleep(1000)")
    assert ran.ended is None
    assert ran.seconds >= 1.5


FORK_BOMB = f"""
import os, time, sys
made = 1
for _ in range(200):
    try:
        if os.fork() == 0:
            os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(1000)", "{MARK}"])
        made += 1
    except OSError:
        print(made, flush=True)
        break
"""


def test_a_fork_bomb_gets_as_many_processes_as_allowed_and_none_is_left(sandbox: Sandbox) -> None:
    ran = run(sandbox, FORK_BOMB)
    assert (ran.ended, ran.stdout) == (0, b"6\n")
    assert left_over() == []


def test_threads_count_as_processes(sandbox: Sandbox) -> None:
    code = """
import threading, time
for i in range(50):
    threading.Thread(target=time.sleep, args=(1,), daemon=True).start()
    print(i)
"""
    ran = run(sandbox, code)
    assert ran.ended == 1
    assert ran.stdout.split()[-1] == b"4"


def test_ten_gigabytes_are_a_memory_error(sandbox: Sandbox) -> None:
    ran = run(sandbox, "x = bytearray(10 << 30)")
    assert ran.ended == 1
    assert b"MemoryError" in ran.stderr


def test_a_file_of_a_gigabyte_stops_at_the_limit(sandbox: Sandbox) -> None:
    code = """
import os
with open("big", "wb") as f:
    try:
        for _ in range(1024): f.write(bytes(1 << 20)); f.flush()
    except OSError as e: print(e.strerror)
print(os.path.getsize("big"))
"""
    assert run(sandbox, code).stdout.split(b"\n")[-2] == str(1 << 20).encode()


def test_many_files_stop_at_the_size_of_the_disk(full: Sandbox) -> None:
    code = """
import os
try:
    for i in range(100): open(str(i), "wb").write(bytes(500_000))
except OSError as e: print(e.strerror)
print(sum(os.path.getsize(f) for f in os.listdir(".")))
"""
    said, size = run(full, code).stdout.decode().split("\n")[:2]
    assert said == "No space left on device"
    assert int(size) <= 2 << 20


def test_printing_for_ever_is_ended_at_the_limit_on_either_stream(sandbox: Sandbox) -> None:
    for stream in ("stdout", "stderr"):
        ran = run(sandbox, f"import sys\nwhile True: sys.{stream}.write('spam' * 1000)")
        assert ran.ended is None
        assert len(getattr(ran, stream)) == 4096


def test_closing_its_output_hides_nothing(sandbox: Sandbox) -> None:
    code = """
import os, sys
os.close(1)
os.close(2)
os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(1000)", "MARK"])
"""
    assert run(hurried(sandbox), code.replace("MARK", MARK)).ended is None
    assert left_over() == []


DAEMON = f"""
import os, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 64)
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(1000)", "{MARK}"])
    os._exit(0)
os.wait()
print("gone")
"""


def test_a_daemon_falls_with_its_program(sandbox: Sandbox) -> None:
    ran = run(sandbox, DAEMON)
    assert (ran.ended, ran.stdout) == (0, b"gone\n")
    assert left_over() == []


def test_a_daemon_that_keeps_the_output_open_holds_up_nobody(sandbox: Sandbox) -> None:
    ran = run(sandbox, DAEMON.replace("os.closerange(0, 64)", "pass"))
    assert (ran.ended, ran.stdout) == (0, b"gone\n")


def test_signals_that_it_ignores_end_it_all_the_same(sandbox: Sandbox) -> None:
    code = """
import signal, time
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except Exception: pass
time.sleep(1000)
"""
    assert run(hurried(sandbox), code).ended is None


def test_there_is_no_network(full: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"""
import socket
try: socket.create_connection({server.getsockname()!r}, 1)
except OSError as error: print(error.strerror)
print(socket.if_nameindex())
"""
        assert run(full, code).stdout == b"Network is unreachable\n[(1, 'lo')]\n"
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_it_sees_no_files_but_its_own_and_the_systems(full: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    secret.chmod(0o666)
    code = f"""
import os
print(os.path.exists({str(secret)!r}), os.path.exists("/etc/passwd"), os.path.exists("/proc/1"), os.path.exists("/home"))
for path in ("/x", "/usr/x", "/dev/x", "/box/../x"):
    try: open(path, "w"); print("wrote", path)
    except OSError: pass
"""
    assert run(full, code).stdout == b"False False False False\n"


def test_it_gets_out_by_no_way_we_know(full: Sandbox) -> None:
    code = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def tries(name, *a): print(name, libc[name](*a) == -1)
tries("unshare", 0x10000000)                                   # a user namespace of its own
tries("unshare", 0x20000)                                      # or of mounts
tries("mount", b"tmpfs", b"/box", b"tmpfs", 0, b"")
tries("shmget", 0, 1 << 20, 0o1600)                            # memory that counts nowhere
tries("chroot", b"/box")
tries("setuid", 0)
tries("sethostname", b"x", 1)
tries("ptrace", 16, 1, 0, 0)                                   # the first process
tries("kill", 1, 9)
"""
    tried = ("unshare", "unshare", "mount", "shmget", "chroot", "setuid", "sethostname", "ptrace", "kill")
    assert run(full, code).stdout.decode().splitlines() == [f"{name} True" for name in tried]


def test_killing_everything_it_can_see_kills_itself_alone(sandbox: Sandbox) -> None:
    ran = run(sandbox, "import os\ntry: os.kill(-1, 9)\nexcept OSError: pass\nprint('still here')")
    assert ran.stdout == b"still here\n"


def test_several_threads_run_programs_at_once(full: Sandbox) -> None:
    ended: list[Ran] = []
    threads = [threading.Thread(target=lambda i=i: ended.append(run(full, f"print({i})"))) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ran.stdout for ran in ended) == [b"0\n", b"1\n", b"2\n", b"3\n"]


def test_no_folder_and_no_descriptor_is_left(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tmp_path.chmod(0o755)
    before = len(os.listdir("/proc/self/fd"))
    run(sandbox, "open('x', 'w').write('x')")
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_when_the_caller_is_killed_the_program_is_too(full: Sandbox, tmp_path: Path) -> None:
    asleep = f"import os, sys\nos.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(1000)', '{MARK}'])"
    caller = f"""
from examples.rl.sandbox import Bounds, Sandbox
Sandbox(Bounds(wall_s=500, cpu_s=500)).run({{"main.py": bytes.fromhex("{asleep.encode().hex()}").decode()}})
"""
    # Its empty folder is all that stays.
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", caller], cwd=Path(__file__).parents[3], env=environment) as process:
        wait_until(lambda: bool(left_over()))
        process.kill()
    wait_until(lambda: not left_over())


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


OWN = "import os; print(os.getuid(), os.path.exists('/tmp'), os.listdir('/box'))  # user 0 of its namespace, who may do nothing"
CALLS = """
import ctypes
libc = ctypes.CDLL(None)
print(libc.unshare(0x10000000), libc.shmget(0, 4096, 0o1600), libc.mount(b"tmpfs", b"/box", b"tmpfs", 0, b""))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests are this one when run by an ordinary user")
def test_an_ordinary_user_has_the_same_guarantees() -> None:
    """The sandbox is standard library only, so the system's Python runs it as `nobody`."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        for source in (module.__file__, module.JAIL):
            shutil.copy(source, folder)
        text = f"""
import json
from sandbox import Bounds, Sandbox
s = Sandbox(Bounds(wall_s=60.0, cpu_s=1, memory_nbytes=128 << 20, processes=6, disk_nbytes=2 << 20))
said = [s.mode]
for code in {[FORK_BOMB, OWN, DAEMON, "open('/y', 'w')", CALLS]!r}:
    ran = s.run({{"main.py": code}})
    said.append([ran.ended, ran.stdout.decode(), ran.stderr.decode()[-60:]])
print(json.dumps(said))
"""
        command = [world_python(), "-B", "-c", text]
        ran = subprocess.run(command, user=65534, group=65534, extra_groups=[], cwd=folder, env={}, capture_output=True, check=False)
    if b"SandboxError" in ran.stderr:
        pytest.skip(ran.stderr.decode()[-300:])
    mode, bomb, own, daemon, root, calls = json.loads(ran.stdout)
    assert mode == "full"
    assert bomb[:2] == [0, "6\n"]
    assert own[:2] == [0, "0 False ['main.py']\n"]
    assert daemon[:2] == [0, "gone\n"]
    assert root[0] == 1
    assert "Read-only file system" in root[2]
    assert calls[:2] == [0, "-1 -1 -1\n"]
    assert left_over() == []


def test_files_and_bounds_that_cannot_be_are_refused(full: Sandbox) -> None:
    for files in ({}, {"main.py": "", "../x": ""}, {"main.py": "", "a/b": ""}, {"main.py": "", "": ""}):
        with pytest.raises(ValueError, match="plain names"):
            full.run(files)
    with pytest.raises(ValueError, match="bytes of files"):
        run(full, "#" * MAX_FILES_NBYTES)
    with pytest.raises(ValueError, match="Python itself"):
        Bounds(memory_nbytes=1)
    with pytest.raises(ValueError, match="processes is 0"):
        Bounds(processes=0)


def test_a_machine_that_gives_no_sandbox_is_told_with_what_would_help(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SandboxError, match="user namespaces"):
        Sandbox(python="/bin/true")
    monkeypatch.setattr(platform, "machine", lambda: "abacus")
    with pytest.raises(SandboxError, match="full: "):
        Sandbox()
