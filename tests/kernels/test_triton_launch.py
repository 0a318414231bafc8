from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from thinwire.kernels.triton_launch import Residents

CARD = SimpleNamespace(multi_processor_count=132, max_threads_per_multi_processor=2048, shared_memory_per_multiprocessor=228 * 1024)


def compiled(registers: int, warps: int, shared: int) -> Any:
    return SimpleNamespace(n_regs=registers, metadata=SimpleNamespace(num_warps=warps, shared=shared))


@pytest.mark.parametrize(
    ("registers", "warps", "shared", "fit"), [(96, 4, 16384, 5), (97, 4, 16384, 4), (128, 16, 0, 1), (16, 4, 100_000, 2), (24, 8, 0, 8)]
)
def test_as_many_programs_start_as_fit(registers: int, warps: int, shared: int, fit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: CARD)
    residents, cuda = Residents(), torch.device("cuda")
    assert residents.on(cuda, "a kernel") == 4 * 132
    residents.note(cuda, "a kernel", compiled(registers, warps, shared))
    assert residents.on(cuda, "a kernel") == fit * 132
    assert residents.on(cuda, "another") == 4 * 132


def test_few_run_in_the_interpreter() -> None:
    residents, cpu = Residents(), torch.device("cpu")
    residents.note(cpu, "a kernel", None)
    assert residents.on(cpu, "a kernel") == 2
