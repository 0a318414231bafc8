"""The weights of a trainer as its workers and verifiers have them: the newest version, whole and checked, in bfloat16."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from examples.rl.network import Network
from thinwire.comms.publish import Subscriber, SubscriberThread
from thinwire.comms.swarm.transport import Key

POLL_S = 1.0  # the trainer sends a notice with each version
UPDATE_S = 30.0


@dataclass(frozen=True, eq=False)
class Version:
    """One version of the weights; `sha256` is that of their canonical bytes, `extra` what its trainer says beside them."""

    number: int
    tensors: dict[str, Tensor]
    sha256: bytes
    extra: Mapping[str, Any]

    def load_into(self, module: nn.Module) -> None:
        """Set the parameters, which keep their type. Raises `ValueError` for those of another model."""
        own = dict(module.named_parameters())
        if own.keys() != self.tensors.keys():
            odd = sorted(own.keys() ^ self.tensors.keys())[:4]
            raise ValueError(f"version {self.number} is of another model (parameters {odd}); give every process the same policy")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(self.tensors[name])


class Follower:
    """Follows one trainer; holds the last `keep` versions that came by."""

    def __init__(self, network: Network, run: str, trainer: Key, module: nn.Module, *, keep: int = 1) -> None:
        shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
        subscriber = Subscriber(network.transport, run, publishers=[trainer], shapes=shapes, poll_s=POLL_S)
        self._subscriber = SubscriberThread(subscriber, network.loop)
        self._keep, self._versions = keep, OrderedDict[int, Version]()
        self.refused = subscriber.refused

    def newest(self) -> Version | None:
        """The newest version that is here; never waits."""
        manifest = self._subscriber.manifest
        if manifest is not None and manifest.version not in self._versions:
            held = self._subscriber.weights()  # a copy of them all
            if held is not None and held[0] == manifest.version:  # else it changed in between: the next look finds it
                self._versions[manifest.version] = Version(*held, manifest.weights_sha256, manifest.extra)
            while len(self._versions) > self._keep:
                self._versions.popitem(last=False)
        return next(reversed(self._versions.values()), None)

    def at(self, number: int) -> Version | None:
        """A version that is still held."""
        self.newest()
        return self._versions.get(number)

    def ask(self) -> None:
        """Take the newest version of the trainer before going on."""
        try:
            self._subscriber.update(UPDATE_S)
        except FutureTimeoutError:
            return

    def wait(self, number: int, timeout_s: float) -> bool:
        """Wait for a version after `number`; False when there is none in time."""
        try:
            return self._subscriber.wait_for(number + 1, timeout_s) > number
        except FutureTimeoutError:
            return False

    def close(self) -> None:
        """Follow no more."""
        self._subscriber.close()
