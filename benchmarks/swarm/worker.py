"""One member of a measured swarm: `python -m benchmarks.swarm.worker FOUNDS|ADDRESS ...`; says on its output what every round took.

The gradient is computed once, as in benchmarks.scaling: a step costs next to nothing, and what is timed is the round alone.
"""

import json
import sys
import time
from pathlib import Path

import torch

from examples.multiregion.model import CONTEXT, GPT, sha256
from thinwire import DiLoCo, RoundInfo, SwarmGroup

STEP_S = 0.5


def say(**words: object) -> None:
    """A line for the parent."""
    print(json.dumps(words), flush=True)


def main(codec: str, members: int, rounds: int, listen: str, peers: list[str], stop: Path) -> None:
    """Take part until `rounds` rounds of all members are over and the parent says stop."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = GPT()
    model.loss(torch.randint(256, (1, CONTEXT + 1), generator=torch.Generator().manual_seed(time.monotonic_ns()))).backward()

    def told(info: RoundInfo) -> None:
        if len(info.members) == members:
            say(round=info.round, seconds=info.seconds["exchange"] + info.hidden_s, payload=info.payload_sent, wire=info.wire_sent)

    began = time.monotonic()
    group = SwarmGroup("measured", peers or None, listen=[f"/ip4/{listen}/tcp/0"])
    opt = DiLoCo(torch.optim.SGD(model.parameters(), lr=1e-4), sync_every=1, codec=codec, group=group, on_round=told)
    opt.step()
    say(address=next(a for a in group.addresses() if listen in a), entered_s=time.monotonic() - began)
    while not stop.exists():
        time.sleep(STEP_S)  # what else would be training: a newcomer gets the state meanwhile
        opt.step()
    opt.close()
    say(sha256=sha256(model), round=opt.round)


if __name__ == "__main__":
    codec, members, rounds, listen, stop, *peers = sys.argv[1:]
    main(codec, int(members), int(rounds), listen, peers, Path(stop))
