"""Keeps a p2pd from outliving us: a process of its own, run as a script, with nothing but the standard library.

    python guard.py PARENT_PID FOLDER COMMAND...

makes FOLDER (0700, for sockets), runs COMMAND in it, and when the parent dies or closes our standard input, or COMMAND ends, kills
COMMAND and removes FOLDER. Nothing that can be done to one process is missed: the kernel kills COMMAND when this guard dies, and wakes
this guard when the parent's thread dies, even while forked children of the parent hold its end of the pipe open.
"""

import ctypes
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
    os.mkdir(folder, 0o700)
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


if __name__ == "__main__":
    sys.exit(main(sys.argv))
