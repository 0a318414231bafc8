"""The doctor: it finds nothing wrong here that would stop a swarm, and names the remedy where something would."""

import socket
import sys

import pytest

from tests.comms.swarm.world import LOOPBACK, World
from thinwire.comms.swarm import doctor
from thinwire.comms.swarm.p2pd import DaemonOptions


def statuses(rows: list[doctor.Row]) -> dict[str, str]:
    assert all(row.status == "ok" or row.remedy for row in rows)
    return {row.check: row.status for row in rows}


def test_this_machine(world: World) -> None:
    node = world.node()
    world.run(node.start())
    rows = world.run(doctor.daemon(LOOPBACK, node.addresses()))
    for check in (
        doctor.versions,
        doctor.processes,
        doctor.files,
        doctor.network_card,
        doctor.tunnel,
        doctor.library,
        doctor.codec_self_test,
    ):
        rows += check()
    found = statuses(rows)
    assert "failure" not in found.values(), rows
    assert found["p2pd"] == found["peer"] == found["clock"] == found["hivemind"] == found["codecs"] == "ok"
    assert found["NAT"] == "warning"  # loopback only


def test_peers_that_do_not_answer(world: World) -> None:
    nobody = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWKMFQQM9vWLHFcHcJqUCUGWRETjzxKxbtCsntb9zAYp9A"
    rows = world.run(doctor.daemon(LOOPBACK, ["/ip4/127.0.0.1/tcp/9", nobody]))
    assert [row.status for row in rows if row.check == "peer"] == ["failure", "failure"]
    statuses(rows)


def test_a_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (row,) = doctor.ports(DaemonOptions(listen=(f"/ip4/127.0.0.1/tcp/{port}",)))
        assert row.status == "failure"
        assert "ss -ltnp" in row.remedy
    assert doctor.ports(DaemonOptions()) == []


@pytest.mark.parametrize(
    ("address", "nat"),
    [
        ("/ip4/8.8.8.8/tcp/4001", None),
        ("/dns4/example.org/tcp/4001", None),
        ("/ip6/2600::1/tcp/1", None),
        ("/ip4/10.0.0.1/tcp/4001", "private addresses"),
        ("/ip4/198.18.0.1/tcp/4001", "198.18"),
        ("/ip4/100.64.0.1/tcp/4001", "100.64"),
        ("/ip4/127.0.0.1/tcp/4001", "nobody outside"),
    ],
)
def test_the_guess_at_nat(address: str, nat: str | None) -> None:
    rows = [row for row in doctor.reachability([address, "/ip4/127.0.0.1/tcp/1"]) if row.check == "NAT"]
    assert len(rows) == (nat is not None)
    assert all(str(nat) in row.detail for row in rows)
    assert not [row for row in doctor.reachability([address], announced=True) if row.check == "NAT"]


def test_clocks() -> None:
    assert doctor.clock(0.5).status == "ok"
    row = doctor.clock(-3600)
    assert (row.status, "3600 s apart" in row.detail, bool(row.remedy)) == ("warning", True, True)


def test_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        if name == "hivemind":
            raise doctor.PackageNotFoundError
        return "0.1"

    monkeypatch.setattr(doctor, "version", missing)
    found = statuses(doctor.versions())
    assert found["hivemind"] == "failure"
    assert found["torch"] == "warning"
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert statuses(doctor.processes()) == {"processes": "failure"}
