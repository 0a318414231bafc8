"""A gloo process group of our own: the right network device, no default group, timeouts that hold."""

import os
import socket
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from torch import Tensor
from torch._C._distributed_c10d import AllgatherOptions, AllToAllOptions, Store
from torch.distributed import ProcessGroupGloo

from thinwire.comms.rounds import TransportError

_ANYWHERE = "192.0.2.1"  # TEST-NET-1: no host of that name, but the kernel tells which way it would go (nothing is sent)


def devices(toward: str | None, *, one_host: bool) -> list[Any]:
    """The gloo devices to listen on: `GLOO_SOCKET_IFNAME` (comma-separated; repeat one for parallel connections), or the address
    that this machine uses toward `toward`.

    gloo's own default resolves the host name, which on many machines fails or gives an address that others cannot reach.
    Raises `ConnectionError` naming what was tried.
    """
    names = os.environ.get("GLOO_SOCKET_IFNAME", "").strip(" ,")
    if names:
        return [_device("GLOO_SOCKET_IFNAME", interface=name.strip()) for name in names.split(",") if name.strip()]
    address = _address_toward(toward) if toward else None
    if not one_host and (address is None or address.startswith("127.") or address == "::1"):
        address = _address_toward(_ANYWHERE)  # the host that is MASTER_ADDR itself often knows its own name as a loopback address
    if address is None and toward and not one_host:
        raise ConnectionError(
            f"no network address for gloo: no route toward {toward or _ANYWHERE}; set GLOO_SOCKET_IFNAME to the interface that "
            "the other members can reach"
        )
    return [_device("the address toward " + (toward or "this machine"), hostname=address or "127.0.0.1")]


def form(store: Store, rank: int, size: int, timeout_s: float, on: list[Any]) -> ProcessGroupGloo:
    """Meet the other `size - 1` members through `store`; raises `TransportError` after `timeout_s`."""
    make: Any = ProcessGroupGloo  # torch's stubs lack what is underscored
    options = make._Options()
    options._timeout = timedelta(seconds=timeout_s)
    options._devices = on
    options._threads = 2 * len(on)
    store.set_timeout(timedelta(seconds=timeout_s))
    try:
        group: ProcessGroupGloo = make(store, rank, size, options)
        return group
    except RuntimeError as error:
        raise TransportError(f"the members could not connect to each other: {first_line(error)}") from error


def all_gather(group: Any, out: Tensor, message: Tensor, timeout_s: float) -> Any:
    """Begin to gather `message` (nbytes,) into `out` (size * nbytes,); returns torch's work handle."""
    options = AllgatherOptions()
    options.timeout = timedelta(seconds=timeout_s)
    return group._allgather_base(out, message, options)


def all_to_all(group: Any, out: Tensor, messages: Tensor, timeout_s: float) -> Any:
    """Begin to send slice i of `messages` (size * nbytes,) to member i."""
    options = AllToAllOptions()
    options.timeout = timedelta(seconds=timeout_s)
    return group.alltoall_base(out, messages, [], [], options)


def park(drop: Callable[[], object]) -> threading.Thread:
    """Run a destructor that may block until gloo's timeout where nobody has to wait for it."""
    thread = threading.Thread(target=drop, name="thinwire-park", daemon=True)
    thread.start()
    return thread


def first_line(error: BaseException) -> str:
    """The first line of what C++ had to say."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _address_toward(host: str) -> str | None:
    """The local address of the route to `host`, or None when there is none."""
    try:
        family, kind, proto, _, where = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, proto) as probe:
            probe.connect(where)
            return str(probe.getsockname()[0])
    except OSError:
        return None


def _device(source: str, **where: str) -> Any:
    try:
        return ProcessGroupGloo.create_device(**where)
    except RuntimeError as error:
        named = next(iter(where.values()))
        have = ", ".join(name for _, name in socket.if_nameindex())
        raise ConnectionError(
            f"gloo cannot listen on {named!r} ({source}): {first_line(error)}; set GLOO_SOCKET_IFNAME to one of {have}"
        ) from error
