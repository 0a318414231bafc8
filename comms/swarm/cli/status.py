"""Who takes part in a swarm: the next round, loss, bytes, lag and what each member has rejected; live, or as lines for a log.

    thinwire status tw1...
    thinwire status tw1... --plain --period 60 >> swarm.log
    thinwire status tw1... --json --once
    thinwire status tw1... --web                                            a page that goes on; --plain and --json print its address alone

It asks the members themselves, as a peer of its own. With an allow-list, give a key that is on it.
"""

import asyncio
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.live import Live
from rich.table import Table

from thinwire.comms.swarm.cli.network import visitor
from thinwire.comms.swarm.invite import Invite
from thinwire.comms.swarm.status import Status
from thinwire.comms.swarm.transport import Key, PeerError
from thinwire.comms.swarm.watch import ask_all
from thinwire.comms.swarm.web.live import keep
from thinwire.comms.swarm.web.server import PORT, Place, Site
from thinwire.output import Form, Output, one_sentence, parse

MB = 1e6


@dataclass(frozen=True)
class Options(Form):
    """Which swarm, and how to show it."""

    invite: tyro.conf.Positional[str]
    """The string that members join with."""
    identity: Path | None = None
    """A key file that the members allow (default: a fresh key)."""
    once: tyro.conf.FlagCreatePairsOff[bool] = False
    """Look once and end."""
    period: float = 1.0
    """Seconds from one look to the next."""
    web: tyro.conf.FlagCreatePairsOff[bool] = False
    """Serve a page that shows it, read-only, until Ctrl-C."""
    host: str = Place.host
    """Where --web is served: an address of this machine. Any but its loopback asks for a token, which the printed address holds."""
    port: int = PORT
    """TCP port of --web; 0: any that is free."""

    def __post_init__(self) -> None:
        if self.web and self.once:
            raise ValueError("--once looks once and --web goes on; give one of them")
        if not self.web and (self.host, self.port) != (Place.host, PORT):
            raise ValueError("--host and --port say where the page is; give --web with them")
        if not self.period > 0:
            raise ValueError(f"--period is {self.period}; give seconds above 0")


Answers = Mapping[Key, Status | str]


def table(run: str, answers: Answers) -> Table:
    """One line a member; `lag` is how many rounds it is behind the first."""
    made = Table(title=line(run, answers), title_justify="left")
    for heading in ("member", "state", "epoch", "round", "lag", "loss", "MB sent", "MB received", "rejected", "up"):
        made.add_column(heading, justify="left" if heading in ("member", "state", "epoch") else "right")
    first = _first(answers)
    for key, status in sorted(answers.items()):
        if isinstance(status, str):
            made.add_row(key.hex()[:8], f"[red]{status[:60]}[/red]", *["-"] * 8)
            continue
        loss = "-" if status.loss is None else f"{status.loss:.3f}"
        moved = (f"{status.sent / MB:.2f}", f"{status.received / MB:.2f}")
        up = time.strftime("%H:%M:%S", time.gmtime(status.uptime_s))
        made.add_row(
            key.hex()[:8],
            status.state,
            status.epoch[:8],
            str(status.round),
            str(first - status.applied),
            loss,
            *moved,
            str(status.rejected),
            up,
        )
    return made


def line(run: str, answers: Answers) -> str:
    """The swarm in a line."""
    told = [status for status in answers.values() if isinstance(status, Status)]
    losses = [status.loss for status in told if status.loss is not None]
    said = f"{run}: {len(told)} of {len(answers)} members answer"
    if told:
        epochs = {status.epoch for status in told}
        said += f" | round {_first(answers)} | lag {max(_first(answers) - status.applied for status in told)}"
        said += f" | loss {sum(losses) / len(losses):.3f}" if losses else ""
        said += f" | sent {sum(status.sent for status in told) / MB:.2f} MB | rejected {sum(status.rejected for status in told)}"
        said += f" | {len(epochs)} EPOCHS" if len(epochs) > 1 else ""
    return said


def told(run: str, answers: Answers, now: float) -> dict[str, object]:
    """What --json says of a look; `time` is in seconds since 1970. Who says nothing has an `error` instead of numbers."""
    members = {key.hex(): {"error": status} if isinstance(status, str) else status for key, status in sorted(answers.items())}
    return {"time": round(now, 3), "run": run, "round": _first(answers), "members": members}


def _first(answers: Answers) -> int:
    return max((status.applied for status in answers.values() if isinstance(status, Status)), default=0)


async def watch(options: Options) -> None:
    """Look until interrupted."""
    invite = Invite.parse(options.invite)
    out = options.output()
    if options.web:
        return await page(options, invite, out)
    async with visitor(invite.addresses, options.identity) as node:
        with Live(console=out.people, auto_refresh=False) if out.live else nullcontext() as live:
            while True:
                answers = await ask_all(node, invite.run_id)
                if live:
                    live.update(table(invite.run_id, answers), refresh=True)
                else:
                    out.say(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line(invite.run_id, answers)}")
                    out.tell(told(invite.run_id, answers, time.time()))
                if options.once:
                    return
                await asyncio.sleep(options.period)


async def page(options: Options, invite: Invite, out: Output) -> None:
    """Show it as a page until interrupted."""
    with Site(Place(options.host, options.port)) as site:
        async with visitor(invite.addresses, options.identity) as node:
            if not out.plain:
                out.say(f"{invite.run_id} is shown at {site.address}", "Ctrl-C ends the page; the swarm does not notice.")
            else:
                out.say(site.address)
            out.tell({"address": site.address})
            await keep(site, node, invite.run_id, period_s=options.period)


def main(argv: list[str]) -> None:
    """Show it."""
    with one_sentence(PeerError):
        asyncio.run(watch(parse(Options, argv, __doc__)))
