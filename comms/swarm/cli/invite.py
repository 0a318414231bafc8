"""Print the one string that lets another machine join a run: its name, addresses, whom to trust, and a secret that lets in.

    thinwire invite my-run --peers /ip4/198.51.100.7/tcp/7000/p2p/12D3Koo...
    thinwire invite --again tw1... --peers ADDRESS     the same run and secret at other addresses

Who has the string can join: send it as you would send a password.
"""

import secrets
from dataclasses import dataclass

import tyro

from thinwire.comms.swarm.envelope import Trust
from thinwire.comms.swarm.invite import Invite
from thinwire.output import Form, one_sentence, parse


@dataclass(frozen=True)
class Options(Form):
    """What the string says."""

    run: tyro.conf.Positional[str] = ""
    """Name of the run."""
    peers: tuple[str, ...] = ()
    """Addresses of peers that are up, as `thinwire serve` prints them."""
    again: str = ""
    """An invite whose run, trust and secret are kept."""
    trust: Trust = "federation"
    """federation: who has the string, or a key on the allow-lists; lan, open: anybody who finds an address."""
    member: tuple[str, ...] = ()
    """Public keys that are trusted without the secret (64 hex digits, `thinwire keygen` prints them)."""

    def __post_init__(self) -> None:
        if bool(self.run) == bool(self.again):
            raise ValueError("give the name of a run, or --again and an invite")
        if not self.peers:
            raise ValueError("give --peers: addresses of peers that are up, as `thinwire serve` prints them")

    def invite(self) -> Invite:
        """Raises `ValueError` for keys, names and addresses that are none."""
        if self.again:
            old = Invite.parse(self.again)
            return Invite(old.run_id, self.peers, old.trust, old.members, old.secret)
        secret = secrets.token_bytes(32) if self.trust == "federation" else b""
        return Invite(self.run, self.peers, self.trust, tuple(map(bytes.fromhex, self.member)), secret)


def told(invite: Invite) -> dict[str, object]:
    """What --json says of an invite; its secret is in the string only."""
    return {"run": invite.run_id, "invite": str(invite), "addresses": invite.addresses, "trust": invite.trust, "members": invite.members}


def main(argv: list[str]) -> None:
    """Print it."""
    with one_sentence():
        options = parse(Options, argv, __doc__)
        out, invite = options.output(), options.invite()
    out.say(str(invite))
    out.tell(told(invite))
