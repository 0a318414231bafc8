"""drand: the round that a time implies, from a relay that may lie, and nothing that is not verified."""

import http.server
import json
import sys
import threading
from collections.abc import Iterator

import pytest

from thinwire.comms.verify.beacon import BeaconError, NotYetError
from thinwire.comms.verify.drand import ANSWER_NBYTES, QUICKNET, SKEW_S, Chain, DrandBeacon

# Round 1000 of quicknet, as its network has published it.
SIGNATURE = "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39"
RANDOMNESS = "fe290beca10872ef2fb164d2aa4442de4566183ec51c56ff3cd603d930e54fdd"
THEN = QUICKNET.genesis_s + 999 * QUICKNET.period_s


class Relay(http.server.BaseHTTPRequestHandler):
    answers: dict[str, bytes]
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        answer = self.answers.get(self.path.rpartition("/")[2])
        self.send_response(404 if answer is None else 200)
        self.end_headers()
        self.wfile.write(answer or b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def relay() -> Iterator[tuple[str, type[Relay]]]:
    handler = type("Handler", (Relay,), {"answers": {}, "asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", handler
        server.shutdown()
        thread.join()


def answer(**changed: object) -> bytes:
    return json.dumps({"round": 1000, "randomness": "ff" * 32, "signature": SIGNATURE} | changed).encode()


def drand(address: str, now: float = THEN) -> DrandBeacon:
    pytest.importorskip("drand_verify")
    return DrandBeacon(relays=[address], clock=lambda: now, timeout_s=5)


def test_a_published_round_is_fetched_once_verified_and_derived_from_its_signature(relay: tuple[str, type[Relay]]) -> None:
    address, handler = relay
    handler.answers["1000"] = answer()
    beacon = drand(address)
    assert beacon.randomness(1000).hex() == beacon.randomness(1000).hex() == RANDOMNESS
    assert handler.asked == [f"/{QUICKNET.hash}/public/1000"]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (answer(signature=SIGNATURE[:-1] + "8"), "signature of round 1000 is wrong"),
        (answer(signature="00" * 48), "is wrong"),
        (answer(signature="zz" * 48), "not the signature"),
        (answer(signature=SIGNATURE + "00"), "not the signature"),
        (answer(signature=7), "not the signature"),
        (answer(round=1001), "not the signature"),
        (answer(round="1000"), "not the signature"),
        (b"", "no round of drand"),
        (b"[1000]", "no round of drand"),
        (b"[" * 4000, "no round of drand"),
        (b"\xff\xfe", "no round of drand"),
        (b" " * (ANSWER_NBYTES + 1), "larger than"),
        (None, "404"),
    ],
)
def test_a_relay_that_lies_is_refused(relay: tuple[str, type[Relay]], given: bytes | None, why: str) -> None:
    address, handler = relay
    if given is not None:
        handler.answers["1000"] = given
    with pytest.raises(BeaconError, match=f"round 1000 of drand cannot be had: {address}: .*{why}"):
        drand(address).randomness(1000)


def test_the_next_relay_is_asked(relay: tuple[str, type[Relay]]) -> None:
    pytest.importorskip("drand_verify")
    address, handler = relay
    handler.answers["1000"] = answer()
    beacon = DrandBeacon(relays=["http://127.0.0.1:9", address], clock=lambda: THEN, timeout_s=5)
    assert beacon.randomness(1000).hex() == RANDOMNESS


def test_rounds_follow_the_clock_and_never_latest(relay: tuple[str, type[Relay]]) -> None:
    address, handler = relay
    beacon = drand(address)
    times = (QUICKNET.genesis_s - 1, QUICKNET.genesis_s, THEN - 0.1, THEN, THEN + 2.9, THEN + 3)
    assert [beacon.round_at(when) for when in times] == [0, 1, 999, 1000, 1000, 1001]
    assert beacon.first_unknown() == beacon.round_at(THEN + SKEW_S) + 1 > 1001
    with pytest.raises(NotYetError, match="round 1001 is not published"):
        beacon.randomness(1001)
    with pytest.raises(BeaconError, match="the first one is 1"):
        beacon.randomness(0)
    assert handler.asked == []


def test_nothing_is_taken_unverified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "drand_verify", None)
    with pytest.raises(BeaconError, match=r"thinwire\[drand\]"):
        DrandBeacon()


def test_relays_and_chains_that_are_none_are_refused() -> None:
    for relays in ([], ["file:///etc/passwd"], ["api.drand.sh"]):
        with pytest.raises(ValueError, match="https://"):
            DrandBeacon(relays=relays)
    for hash_, key, period in (("zz", QUICKNET.public_key, 3), (QUICKNET.hash, "00", 3), (QUICKNET.hash, QUICKNET.public_key, 0)):
        with pytest.raises(ValueError, match="in hex"):
            Chain(hash_, key, 0, period)
