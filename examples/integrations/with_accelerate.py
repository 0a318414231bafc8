"""accelerate: prepare, accumulate, clip."""

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

import thinwire
from examples.integrations.data import digest, model, samples


def main() -> None:
    accelerator = Accelerator(cpu=not torch.cuda.is_available(), gradient_accumulation_steps=2)
    net = model()
    opt = torch.optim.AdamW(net.parameters(), lr=1e-3)
    opt = thinwire.DiLoCo(opt, sync_every=5)  # thinwire
    net, prepared, loader = accelerator.prepare(net, opt, DataLoader(samples(), batch_size=16))
    for _ in range(2):
        for x, y in loader:
            with accelerator.accumulate(net):
                accelerator.backward(torch.nn.functional.mse_loss(net(x), y))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(net.parameters(), 1.0)
                prepared.step()
                prepared.zero_grad()
    opt.close()  # thinwire
    print(f"weights {digest(net.parameters())}", flush=True)


if __name__ == "__main__":
    main()
