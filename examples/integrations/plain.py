"""A loop of one's own."""

import torch
from torch.utils.data import DataLoader

import thinwire
from examples.integrations.data import digest, model, samples


def main() -> None:
    net = model()
    opt = torch.optim.AdamW(net.parameters(), lr=1e-3)
    opt = thinwire.DiLoCo(opt, sync_every=5)  # thinwire
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 64)
    for _ in range(2):
        for x, y in DataLoader(samples(), batch_size=16):
            opt.zero_grad()
            torch.nn.functional.mse_loss(net(x), y).backward()
            opt.step()
            schedule.step()
    opt.close()  # thinwire
    print(f"weights {digest(net.parameters())}", flush=True)


if __name__ == "__main__":
    main()
