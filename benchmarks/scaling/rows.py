"""What is measured: one DiLoCo round of the example's GPT, with 2 to 16 peers."""

from dataclasses import dataclass

from benchmarks.suite.record import key_of
from examples.multiregion.model import GPT
from thinwire.optim.fragment import Fragment

CODECS = ("none", "int8", "blockmax", "dct-topk")
PEERS = (2, 4, 8, 16)
GLOO = "gloo all_reduce"  # torch alone, the dense float32 sum: the yardstick
BITS = 8


@dataclass(frozen=True)
class Row:
    """`method` is a codec of `thinwire.DiLoCo`, or `GLOO`."""

    method: str
    peers: int

    @property
    def label(self) -> str:
        return f"{self.method if self.method == GLOO else f'DiLoCo {self.method}'}, {self.peers} peers"

    def key(self, link: str) -> str:
        return key_of(self.method.replace(" ", "-"), peers=self.peers, link=link.replace(" ", ""))


def numel() -> int:
    """Parameters of the model."""
    return sum(p.numel() for p in GPT().parameters())


def payload_nbytes(method: str) -> int:
    """Of one member's payload."""
    shapes = [p.shape for p in GPT().parameters()]
    return Fragment(shapes, "none" if method == GLOO else method).plan.nbytes


def ring_nbytes(peers: int, dense_nbytes: int) -> float:
    """What the dense ring all-reduce moves each way."""
    return 2 * (peers - 1) / peers * dense_nbytes


def gathered_nbytes(peers: int, payload: int) -> int:
    """What an all-gather moves each way."""
    return (peers - 1) * payload


def crossing(payload: int, dense_nbytes: int) -> float:
    """Peers from which on an all-gather brings more down than the dense ring: (N - 1) p = 2 (N - 1) / N * dense.

    For large N also 1 + 8 / p with p in bytes a parameter, if the ring's (N - 1) / N counts as 1.

    >>> crossing(payload=1_000_000, dense_nbytes=4_000_000)  # 1 byte a parameter
    8.0
    """
    return 2 * dense_nbytes / payload
