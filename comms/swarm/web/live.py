"""The live page at work: look at the swarm, write it down, show it; again and again."""

import asyncio
import time

from thinwire.comms.swarm.transport import Transport
from thinwire.comms.swarm.watch import Watch
from thinwire.comms.swarm.web.chronicle import Chronicle
from thinwire.comms.swarm.web.server import Site
from thinwire.output import encoded


async def keep(site: Site, node: Transport, run: str, *, period_s: float) -> None:
    """A look every `period_s`, until cancelled."""
    watch = Watch(node, run)
    chronicle = Chronicle(run, now=time.time(), period_s=period_s)
    try:
        while True:
            began = time.monotonic()
            answers = await watch.look(period_s)
            chronicle.look(time.time(), answers, watch.announced)
            site.show({"recent": encoded(chronicle.told("recent")).encode(), "whole": encoded(chronicle.told("whole")).encode()})
            await asyncio.sleep(max(period_s - (time.monotonic() - began), 0))
    finally:
        watch.close()
