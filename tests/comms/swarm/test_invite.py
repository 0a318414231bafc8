"""Invitations: they survive a paste, any damage is noticed, and no string does worse than be refused in one sentence."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thinwire.comms.swarm import invite as module
from thinwire.comms.swarm.identity import Identity, base58
from thinwire.comms.swarm.invite import Invite, InviteError, is_pass, pass_for

KEYS = [Identity.from_seed(bytes([i]) * 32) for i in range(4)]
ADDRESSES = (
    f"/ip4/203.0.113.5/tcp/31337/p2p/{KEYS[0].peer_id}",
    f"/ip6/2001:db8::1/tcp/31337/p2p/{KEYS[0].peer_id}",
    f"/dns4/example.org/tcp/443/p2p/{KEYS[1].peer_id}",
    f"/ip4/203.0.113.9/tcp/4001/p2p/{KEYS[2].peer_id}/p2p-circuit/p2p/{KEYS[1].peer_id}",
)
INVITE = Invite("my run / 7 é", ADDRESSES, "open", (KEYS[3].key,), bytes(range(32)))


def test_it_survives_a_paste() -> None:
    text = str(INVITE)
    assert text.isalnum()
    assert len(text) < 500
    assert Invite.parse(text) == INVITE
    assert Invite.parse(f"  {text[:70]}\n   {text[70:]}\r\n") == INVITE
    plain = Invite("r", ADDRESSES[:1], "lan")
    assert Invite.parse(str(plain)) == plain
    assert plain.members == (KEYS[0].key,)


def test_every_changed_or_lost_character_is_noticed() -> None:
    text = str(INVITE)
    for at in range(len(text)):
        with pytest.raises(InviteError):
            Invite.parse(text[:at] + ("x" if text[at] != "x" else "y") + text[at + 1 :])
        with pytest.raises(InviteError):
            Invite.parse(text[:at] + text[at + 1 :])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no invitation"),
        ("hello", "no invitation"),
        ("tw2abc", "another version"),
        ("tw1", "damaged"),
        ("tw10OIl", "damaged"),
        ("tw1" + "z" * 100_000, "damaged"),
        ("tw1" + "z" * 100, "damaged"),
    ],
)
def test_what_is_none(text: str, why: str) -> None:
    with pytest.raises(InviteError, match=why):
        Invite.parse(text)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_any_content_with_a_right_checksum(body: bytes) -> None:
    try:
        found = Invite.parse("tw1" + base58(b"\1" + body + module._check(body)))
    except InviteError:
        return
    assert Invite.parse(str(found)) == found


def test_mutated_contents() -> None:
    good = module.unbase58(str(INVITE)[3:], 1000)
    assert good is not None
    dice = random.Random(0)
    for _ in range(400):
        body = bytearray(good[1:-4])
        for _ in range(dice.randint(1, 3)):
            body[dice.randrange(len(body))] = dice.randrange(256)
        test_any_content_with_a_right_checksum.hypothesis.inner_test(bytes(body[: dice.randint(0, len(body))]))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"run_id": ""}, "run id"),
        ({"run_id": "x" * 129}, "run id"),
        ({"addresses": ()}, "1 to 16"),
        ({"addresses": ADDRESSES * 5}, "1 to 16"),
        ({"addresses": ("/ip4/1.2.3.4/tcp/1",)}, "no address"),
        ({"addresses": ("/ip4/1.2.3.4/tcp/1/p2p/Qm",)}, "no address"),
        ({"trust": "nobody"}, "trust"),
        ({"members": (b"short",)}, "32 bytes"),
        ({"members": tuple(bytes([i]) * 32 for i in range(64))}, "at most 64"),
        ({"secret": b"short"}, "32 bytes"),
    ],
)
def test_what_cannot_be_written(change: dict[str, object], why: str) -> None:
    with pytest.raises(InviteError, match=why):
        Invite(**{"run_id": "run", "addresses": ADDRESSES, **change})  # type: ignore[arg-type]


def test_a_pass_is_good_for_one_key_in_one_run() -> None:
    secret, key = bytes(32), KEYS[0].key
    proof = pass_for(secret, "run", key)
    assert is_pass(proof, secret, "run", key)
    assert not is_pass(proof, secret, "other", key)
    assert not is_pass(proof, secret, "run", KEYS[1].key)
    assert not is_pass(proof, bytes([1]) * 32, "run", key)
    assert not is_pass(pass_for(b"", "run", key), b"", "run", key)


def test_the_secret_stays_out_of_logs() -> None:
    assert "\\x01\\x02" not in repr(INVITE)
