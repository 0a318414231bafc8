"""Keeps a p2pd from outliving us: a process of its own, run as a script, with nothing but the standard library.

    python guard.py PARENT_PID FOLDER COMMAND...

makes FOLDER (0700, for sockets), runs COMMAND in it, and when the parent dies or closes our standard input, or COMMAND ends, kills
COMMAND and removes FOLDER. Nothing that can be done to one process is missed: the kernel kills COMMAND when this guard dies, and wakes
this guard when the parent's thread dies, even while forked children of the parent hold its end of the pipe open.
"""

import ctypes
import fcntl
import os
import select
import shutil
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> int:
    """Run the command; returns how it ended, 1 when it was ended from outside."""
    parent, folder, command = int(argv[1]), argv[2], argv[3:]
    bell, ringer = os.pipe()
    os.set_blocking(ringer, False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(ringer)
    _die_with(parent, signal.SIGTERM)
    lock = _make(folder)
    try:
        child = _run(command)
        while not select.select([0, bell], [], [])[0]:
            pass
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended == 0:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return 1
        return os.waitstatus_to_exitcode(status) & 0xFF
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _make(folder: str) -> int:
    """The folder, with a lock in it from the first moment that others can see it: while we hold that, nobody sweeps it away."""
    parent, name = os.path.split(folder)
    draft = os.path.join(parent, f".{name}")
    os.mkdir(draft, 0o700)
    lock = os.open(os.path.join(draft, "lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.rename(draft, folder)
    return lock


def _run(command: list[str]) -> int:
    guard = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            _die_with(guard, signal.SIGKILL)
            signal.set_wakeup_fd(-1)
            nothing = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nothing, 0)
            os.execv(command[0], command)
        except OSError as error:
            print(error, flush=True)
        finally:
            os._exit(127)
    return child


def _die_with(parent: int, number: int) -> None:
    """Have the kernel send us a signal when our parent dies; leave at once if it already has."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def sweep(parent: str, prefix: str) -> None:
    """Remove the folders of guards that were killed together with their parents, and so could not do it themselves."""
    for entry in os.scandir(parent):
        if not entry.name.startswith(prefix):
            continue
        try:
            if entry.stat(follow_symlinks=False).st_uid != os.getuid() or not entry.is_dir(follow_symlinks=False):
                continue
            with open(os.path.join(entry.path, "lock")) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # its guard is alive, or removes it now
            continue
        shutil.rmtree(entry.path, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
