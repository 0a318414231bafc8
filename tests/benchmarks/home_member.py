"""A member of a swarm that trains until all three have counted in twenty rounds on end; tells its address, then that."""

import sys
import time

import torch

import thinwire

PATIENCE_S = 120.0


def main(peers: list[str]) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, counted = torch.nn.Linear(64, 64), list[int]()
    group = thinwire.SwarmGroup("homes", peers or None, trust="open")
    print(next(address for address in group.addresses() if "/127.0.0.1/" not in address), flush=True)
    opt = thinwire.DiLoCo(
        torch.optim.SGD(model.parameters(), lr=0.01), sync_every=5, group=group, on_round=lambda info: counted.append(len(info.members))
    )
    give_up = time.monotonic() + PATIENCE_S
    while counted[-20:] != [3] * 20 and time.monotonic() < give_up:
        model(torch.randn(8, 64)).square().mean().backward()
        opt.step()
        opt.zero_grad()
        time.sleep(0.02)  # what a step would take
    print("together" if counted[-20:] == [3] * 20 else f"rounds by members: {counted}", flush=True)
    sys.stdin.readline()  # the others may not be there yet: nobody leaves before the test says so
    opt.close()


if __name__ == "__main__":
    main(sys.argv[1:])
