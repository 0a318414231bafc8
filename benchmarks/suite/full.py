"""What `bench all --full` asks of each suite: every size, codec, point and row, but not each as often as the suite alone does.

    kernels 2 minutes, collectives 5, scaling 2, utilisation 18, training 38, training over links 7

The minutes are those of two cores, summed over what runs of each kind took: by their processor time, where others ran beside.
"""

from benchmarks.collectives.__main__ import QUICK_CODECS, QUICK_SIZES, SIZES
from benchmarks.collectives.rows import KB, MB
from benchmarks.training.rows import COMPARED
from thinwire.comms import CODECS


def _collectives(groups: list[str], codecs: list[str], sizes: tuple[int, ...]) -> list[str]:
    return ["--groups", *groups, "--codecs", *codecs, "--sizes", *map(str, sizes), "--seconds", "0.5", "--most-s", "1"]


def _over(link: str, ddp_steps: int) -> list[str]:
    """Loss against wall time: few rows of one seed, and DDP only as far as its curve matters."""
    rows = ["--rows", "ddp", "textbook", "diloco", "demo", "--seeds", "0"]
    return ["--link", link, *rows, "--steps", "40", "--steps-of", "ddp", str(ddp_steps)]


FEW, MORE = list(QUICK_CODECS), [name for name in CODECS if name not in QUICK_CODECS]
FULL: dict[str, list[list[str]]] = {
    "collectives": [
        _collectives(["torch", "gloo"], FEW, SIZES),
        _collectives(["torch"], MORE, (64 * KB, 4 * MB)),
        _collectives(["local", "simulated"], FEW, QUICK_SIZES),
    ],
    "training": [
        ["--seeds", "0", "--curve", "100"],
        ["--seeds", "1", "2", "--curve", "100", "--rows", *COMPARED],
        _over("10:80", 4),
        _over("100:80", 16),
        _over("1000:20", 40),
    ],
}
