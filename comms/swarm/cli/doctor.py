"""What of this machine would stop a member of a swarm: versions, processes, ports, NAT, clock, the kernels' bits; with the remedy.

    thinwire doctor
    thinwire doctor tw1...              also whether the peers of an invite answer, and what time they have
    thinwire doctor --port 7000 --json

Exit status 1 when something would stop it; what only costs something is a warning.
"""

from dataclasses import dataclass

import tyro
from rich.text import Text

from thinwire.comms.swarm.doctor import Row, examine
from thinwire.comms.swarm.invite import Invite
from thinwire.comms.swarm.p2pd import DaemonOptions
from thinwire.output import Form, Output, one_sentence, parse

COLOURS = {"ok": "green", "warning": "yellow", "failure": "red"}


@dataclass(frozen=True)
class Options(Form):
    """What to look at besides this machine."""

    invite: tyro.conf.Positional[str] = ""
    """An invite whose peers are asked."""
    port: int = 0
    """A TCP port that is to be listened on."""
    announce: tuple[str, ...] = ()
    """Addresses that others are told."""

    def daemon(self) -> DaemonOptions:
        """Of the node that is tried."""
        return DaemonOptions(listen=(f"/ip4/0.0.0.0/tcp/{self.port}",), announce=self.announce, port_map=False)


def show(row: Row, out: Output) -> None:
    """One row, its remedy below."""
    out.say(Text.assemble((f"{row.status:8}", COLOURS[row.status]), f"{row.check:14} {row.detail}"))
    if row.remedy and row.status != "ok":
        out.say(f"{'':22} {row.remedy}")


def main(argv: list[str]) -> None:
    """Look, print, and exit with 1 when something would stop a member."""
    with one_sentence():
        options = parse(Options, argv, __doc__)
        out = options.output()
        peers = Invite.parse(options.invite).addresses if options.invite else ()
        rows = examine(options=options.daemon(), peers=peers, progress=lambda row: show(row, out))
    failures = [row for row in rows if row.status == "failure"]
    out.say("nothing would stop a member" if not failures else f"{len(failures)} things would stop a member: see above")
    out.tell({"failures": len(failures), "rows": rows})
    if failures:
        raise SystemExit(1)
