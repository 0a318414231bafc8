"""The lab itself, where this machine can build one: what reaches a region, what is counted, and that nothing stays behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.lab import namespaces, probe, wan
from benchmarks.lab.namespaces import LabError
from benchmarks.lab.topology import Region, Topology, Way
from benchmarks.lab.wan import Lab, Void, open_lab, open_loopback
from benchmarks.suite.record import ROOT, Measured


def why_not() -> str:
    try:
        with open_lab(Topology.uniform(1)):
            return ""
    except LabError as error:
        return str(error)


WHY_NOT = why_not()
needs_lab = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


def spaces(tag: str = namespaces.PREFIX) -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    return [line.split()[0] for line in listed.splitlines() if line.startswith(tag)]


def output(lab: Lab, i: int, *words: str) -> str:
    told = lab.start(i, words, stdout=subprocess.PIPE).communicate()[0]
    return told.decode()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with open_lab(Topology("pair", (Region("left", 8, 40), Region("right", 8, 40)), Way(10.0))) as made:
        yield made


@needs_lab
def test_a_region_has_its_own_name_hosts_interface_and_tcp(lab: Lab) -> None:
    assert output(lab, 0, "hostname").strip() == "left"
    assert "10.77.1.1 right" in output(lab, 0, "cat", "/etc/hosts")
    assert output(lab, 1, "cat", "/proc/sys/net/ipv4/tcp_congestion_control").strip() == "cubic"
    assert output(lab, 1, "printenv", "GLOO_SOCKET_IFNAME").strip() == "wan0"
    # no way out: two interfaces, one route
    assert output(lab, 1, "ip", "route").split() == "10.77.0.0/16 dev wan0 proto kernel scope link src 10.77.1.1".split()


@needs_lab
def test_the_probe_finds_what_was_asked(lab: Lab) -> None:
    found = probe.measure(lab)
    assert found.measured.rtt_ms is not None
    assert found.measured.up_mbit is not None
    assert 9.5 < found.measured.rtt_ms  # a busy machine may be late, never early
    assert found.measured.up_mbit < 8.4


@needs_lab
def test_what_is_not_as_asked_is_void(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wan, "TRIES", 1)
    monkeypatch.setattr(lab, "topology", Topology("pair", lab.topology.regions, Way(50.0)))  # the relay knows nothing of it
    with pytest.raises(Void, match=r"between left and right is [\d.]+ ms, 50.0 ms were asked; .* ask for less"):
        lab.verify()


@needs_lab
def test_what_was_just_found_of_the_same_links_counts(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[Topology] = []

    def found(here: Lab) -> probe.Found:
        times.append(here.topology)
        return probe.Found(Measured(up_mbit=8.0), [])

    monkeypatch.setattr(probe, "measure", found)
    before = lab.topology
    assert lab.verify(fresh_s=60) is lab.verify(fresh_s=60)
    lab.change(Topology("pair", before.regions, Way(20.0)))
    lab.verify(fresh_s=60)
    lab.change(before)
    for fresh_s in (60, 0):
        lab.verify(fresh_s=fresh_s)
    assert [topology.way.rtt_ms for topology in times] == [10, 20, 10, 10]


@needs_lab
def test_the_relay_counts_what_the_kernel_counts(lab: Lab) -> None:
    def kernel() -> int:
        return int(output(lab, 0, "cat", "/sys/class/net/wan0/statistics/tx_bytes"))

    lab.change(Topology("pair", lab.topology.regions, Way(10.0, loss=1e-6)))  # no super-packets: both count the same packets
    before, counted = kernel(), lab.traffic()[0].sent
    send = "import socket; s = socket.create_connection(('10.77.1.1', 5001)); s.sendall(bytes(300000)); s.close()"
    take = "import socket; s = socket.create_server(('', 5001)); print(flush=True); c = s.accept()[0]\nwhile c.recv(65536): pass"
    receiver = lab.start(1, [sys.executable, "-S", "-c", take], stdout=subprocess.PIPE)
    assert receiver.stdout is not None
    receiver.stdout.readline()
    lab.start(0, [sys.executable, "-S", "-c", send]).wait(30)
    receiver.communicate(timeout=30)
    sent = lab.traffic()[0].sent - counted
    lab.change(Topology("pair", lab.topology.regions, Way(10.0)))
    assert 300_000 < sent < 340_000
    assert abs(kernel() - before - sent) <= 0.001 * sent  # a last acknowledgement may be under way


@needs_lab
def test_a_cut_region_is_alone_until_it_is_mended(lab: Lab) -> None:
    def trips() -> list[dict[str, float]]:
        with probe.Probes(lab) as probes:
            answers = probes.ask([{"op": "ping", "to": ["10.77.1.1"]}, None])
        return [answer for answer in answers if answer]

    lab.cut(1)
    alone = trips()
    lab.cut(1, mend=True)
    assert alone == []
    assert list(trips()[0]) == ["10.77.1.1"]


@needs_lab
def test_congestion_control_changes_live_and_the_machine_allows_what_it_did(lab: Lab) -> None:
    allowed = Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
    before = allowed.read_text()
    other = Topology("pair", lab.topology.regions, Way(10.0), congestion="reno")
    lab.change(other)
    told = output(lab, 0, "cat", "/proc/sys/net/ipv4/tcp_congestion_control").strip()
    lab.change(Topology("pair", lab.topology.regions, Way(10.0)))
    assert told == "reno"
    assert allowed.read_text() == before


@needs_lab
def test_a_port_that_is_taken_in_region_0_is_passed_over(lab: Lab) -> None:
    taken = lab.port() + 1
    take = f"import socket, sys; s = socket.create_server(('', {taken})); print(flush=True); sys.stdin.read()"
    holder = lab.start(0, [sys.executable, "-S", "-c", take], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    assert lab.port() == taken + 1
    holder.communicate()


@needs_lab
def test_a_region_that_cannot_be_probed_is_named_with_the_remedy(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "PATIENCE_S", 0.5)
    for how, why in ((signal.SIGKILL, "its process was ended"), (signal.SIGSTOP, r"no answer in 0\.5 s")):
        with probe.Probes(lab) as probes:
            probes._processes[1].send_signal(how)
            with pytest.raises(LabError, match=f"region right cannot be probed: {why}; end what .* and run this again"):
                probes.ask([{"op": "ready"}] * 2)
    with probe.Probes(lab), pytest.raises(LabError, match=r"left cannot be probed: .*in use; end what uses UDP port 4009"):
        probe.Probes(lab)


@needs_lab
def test_other_regions_need_another_lab(lab: Lab) -> None:
    with pytest.raises(LabError, match="open another"):
        lab.change(Topology.uniform(3))


@needs_lab
def test_a_region_is_killed_whole(lab: Lab) -> None:
    process = lab.start(0, ["sh", "-c", "setsid sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    lab.kill(0)
    process.communicate(timeout=30)
    assert process.returncode != 0
    until = time.monotonic() + 30
    while Path(f"/proc/{child}").exists() and time.monotonic() < until:
        pass
    assert not Path(f"/proc/{child}").exists()


@needs_lab
def test_a_home_router_lets_out_and_not_in() -> None:
    topology = Topology("home", (Region("home", 20, 20, nat=True), Region("site", 20, 20)), Way(5.0))
    try:
        namespaces.refuse_if_impossible(nat=True)
    except LabError as error:
        pytest.skip(str(error))
    with open_lab(topology) as lab:
        serve = "import socket; s = socket.create_server(('', 5001)); print(flush=True); print(s.accept()[1][0])"
        site = lab.start(1, [sys.executable, "-S", "-c", serve], stdout=subprocess.PIPE)
        assert site.stdout is not None
        site.stdout.readline()
        dial = "import socket, sys; socket.create_connection((sys.argv[1], 5001), timeout=float(sys.argv[2]))"
        assert lab.start(0, [sys.executable, "-S", "-c", dial, lab.places[1].address, "30"]).wait(30) == 0
        assert site.communicate(timeout=30)[0].strip() == lab.address.encode()  # the router's address, not the home's own
        home = lab.start(0, [sys.executable, "-S", "-c", serve], stdout=subprocess.PIPE)
        assert home.stdout is not None
        home.stdout.readline()
        refused = lab.start(1, [sys.executable, "-S", "-c", dial, lab.address, "0.3"], stderr=subprocess.DEVNULL).wait(30)
        lab.kill(0)
        home.communicate()
    assert refused != 0


HOLD = """
import subprocess, sys
from benchmarks.lab.topology import Topology
from benchmarks.lab.wan import open_lab
with open_lab(Topology.uniform(2)) as lab:
    sleepers = [lab.start(i, ["sleep", "1000"]) for i in range(2)]
    print(lab.spaces[0].rpartition("-")[0], flush=True)
    sys.stdin.read()
"""


@needs_lab
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_stays_behind_a_killed_lab(how: signal.Signals) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    holder = subprocess.Popen([sys.executable, "-c", HOLD], cwd=ROOT, **pipes)  # type: ignore[call-overload]
    tag = holder.stdout.readline().decode().strip()
    assert len(spaces(tag)) == 2
    sleepers = [pid for space in spaces(tag) for pid in namespaces.pids(space)]
    assert sleepers
    holder.send_signal(how)
    holder.communicate(timeout=60)
    lock = namespaces.RUN / f"{tag}.lock"
    until = time.monotonic() + 30
    while lock.exists() and time.monotonic() < until:  # the relay removes it last
        pass
    assert spaces(tag) == []
    assert not (namespaces.ETC / f"{tag}-0").exists()
    assert not any(Path(f"/proc/{pid}").exists() and "sleep" in Path(f"/proc/{pid}/cmdline").read_text() for pid in sleepers)


@needs_lab
def test_a_relay_that_was_killed_is_told_at_once() -> None:
    with open_lab(Topology.uniform(1)) as lab:
        lab.check()
        assert lab.relay is not None
        lab.relay.kill()
        lab.relay.wait()
        with pytest.raises(LabError, match=r"ended with SIGKILL; run this again with --keep"):
            lab.verify()


@needs_lab
def test_what_a_killed_relay_left_is_found_by_the_next_lab() -> None:
    tag = f"{namespaces.PREFIX}1-feed"
    namespaces.RUN.mkdir(parents=True, exist_ok=True)
    (namespaces.RUN / f"{tag}.lock").touch()
    namespaces.ip("netns", "add", f"{tag}-0")
    with open_lab(Topology.uniform(1)):
        assert spaces(tag) == []


@needs_lab
def test_a_lab_that_is_alive_is_left_alone() -> None:
    with open_lab(Topology.uniform(1)) as first, open_lab(Topology.uniform(1)):
        assert output(first, 0, "hostname").strip() == "r0"


@needs_lab
def test_a_busy_name_is_told_with_its_remedy() -> None:
    namespaces.ip("netns", "add", "tw0-busy-0")
    try:
        with pytest.raises(LabError, match="netns delete"):
            namespaces.ip("netns", "add", "tw0-busy-0")
    finally:
        namespaces.ip("netns", "delete", "tw0-busy-0")


@pytest.mark.parametrize(
    ("lacks", "named"),
    [
        ("root", "run as root .*simulate links"),
        ("ip", "apt-get install iproute2"),
        ("nft", "apt-get install nftables"),
        ("tun", "modprobe tun"),
    ],
)
def test_what_the_machine_lacks_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch, lacks: str, named: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000 if lacks == "root" else 0)
    monkeypatch.setattr(namespaces.shutil, "which", lambda command: None if command == lacks else f"/bin/{command}")
    monkeypatch.setattr(os, "access", lambda path, mode: lacks != "tun")
    with pytest.raises(LabError, match=named):
        namespaces.refuse_if_impossible(nat=True)


@needs_lab
def test_a_loopback_that_is_down_is_told_with_its_remedy() -> None:
    program = "from benchmarks.lab.wan import open_loopback\nwith open_loopback(2): pass"
    done = subprocess.run(["unshare", "-n", sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "LabError: nothing can be reached on the loopback (Network is unreachable); bring it up" in done.stderr


def test_the_loopback_counts_all_workers_together_and_has_nothing_to_cut() -> None:
    with open_loopback(4) as lab:
        assert (lab.kind, lab.interface, lab.share, lab.address) == ("loopback", "lo", 4, "127.0.0.1")
        assert lab.verify().lab == "loopback"
        assert lab.traffic() == []
        with pytest.raises(LabError, match="as root"):
            lab.cut(0)
