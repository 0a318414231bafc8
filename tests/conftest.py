"""One torch thread in every test process: two threads on busy cores are several times slower."""

import torch

torch.set_num_threads(1)
