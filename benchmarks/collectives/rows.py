"""What is measured: a codec in a group of so many members at a size; and the peers that move the same bytes with torch alone."""

from dataclasses import dataclass
from functools import cached_property

import torch

from benchmarks.lab.topology import Topology
from benchmarks.suite.record import key_of
from thinwire.optim.fragment import Fragment

GROUPS = ("torch", "gloo", "local", "simulated")
THREADS = ("local", "simulated")  # one process, members are threads
KB, MB = 1024, 1024**2


@dataclass(frozen=True)
class Row:
    """`nbytes` of float32 a member, through a codec, over a group.

    - "torch": `TorchGroup`, gloo between processes. "local": `LocalGroup`, threads. "simulated": threads with a simulated network.
    - "gloo": the peer, torch alone: `all_reduce` of the float32 where the codec is the dense one, else `all_gather_into_tensor` of as many
      bytes as the codec's payload has.
    """

    group: str
    codec: str
    nbytes: int
    members: int

    def __post_init__(self) -> None:
        if self.group not in GROUPS:
            raise ValueError(f"group is {self.group!r}; choose from {', '.join(GROUPS)}")
        if self.nbytes < 4 or self.nbytes % 4 or self.members < 2:
            raise ValueError(f"{self.nbytes} bytes on {self.members} members; give whole float32 numbers and at least two members")

    @cached_property
    def fragment(self) -> Fragment:
        """The layout of one flat tensor of this size."""
        return Fragment([torch.Size([self.numel])], self.codec)

    @property
    def numel(self) -> int:
        return self.nbytes // 4

    @property
    def summed(self) -> bool:
        """Whether payloads are added on the way: an all-reduce. Else everybody gets all of them: an all-gather."""
        return self.fragment.plan.codec.summable

    @property
    def collective(self) -> str:
        """By nccl-tests' name."""
        return "all_reduce" if self.summed else "all_gather"

    @property
    def payload_nbytes(self) -> int:
        """Of one member."""
        return self.fragment.plan.nbytes

    @property
    def moved_nbytes(self) -> float:
        """What a member has to send of payload, and to receive: nccl-tests' factor 2 (n - 1) / n, or (n - 1) / n of what is gathered."""
        n = self.members
        if self.summed and self.group != "local":  # threads hand whole payloads around
            return 2 * (n - 1) / n * self.payload_nbytes
        return (n - 1) * self.payload_nbytes

    @property
    def label(self) -> str:
        if self.group == "gloo":
            return f"gloo {self.collective} {'fp32' if self.summed else f'of {self.codec} bytes'}, {self.members} x {size(self.nbytes)}"
        return f"{self.group} {self.codec}, {self.members} x {size(self.nbytes)}"

    def key(self, link: str) -> str:
        return key_of(self.group, codec=self.codec, nbytes=self.nbytes, members=self.members, link=link.replace(" ", ""))

    def memory_nbytes(self) -> int:
        """About what all members hold at once: in a round input, result and frames; or when one of them checks, everybody's numbers."""
        n = self.members
        frames = (1 if self.group == "gloo" else 8) if self.summed else 2 * n + 3
        moving = n * (2 * self.nbytes + frames * self.payload_nbytes)
        checking = n * 2 * self.nbytes + (n + 3) * self.nbytes
        return max(moving, checking)

    def least_s(self, topology: Topology) -> float:
        """What the slowest link alone takes for one round."""
        rates = [rate for region in topology.regions for rate in (region.up_mbit, region.down_mbit) if rate]
        return self.moved_nbytes * 8 / (min(rates) * 1e6) if rates else 0.0


def size(nbytes: int) -> str:
    """For people.

    >>> size(1024), size(4 * 1024**2)
    ('1 KB', '4 MB')
    """
    return f"{nbytes / MB:g} MB" if nbytes >= MB else f"{nbytes / KB:g} KB"


def grid(groups: tuple[str, ...], codecs: tuple[str, ...], sizes: tuple[int, ...], members: tuple[int, ...]) -> list[Row]:
    """All rows, those of one world of members together, and a peer beside the codec whose bytes it moves."""
    return [
        Row(group, codec, nbytes, n)
        for kinds in (("torch", "gloo"), ("local",), ("simulated",))
        for n in members
        for group in kinds
        if group in groups
        for nbytes in sizes
        for codec in codecs
    ]
