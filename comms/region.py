"""Torchrun's world taken apart: what is within a region stays in RANK and WORLD_SIZE, what lies between regions moves to names of ours.

A framework that finds WORLD_SIZE > 1 wraps the model in DDP over all of it: every gradient crosses the WAN, and learning rates are scaled
by machines that have nothing to do with each other. With `thinwire run` a script sees its own region only:

    torchrun says                   the script sees, node regions      ... process regions (and node regions of one process)
    RANK 0..15, WORLD_SIZE 16       RANK = LOCAL_RANK, WORLD_SIZE 8    neither: it is alone
    GROUP_RANK 0..1                 THINWIRE_RANK 0..1                 THINWIRE_RANK = RANK
    LOCAL_RANK 0..7                 THINWIRE_SHARD 0..7                THINWIRE_SHARD 0

Nothing but the standard library is imported here: torchrun starts this file, and the file becomes the script.
"""

import os
import sys
from collections.abc import Mapping

PREFIX = "THINWIRE_"
BETWEEN = ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_RUN_ID")
WITHIN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_WORLD_SIZE")
REGION, PORT = PREFIX + "REGION", PREFIX + "REGION_PORT"  # from `thinwire run` to this file
NODE, PROCESS = "node", "process"
NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def apart(env: Mapping[str, str], region: str, port: str = "") -> dict[str, str]:
    """The environment of a script: `port` is where the processes of a node region meet.

    Raises `ValueError` for a world with no two regions, or regions that differ in size.
    """
    absent = [name for name in NEEDED if not env.get(name, "").strip()]
    if absent:
        raise ValueError(f"the environment lacks {', '.join(absent)}; start with `thinwire run -- torchrun ... train.py`")
    world, here, nodes = (int(env[name]) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"))
    if region == NODE and here * nodes != world:
        raise ValueError(
            f"this machine starts {here} processes, all {nodes} start {world}: regions must have the same number, so that each process has "
            "its counterpart in every region; give every torchrun the same --nproc-per-node"
        )
    members, member, shard = (world, env["RANK"], "0") if region == PROCESS else (nodes, env["GROUP_RANK"], env["LOCAL_RANK"])
    if members < 2:
        remedy = "--region process makes every process a region" if world > 1 else "start torchrun on each machine with --nnodes 2 or more"
        raise ValueError(f"there is only one region, and nothing to exchange; {remedy}")
    made = dict(env) | {PREFIX + name: env[name] for name in BETWEEN if name in env}
    made |= {PREFIX + "RANK": member, PREFIX + "WORLD_SIZE": str(members), PREFIX + "SHARD": shard}
    made[PREFIX + "ONE_HOST"] = str(int(nodes == 1))
    for name in (*WITHIN, *BETWEEN, REGION, PORT):
        made.pop(name, None)
    if region == NODE and here > 1:
        rank, size = env["LOCAL_RANK"], str(here)
        made |= dict.fromkeys(("RANK", "LOCAL_RANK", "ROLE_RANK"), rank)
        made |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE", "ROLE_WORLD_SIZE"), size)
        made |= {"GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return made


def main() -> None:
    """Become the command that was given, in its region's environment."""
    try:
        env = apart(os.environ, os.environ.get(REGION, NODE), os.environ.get(PORT, ""))
    except ValueError as error:
        sys.exit(f"thinwire run: {error}")
    os.execvpe(sys.argv[1], sys.argv[1:], env)


if __name__ == "__main__":
    main()
