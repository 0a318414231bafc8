"""Be a peer that newcomers find the others through, and print the line that they paste. It trains nothing and is no member.

    thinwire serve my-run
    thinwire serve my-run --json                                            the line to paste, for a program
    thinwire serve my-run --port 7000 --announce /ip4/198.51.100.7/tcp/7000     behind a router that passes the port on

Its key and the run's secret are kept, so that the line still holds when it is started again (with a fixed --port). Ctrl-C ends it; members
that have found each other do not need it.
"""

import asyncio
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import tyro

from thinwire.comms.swarm.cli.invite import told
from thinwire.comms.swarm.cli.network import interrupted, standing
from thinwire.comms.swarm.cli.options import KEY_FILE
from thinwire.comms.swarm.doctor import ports
from thinwire.comms.swarm.envelope import Trust
from thinwire.comms.swarm.identity import Identity
from thinwire.comms.swarm.invite import Invite
from thinwire.comms.swarm.p2pd import DaemonOptions
from thinwire.comms.swarm.transport import PeerError
from thinwire.output import Form, one_sentence, parse


@dataclass(frozen=True)
class Options(Form):
    """For which run, and where."""

    run: tyro.conf.Positional[str]
    """Name of the run: any word that you like."""
    port: int = 0
    """TCP port to listen on; any free one, unless given."""
    announce: tuple[str, ...] = ()
    """Addresses that others are told instead of those found on this machine."""
    peers: tuple[str, ...] = ()
    """Addresses of other peers of the run."""
    trust: Trust = "federation"
    """federation: who has the printed line joins; lan, open: anybody who finds an address."""
    folder: Path = KEY_FILE.parent / "serve"
    """Where its key and the run's secret are kept."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise ValueError(f"--port is {self.port}; give one from 0 to 65535")
        if "/" in self.run or self.run in (".", ".."):
            raise ValueError(f"a run cannot be called {self.run!r}")


def secret_of(run: str, folder: Path) -> bytes:
    """The run's secret, made at the first call; 32 bytes in a file that only its owner can read."""
    path = folder / f"{run}.secret"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
    except FileExistsError:
        pass
    secret = path.read_bytes()
    if len(secret) != 32:
        raise ValueError(f"{path} is no secret of 32 bytes; remove it, and give everybody the new line")
    return secret


async def serve(options: Options) -> None:
    """Until interrupted."""
    out = options.output()
    key = options.folder / "identity.key"
    Identity.load_or_create(key)
    secret = secret_of(options.run, options.folder) if options.trust == "federation" else b""
    daemon = DaemonOptions(listen=(f"/ip4/0.0.0.0/tcp/{options.port}",), announce=options.announce, public=True)
    for row in ports(daemon):
        if row.status != "ok":
            raise ValueError(f"cannot listen on {row.detail}; {row.remedy} (--port)")
    async with standing(key, options.peers, daemon) as node:
        addresses = tuple(node.addresses()[:8])
        invite = Invite(options.run, addresses, options.trust, (), secret)
        over = asyncio.create_task(interrupted())
        await asyncio.sleep(0)  # it listens: who has read the line may end this peer
        out.say(
            "\n  ".join([f"run {options.run!r} is served at", *addresses]),
            f"on every machine that trains:\n  thinwire join {invite} -- python train.py",
            "Ctrl-C ends this peer; members that have found each other do not need it.",
        )
        out.tell(told(invite))
        await over


def main(argv: list[str]) -> None:
    """Serve."""
    with one_sentence(PeerError):
        asyncio.run(serve(parse(Options, argv, __doc__)))
