"""A run as its file says it: one TOML table a concern, every field typed, unknown names refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

Mode = Literal["pull", "push_pull"]


class ConfigError(ValueError):
    """A file that names no run; the sentence says where and what was expected."""


class Table(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One table of the file."""


class Task(Table):
    """What is learnt, and by which model: `tiny`, or `hf:PATH` of a transformers checkpoint."""

    environment: str = "sort"
    policy: str = "tiny"
    temperature: float = 1.0
    max_new_tokens: int = 8


class Warmup(Table):
    """Supervised steps on demonstrations of which only a part is right, so that there is something to find."""

    steps: int = 400
    batch: int = 64
    lr: float = 2e-3
    right: float = 0.3


class Train(Table):
    """The learner: `groups` of `completions` make an update.

    `mode` is Echo's: `pull` samples under the newest weights only, `push_pull` takes what comes and drops groups that are more than
    `max_staleness` versions old.
    """

    updates: int = 60
    groups: int = 16
    completions: int = 16
    lr: float = 3e-4
    mode: Mode = "push_pull"
    max_staleness: int = 4
    publish_every: int = 1
    clip_low: float = 0.2
    clip_high: float = 0.28
    clip_ratio: float = 4.0
    own_groups: int = 0
    """Of an update's groups, those that this learner samples itself."""
    foreign_groups: int = 0
    """Of an update's groups, those taken from other learners (SAPO)."""
    evaluate_every: int = 10
    checkpoint_every: int = 20


class Learners(Table):
    """Several learners that average what they have learnt, with thinwire.DiLoCo over a swarm; one learner needs none of it."""

    count: int = 1
    average: bool = True
    """Without it they only share rollouts, if `foreign_groups` says so."""
    sync_every: int = 10
    codec: str = "int4"
    visible: bool = False
    """Exchange only what changes the bfloat16 weights, keep the rest until it does: for learning rates around 1e-6."""


class Verify(Table):
    """How workers are checked: `rate` of the groups of a known worker get a prefill, all of a new one; `proofs` are TOPLOC's."""

    rate: float = 0.1
    proofs: bool = True
    drift_nats: float = 0.1
    ban_s: float = 600.0


class Network(Table):
    """How members find each other; `trainers` and `verifiers` are public keys (hex) whose weights and verdicts count."""

    listen: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    initial_peers: tuple[str, ...] = ()
    trainers: tuple[str, ...] = ()
    verifiers: tuple[str, ...] = ()


class Config(Table):
    """A whole run."""

    run: str
    seed: int = 0
    task: Task = field(default_factory=Task)
    warmup: Warmup = field(default_factory=Warmup)
    train: Train = field(default_factory=Train)
    learners: Learners = field(default_factory=Learners)
    verify: Verify = field(default_factory=Verify)
    network: Network = field(default_factory=Network)

    def __post_init__(self) -> None:
        train, network = self.train, self.network
        if not self.run or len(self.run.encode()) > 64:
            raise ValueError(f"run is {self.run!r}; give a name of 1 to 64 bytes")
        for name in ("updates", "groups", "publish_every", "evaluate_every", "checkpoint_every"):
            _at_least_one(name, getattr(train, name))
        _at_least_one("max_new_tokens", self.task.max_new_tokens)
        _at_least_one("count", self.learners.count)
        _at_least_one("sync_every", self.learners.sync_every)
        if train.completions < 2:
            raise ValueError(f"completions is {train.completions}; give at least 2: an advantage compares them")
        if min(train.own_groups, train.foreign_groups) < 0 or train.own_groups + train.foreign_groups > train.groups:
            raise ValueError(f"own_groups + foreign_groups is {train.own_groups + train.foreign_groups}; groups is {train.groups}")
        if train.max_staleness < 0 or (train.mode == "pull" and train.max_staleness != 0):
            raise ValueError(f"max_staleness is {train.max_staleness}; give 0 or more, and 0 when mode is pull: its staleness is always 0")
        if self.verify.rate == 0:
            raise ValueError("rate is 0; give more: whoever is never looked at may send anything")
        for name, share in (("right", self.warmup.right), ("rate", self.verify.rate)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}; give a number from 0 to 1")
        if not (train.lr > 0 and self.warmup.lr > 0 and self.task.temperature > 0):
            raise ValueError("give an lr and a temperature above 0")
        for key in (*network.trainers, *network.verifiers):
            key_from(key)

    @property
    def trainers(self) -> tuple[bytes, ...]:
        return tuple(map(key_from, self.network.trainers))

    @property
    def verifiers(self) -> tuple[bytes, ...]:
        return tuple(map(key_from, self.network.verifiers))


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} is {value}; give at least 1")


def key_from(text: str) -> bytes:
    """A public key; raises `ValueError` for anything but 64 hexadecimal digits."""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ValueError(f"{text!r} is no public key; give the 64 hexadecimal digits that `thinwire keygen` prints")
    return key


def load(path: Path, changes: dict[str, Any] | None = None) -> Config:
    """The run in a file; `changes` are `{"train.updates": 10}`. Raises `ConfigError` with the first thing that is wrong."""
    try:
        data = msgspec.toml.decode(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML: {error}") from None
    for name, value in (changes or {}).items():
        *tables, last = name.split(".")
        place = data
        for table in tables:
            place = place.setdefault(table, {})
        place[last] = value
    try:
        return msgspec.convert(data, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}") from None
