"""FSDP2 within a region, thinwire between regions: a two-dimensional mesh, started by torchrun itself."""

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader

import thinwire
from examples.integrations.data import digest, model, samples

SHARDS = 2  # processes of a region


def main() -> None:
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    regions = torch.distributed.get_world_size() // SHARDS
    mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (regions, SHARDS), mesh_dim_names=("region", "shard"))
    net = model()
    fully_shard(net, mesh=mesh["shard"])
    opt = torch.optim.AdamW(net.parameters(), lr=1e-3)
    opt = thinwire.DiLoCo(opt, sync_every=5, group=mesh["region"])  # thinwire
    torch.manual_seed(torch.distributed.get_rank())
    for x, y in DataLoader(samples(), batch_size=16, shuffle=True):
        opt.zero_grad()
        torch.nn.functional.mse_loss(net(x), y).backward()
        opt.step()
    opt.close()  # thinwire
    print(f"weights {digest(p.full_tensor() for p in net.parameters())}", flush=True)  # type: ignore[attr-defined]  # they are DTensors
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
