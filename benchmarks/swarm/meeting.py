"""How the members of a measured swarm find each other: the first one's key and place are known beforehand, so that all start at once."""

import secrets
from typing import Any

import torch

from benchmarks.lab.wan import Lab
from examples.multiregion.model import CONTEXT, GPT
from thinwire import SwarmGroup
from thinwire.comms.swarm.identity import Identity


def arranged(lab: Lab) -> dict[str, Any]:
    """What all workers are told of a new run."""
    return {"run": secrets.token_hex(8), "seed": secrets.token_hex(32), "address": lab.address, "port": lab.port()}


def group_of(asked: dict[str, Any], rank: int) -> SwarmGroup:
    """Rank 0 founds the run, all others join it."""
    first = Identity.from_seed(bytes.fromhex(asked["seed"]))
    address = f"/ip4/{asked['address']}/tcp/{asked['port']}"
    if rank == 0:
        return SwarmGroup(asked["run"], identity=first, listen=[address])
    return SwarmGroup(asked["run"], [f"{address}/p2p/{first.peer_id}"])


def learner(rank: int, *, seed: int) -> GPT:
    """The example's GPT of `seed`, with a gradient of this rank's text that is computed once: a step is then the optimizer's work alone."""
    torch.manual_seed(seed)
    gpt = GPT()
    text = torch.randint(256, (1, CONTEXT + 1), generator=torch.Generator().manual_seed(rank))
    gpt.loss(text).backward()
    return gpt
