import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from examples.multiregion.data import Batches
from examples.multiregion.model import GPT, sha256
from examples.multiregion.region import Progress, Region, Thin, dense_nbytes, saved_steps
from thinwire import LocalGroup

TEXT = torch.randint(256, (4000,), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
SEEDING = threading.Lock()  # torch has one global generator, the regions of this test are threads
SETTINGS: dict[str, Any] = {"method": "diloco", "seed": 0}


def region(rank: int, group: LocalGroup | None, method: str = "diloco") -> Region:
    with SEEDING:
        torch.manual_seed(0)
        gpt = GPT(width=32, layers=1)
    options: dict[str, Any] = {"group": group} | ({"sync_every": 4} if method == "diloco" else {"lr": 1e-3})
    held_out = [Batches(TEXT, size=2, seed=9).draw()]
    return Region(gpt, Thin(gpt, method, options), Batches(TEXT, size=2, seed=rank), held_out, Progress(method), 2)


def together(method: str, stops: list[int], folder: Path) -> list[str]:
    """Hashes of two regions after the last stop; at each stop they save, and are made anew from the file."""
    digests = ["", ""]

    def work(rank: int, group: LocalGroup, stop: int, resume: bool, last: bool) -> None:
        mine = region(rank, group, method)
        if resume:
            mine.load(folder, rank, saved_steps(folder, rank)[-1], SETTINGS)
        for _ in mine.train(stop):
            pass
        mine.save(folder, rank, SETTINGS)
        if last:
            mine.end()
        digests[rank] = sha256(mine.gpt)

    for i, stop in enumerate(stops):
        groups = LocalGroup.world(2, timeout_s=60)
        threads = [threading.Thread(target=work, args=(rank, group, stop, i > 0, stop == stops[-1])) for rank, group in enumerate(groups)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for group in groups:
            group.leave()
    return digests


@pytest.mark.parametrize("method", ["diloco", "demo"])
def test_resume_equals_no_interruption(method: str, tmp_path: Path) -> None:
    without = together(method, [11], tmp_path / "without")
    resumed = together(method, [6, 11], tmp_path / "resumed")  # 6 is in the middle of a window
    assert resumed == without
    assert without[0] == without[1] != ""


def test_resume_with_other_settings_names_the_one_that_differs(tmp_path: Path) -> None:
    mine = region(0, None)
    mine.save(tmp_path, 0, SETTINGS)
    with pytest.raises(ValueError, match="saved with seed=0, now it is 1"):
        mine.load(tmp_path, 0, 0, SETTINGS | {"seed": 1})


def test_the_last_two_saves_are_kept(tmp_path: Path) -> None:
    mine = region(0, None)
    for progress in mine.train(4):
        mine.save(tmp_path, 0, SETTINGS)
        assert saved_steps(tmp_path, 0) == [step for step in (progress.step - 1, progress.step) if step]
    assert saved_steps(tmp_path, 1) == []


def test_progress_counts_steps_and_smooths_the_loss() -> None:
    told = list(region(0, None).train(3))
    assert [progress.step for progress in told] == [1, 2, 3]
    assert told[1].loss != told[0].loss


def test_dense_bytes_are_those_of_a_ring() -> None:
    assert dense_nbytes(1_334_080, 4) == 8_004_480
    assert dense_nbytes(10, 1) == 0
