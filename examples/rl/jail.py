"""The keeper of one untrusted program; a program of its own, that `examples.rl.sandbox` starts. Standard library only.

    python -I -S jail.py '{"mode": ..., "folder": ..., ...}'          files on standard input as JSON {name: text}

Mode "full", for root and, where the kernel lets it make user namespaces, for anybody:

    keeper                  unshares mounts, processes, network, IPC, host name (and users, when it is not root); builds the new root
      └─ first              process 1 of the new namespace: reaps; when it ends, the kernel kills all that is left in there
           └─ program       no privileges, limits on, execs Python

The new root is a read-only tmpfs with /usr and what else Python needs, read-only, and one folder of limited size. The program is in a
chroot within it, for whoever is in a chroot may make no user namespaces, and so no mounts. The keeper kills `first` at the time limit or on
SIGTERM; should the keeper die, `first` dies with it.

Mode "plain", for root where the kernel forbids all that (most containers): the program runs under a user id that nobody else has, so that a
count of its processes and one kill(-1) reach all of them and nothing else. It sees files and network.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any, NoReturn

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER = 0x00020000, 0x04000000, 0x08000000, 0x10000000
CLONE_NEWPID, CLONE_NEWNET = 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 1, 2, 4, 0x1000, 0x4000, 0x40000, 2
KEYCTL_JOIN_SESSION_KEYRING = 1
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 1, 38, 24
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV = 442, -100, 0x8000, 1, 2, 4  # the same on every machine
USER_BASE = 1 << 30  # plus the keeper's process id: user ids that no machine gives out
BOX = "/box"

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: Any) -> None:
    """A function of the C library that gives 0 when all went well."""
    if getattr(libc, name)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    call("mount", source.encode(), target.encode(), kind and kind.encode(), ctypes.c_ulong(flags), options.encode())


def seal(path: str, *, below: bool) -> None:
    """Make a mount read-only, and with `below` all that is mounted in it; no set-user-id programs."""
    attributes = (ctypes.c_uint64 * 4)(ATTR_RDONLY | ATTR_NOSUID | (ATTR_NODEV if below else 0), 0, 0, 0)
    flags = ctypes.c_long(AT_RECURSIVE if below else 0)
    call("syscall", ctypes.c_long(SYS_MOUNT_SETATTR), ctypes.c_long(AT_FDCWD), path.encode(), flags, attributes, ctypes.c_long(32))


class Stop(BaseException):
    """Told to end."""


def stop(signum: int, frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the killing
    raise Stop


def keep(settings: dict[str, Any], files: dict[str, str]) -> dict[str, Any]:
    """Run the program; how it ended."""
    full, root = settings["mode"] == "full", os.geteuid() == 0
    user = USER_BASE + os.getpid() if root else None  # who is not root keeps the one it has
    null = os.open("/dev/null", os.O_RDWR)
    if full:
        isolate(root)
        build_root(settings, files, user)
    elif user is not None:
        fill(settings["folder"], files, user)
    else:
        raise PermissionError("mode plain is for root alone: under one's own user id a program could kill its keeper")
    ready, go = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # until whoever is forked will be killed
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        os.close(go)
        run_first(settings, ready, null, user) if full else run_program(settings, null, user)
    with ended_by(child, None if full else user):
        os.close(ready)
        with contextlib.suppress(BrokenPipeError):  # a program that has ended already; in mode plain nobody listens
            os.write(go, b"g")
        return wait_for(child, settings["wall_s"])


@contextlib.contextmanager
def ended_by(child: int, user: int | None) -> Iterator[None]:
    """Whatever happens, nothing of the program is left: the first process falls with all of its namespace, or every process of the user."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if user is not None:
            kill_all_of(user)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


def kill_all_of(user: int) -> None:
    """SIGKILL at once to every process of a user; a fork that is under way fails, so one call is enough."""
    child = os.fork()
    if child == 0:
        os.setresuid(user, user, user)
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)  # all but this one
        os._exit(0)
    os.waitpid(child, 0)


def wait_for(child: int, wall_s: float) -> dict[str, Any]:
    """Until the child ends, or its time."""
    deadline = time.monotonic() + wall_s
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            return {"ended": code - 256 if 192 <= code < 256 else code}
        left = deadline - time.monotonic()
        if left <= 0:
            return {"ended": None}
        signal.sigtimedwait([signal.SIGCHLD], left)


def isolate(root: bool) -> None:
    """Leave the namespaces of the machine."""
    user, group = os.geteuid(), os.getegid()
    call("unshare", CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | (0 if root else CLONE_NEWUSER))
    if not root:
        for file, line in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            with open(f"/proc/self/{file}", "w") as opened:
                opened.write(line)
    with open("/proc/sys/kernel/shmmni", "w") as opened:  # of the new IPC namespace: segments count in no limit, so there are none
        opened.write("0")


def build_root(settings: dict[str, Any], files: dict[str, str], user: int | None) -> None:
    """Put up the new root over the folder, move into it, and let go of the old one."""
    base = settings["folder"]
    jail, old = base + "/jail", base + "/old"
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", base, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for path in (jail, old, jail + BOX, jail + "/dev"):
        os.mkdir(path)
    for path in settings["visible"]:
        show(path, jail)
    open(jail + "/dev/null", "w").close()
    mount("/dev/null", jail + "/dev/null", None, MS_BIND)
    mount("tmpfs", jail + BOX, "tmpfs", MS_NOSUID | MS_NODEV, f"size={settings['disk_nbytes']},nr_inodes=1024,mode=700")
    fill(jail + BOX, files, user)
    call("syscall", ctypes.c_long(settings["pivot_root"]), base.encode(), old.encode())
    os.chdir("/")
    call("umount2", b"/old", MNT_DETACH)
    os.rmdir("/old")
    seal("/", below=False)
    os.chroot("/jail")


def show(path: str, jail: str) -> None:
    """The same path in the jail, read-only; a link stays one."""
    target = jail + path
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.makedirs(target, exist_ok=True)
    else:
        open(target, "w").close()
    mount(path, target, None, MS_BIND | MS_REC)
    seal(target, below=True)


def fill(folder: str, files: dict[str, str], user: int | None) -> None:
    """Write the files; the folder, its rights and all in it are the program's."""
    for name, text in files.items():
        with open(os.path.join(folder, name), "wb") as file:
            file.write(text.encode("utf-8", "surrogatepass"))
        if user is not None:
            os.chown(os.path.join(folder, name), user, user)
    if user is not None:
        os.chown(folder, user, user)


def run_first(settings: dict[str, Any], ready: int, null: int, user: int | None) -> NoReturn:
    """Process 1: start the program, reap, end as it does."""
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.read(ready, 1) != b"g":  # the keeper died before the line above
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the first process of a namespace gets no signal it has no handler for
    program = os.fork()
    if program == 0:
        run_program(settings, null, user)
    os.close(settings["verdict"])
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    while True:
        pid, status = os.wait()
        if pid == program:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 256 + code)


def run_program(settings: dict[str, Any], null: int, user: int | None) -> NoReturn:
    """Drop all rights, put the limits on, become Python."""
    try:
        os.chdir(BOX if settings["mode"] == "full" else settings["folder"])
        os.setsid()
        os.nice(5)
        for name, amount in settings["limits"].items():
            number = getattr(resource, name)
            resource.setrlimit(number, (amount, amount))
        drop_bounds()
        # Away from the keys of the user; where this fails no key can be used at all.
        libc.syscall(ctypes.c_long(settings["keyctl"]), KEYCTL_JOIN_SESSION_KEYRING, None)
        if user is not None:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        os.dup2(null, 0)
        os.closerange(3, 1024)
        python = settings["python"]
        os.execve(python, [python, "-I", "-S", "-B", "-X", "utf8", settings["main"]], {})
    except BaseException as error:
        os.write(2, f"jail: {error}\n".encode())
    os._exit(126)


def drop_bounds() -> None:
    """Capabilities that are not in the bounding set come back by no execve, also not for user 0 of a user namespace."""
    capability = 0
    while libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    if ctypes.get_errno() != errno.EINVAL:  # which says that no capability has this number
        raise PermissionError("the bounding set of capabilities cannot be dropped")


def main() -> None:
    """Read what to do, do it, say how it went."""
    signal.signal(signal.SIGTERM, stop)
    call("prctl", PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    settings = json.loads(sys.argv[1])
    if os.getppid() != settings["parent"]:  # it died before the line above
        return
    os.set_inheritable(settings["verdict"], False)
    try:
        verdict = keep(settings, json.load(sys.stdin))
    except Stop:
        verdict = {"ended": None}
    except Exception as error:
        verdict = {"failed": f"{type(error).__name__}: {error}"}
    os.write(settings["verdict"], json.dumps(verdict).encode())


if __name__ == "__main__":
    main()
