"""Build the regions of a lab: a namespace each, with its TUN device, address, hosts file and TCP settings; some behind a home router."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.lab import namespaces
from benchmarks.lab.namespaces import ETC, INTERFACE, LabError, ip

MTU = 1500
BUFFERS = "4096 131072 67108864"  # a window of 64 MB: 2.5 Gbit/s at 200 ms
# Lets out what comes from the home, and in only what answers it.
ROUTER = f"""
table ip home {{
    chain out {{
        type nat hook postrouting priority srcnat; policy accept;
        oifname "{INTERFACE}" masquerade
    }}
    chain through {{
        type filter hook forward priority filter; policy drop;
        iifname "lan0" accept
        ct state established,related accept
    }}
}}
"""


@dataclass
class Built:
    """`spaces` hold the programs of the regions; the TUN devices lie in them, or in their routers."""

    spaces: list[str]
    addresses: list[str]
    tuns: list[int]
    offload: bool
    congestion: str


def addresses(behind: Sequence[bool]) -> list[str]:
    """Of all regions, each as the others see it. Not 198.18/15, the range for benchmarks: libp2p drops such addresses.

    Where any of them is `behind` a home router they are of the kind that the Internet has, by which libp2p tells who can be reached; there
    is no route out of a lab.
    """
    return [f"{'77' if any(behind) else '10'}.77.{i}.1" for i in range(len(behind))]


def space(tag: str, i: int) -> str:
    """The namespace of region `i`."""
    return f"{tag}-{i}"


def build(spec: dict[str, Any]) -> Built:
    """Make everything that `spec` (see `wan`) asks for; raises `LabError`."""
    tag, names, nat, links = spec["tag"], spec["names"], spec["nat"], spec["links"]
    offload = not any(map(any, links["loss"]))
    spaces = [space(tag, i) for i in range(len(names))]
    seen_as = addresses(nat)
    tuns = []
    for i, (name, behind) in enumerate(zip(names, nat, strict=True)):
        ip("netns", "add", spaces[i])
        outer = f"{spaces[i]}-nat" if behind else spaces[i]
        if behind:
            ip("netns", "add", outer)
        tuns.append(namespaces.open_tun(outer, offload=offload))
        _bring_up(outer, seen_as[i], 16)
        if behind:
            _put_router_between(spaces[i], outer)
        with namespaces.inside(spaces[i]):
            for key in ("tcp_rmem", "tcp_wmem"):
                namespaces.sysctl(f"net.ipv4.{key}", BUFFERS)
            namespaces.sysctl("net.ipv4.tcp_no_metrics_save", "1")  # no connection learns from the run before
        _write_hosts(spaces[i], names, seen_as, name, f"192.168.{i}.2" if behind else seen_as[i])
    namespaces.set_congestion(spaces, links["congestion"])
    return Built(spaces, seen_as, tuns, offload, links["congestion"])


def _bring_up(where: str, own: str, prefix: int) -> None:
    with namespaces.inside(where):
        if os.path.exists("/proc/sys/net/ipv6"):
            namespaces.sysctl("net.ipv6.conf.all.disable_ipv6", "1")
    ip(
        "-n",
        where,
        "-batch",
        "-",
        lines=f"link set lo up\naddr add {own}/{prefix} dev {INTERFACE}\nlink set {INTERFACE} mtu {MTU} txqueuelen 10000 up\n",
    )


def _put_router_between(home: str, router: str) -> None:
    i = int(home.rpartition("-")[2])
    ip("-n", router, "link", "add", "lan0", "type", "veth", "peer", "name", INTERFACE, "netns", home)
    ip("-n", router, "-batch", "-", lines=f"addr add 192.168.{i}.1/24 dev lan0\nlink set lan0 up\n")
    _bring_up(home, f"192.168.{i}.2", 24)
    ip("-n", home, "route", "add", "default", "via", f"192.168.{i}.1")
    with namespaces.inside(router):
        namespaces.sysctl("net.ipv4.ip_forward", "1")
        done = subprocess.run(["nft", "-f", "-"], input=ROUTER, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"nft cannot make a home router: {done.stderr.strip()}; this kernel lacks nf_tables or NAT: leave out nat = true")


def _write_hosts(where: str, names: list[str], seen_as: list[str], own_name: str, own: str) -> None:
    lines = ["127.0.0.1 localhost", "::ffff:127.0.0.1 localhost", f"{own} {own_name}"]
    lines += [f"{there} {name}" for there, name in zip(seen_as, names, strict=True) if name != own_name]
    (ETC / where).mkdir(parents=True, exist_ok=True)
    (ETC / where / "hosts").write_text("\n".join(lines) + "\n")
