"""Network namespaces and the TUN device in them: made, found again after a crash, and taken down with everything that runs in them."""

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

RUN = Path("/run/thinwire-lab")  # a locked file for each lab that is alive
ETC = Path("/etc/netns")
PREFIX = "tw"
INTERFACE = "wan0"
_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _TUNSETOFFLOAD, _TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_CSUM_TSO4, _USO = 0x01 | 0x02, 0x20 | 0x40
VNET_HEADER_NBYTES = 10
WITHOUT = "without, `collectives` and `utilisation` simulate links"


class LabError(RuntimeError):
    """The lab cannot be built or used; the message says the cause and the remedy."""


def refuse_if_impossible(*, nat: bool) -> None:
    """Raises `LabError` naming what this machine or user lacks."""
    if os.geteuid() != 0:
        raise LabError(f"regions are network namespaces, which need root; run as root ({WITHOUT})")
    for command, package in (("ip", "iproute2"), ("unshare", "util-linux"), *((("nft", "nftables"),) if nat else ())):
        if shutil.which(command) is None:
            raise LabError(f"the command `{command}` is missing; install it: apt-get install {package}")
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        raise LabError(f"there is no /dev/net/tun to open; load it (modprobe tun), or give the container the device ({WITHOUT})")


def ip(*words: str, lines: str | None = None) -> str:
    """Run `ip`; raises `LabError` with what it said."""
    done = subprocess.run(["ip", *words], input=lines, capture_output=True, text=True, check=False)
    if done.returncode:
        why = done.stderr.strip()
        remedy = (
            "a lab of this name is still there: end it, or `ip netns delete` it"
            if "exists" in why
            else f"this kernel or container allows no network namespaces: give it CAP_SYS_ADMIN and CAP_NET_ADMIN ({WITHOUT})"
        )
        raise LabError(f"`ip {' '.join(words)}` failed: {why}; {remedy}")
    return done.stdout


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread in another network namespace; its sysctls are then those of /proc/sys/net."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        _setns(there)
        yield
    finally:
        _setns(home)
        os.close(there)
        os.close(home)


def _setns(fd: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)  # os.setns came with Python 3.12
    if libc.setns(fd, _CLONE_NEWNET):
        raise LabError(f"setns failed: {os.strerror(ctypes.get_errno())}")


def open_tun(namespace: str, *, offload: bool) -> int:
    """A new TUN device in the namespace, non-blocking; every packet has a virtio header of 10 bytes in front.

    With `offload` the kernel hands over (and takes) super-packets of up to 64 KB instead of cutting them.
    """
    with inside(namespace):
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", INTERFACE.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR))
        fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("i", VNET_HEADER_NBYTES))
        set_offload(fd, offload)
    return fd


def set_offload(fd: int, offload: bool) -> None:
    """Whether super-packets come whole; a kernel before 6.2 cuts those of UDP."""
    for flags in (_CSUM_TSO4 | _USO, _CSUM_TSO4) if offload else (0,):
        with contextlib.suppress(OSError):
            fcntl.ioctl(fd, _TUNSETOFFLOAD, flags)
            return
    raise LabError("the TUN device takes no offload flags; this kernel is too old for the lab")


def sysctl(name: str, value: str) -> None:
    """Of the namespace that this thread is in."""
    Path("/proc/sys", *name.split(".")).write_text(value)


def set_congestion(namespaces: list[str], congestion: str) -> None:
    """The TCP of new connections in these namespaces.

    A namespace may only choose what the machine allows everybody; that list is widened for a moment and put back.
    """
    RUN.mkdir(parents=True, exist_ok=True)
    allowed = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
    with (RUN / "congestion.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = allowed.read_text().strip()
        try:
            if congestion not in before.split():
                allowed.write_text(f"{before} {congestion}")
            for namespace in namespaces:
                with inside(namespace):
                    sysctl("net.ipv4.tcp_congestion_control", congestion)
        except OSError as error:
            remedy = f"modprobe tcp_{congestion}; sysctl 'net.ipv4.tcp_allowed_congestion_control={before} {congestion}'"
            raise LabError(f"TCP cannot use {congestion} here ({error.strerror}); as root of the machine: {remedy}") from None
        finally:
            if congestion not in before.split():
                with contextlib.suppress(OSError):  # only the machine's own network namespace may change the list
                    allowed.write_text(before)


def pids(namespace: str) -> list[int]:
    """Processes in it."""
    done = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
    return [int(word) for word in done.stdout.split()]


def kill_all(namespace: str, *, but: int = 0) -> None:
    """SIGKILL to everything that runs in it, and again to what was started meanwhile."""
    for _ in range(10):
        found = [pid for pid in pids(namespace) if pid not in (but, os.getpid())]
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            return


def take_down(tag: str) -> None:
    """Everything that a lab of this tag has left: processes, namespaces, their hosts files, its folder."""
    for name in _names(tag):
        kill_all(name)
        subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL, check=False)
        shutil.rmtree(ETC / name, ignore_errors=True)
    shutil.rmtree(RUN / tag, ignore_errors=True)
    (RUN / f"{tag}.lock").unlink(missing_ok=True)


def take_down_leftovers() -> None:
    """Labs of which no process is left: nobody holds their lock."""
    for path in RUN.glob("*-*.lock"):
        with contextlib.suppress(OSError), path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            take_down(path.stem)


def _names(tag: str) -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    names = [line.split()[0] for line in listed.splitlines() if line.strip()]
    return [name for name in names if name.startswith(f"{tag}-")]
