"""A run as its file says it: one TOML table a concern, every field typed, unknown names refused."""

from __future__ import annotations

import ipaddress
import math
import re
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

Mode = Literal["pull", "push_pull"]
Setting = bool | int | float | str


class ConfigError(ValueError):
    """A file that names no run; the sentence says where and what was expected."""


class Table(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One table of the file."""


class Task(Table):
    """What is learnt, and by which model: `tiny`, or `hf:PATH` of a transformers checkpoint.

    `environment` is `sort`, `addition`, `code`, each with a size (`sort-3`), or `reasoning:NAME` of reasoning-gym; `settings` are its own.
    """

    environment: str = "sort"
    settings: dict[str, Setting] = field(default_factory=dict)
    policy: str = "tiny"
    temperature: float = 1.0
    max_new_tokens: int = 8
    device: Literal["cpu", "cuda"] = "cpu"
    """Where this process computes; a card only for `hf:`. With torchrun each rank takes the card of its own number."""


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
    micro_batch: int = 256
    """Completions in one forward pass of one process: memory against speed."""
    mode: Mode = "push_pull"
    max_staleness: int = 4
    publish_every: int = 1
    clip_low: float = 0.2
    clip_high: float = 0.28
    clip_ratio: float = 4.0
    kl: float = 0.0
    """Weight of the divergence from the policy that the warm-up has left; 0: no reference, and no second copy of the weights."""
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


class EnvironmentJudge(Table, tag_field="kind", tag="environment"):
    """What the environment itself says."""

    stake: float = 1.0


class NoisyJudge(Table, tag_field="kind", tag="noisy"):
    """The environment's, with normal noise of `deviation` on each score."""

    deviation: float
    stake: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.deviation < math.inf:
            raise ValueError(f"deviation is {self.deviation}; give 0 or more")


class AdversarialJudge(Table, tag_field="kind", tag="adversarial"):
    """The opposite of the environment's, times `loudness`: to see what one liar can do."""

    loudness: float = 1e3
    stake: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.loudness < math.inf:
            raise ValueError(f"loudness is {self.loudness}; give more than 0")


class HttpJudge(Table, tag_field="kind", tag="http"):
    """A language model behind an OpenAI-compatible `url`; `token_env` names the variable of the trainer that holds its token."""

    url: str
    model: str
    token_env: str = ""
    timeout_s: float = 30.0
    stake: float = 1.0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url is {self.url!r}; give one like http://127.0.0.1:8000/v1")
        if not 0 < self.timeout_s < math.inf:
            raise ValueError(f"timeout_s is {self.timeout_s}; give more than 0")
        _check_variable(self.token_env)


Judge = EnvironmentJudge | NoisyJudge | AdversarialJudge | HttpJudge


class Reward(Table):
    """Who says what an answer is worth: the environment, or judges, whose ranks the stake-weighted `median` (or `mean`) decides."""

    by: Literal["environment", "judges"] = "environment"
    rule: Literal["median", "mean"] = "median"
    judges: tuple[Judge, ...] = ()

    def __post_init__(self) -> None:
        if (self.by == "judges") != bool(self.judges):
            raise ValueError(f"by is {self.by!r} with {len(self.judges)} judges; give [[reward.judges]] if, and only if, they are to judge")
        for judge in self.judges:
            if not 0 < judge.stake < math.inf:
                raise ValueError(f"stake is {judge.stake}; give more than 0, or leave the judge out")


class Proposer(Table):
    """The trainer proposes the level of each version's tasks, from `lowest` to `highest` (the size in `sort-3`); off while both are 0.

    A level that `solvers` workers have tried in vain is not asked again until half of the answers to the level below it are right.
    """

    lowest: int = 0
    highest: int = 0
    discount: float = 0.7
    solvers: int = 2

    def __post_init__(self) -> None:
        if (self.lowest, self.highest) != (0, 0) and not 0 < self.lowest < self.highest <= 64:
            raise ValueError(f"levels from {self.lowest} to {self.highest}; give 0 < lowest < highest <= 64")
        if not 0 < self.discount < 1:
            raise ValueError(f"discount is {self.discount}; give a number between 0 and 1")
        _at_least_one("solvers", self.solvers)

    @property
    def on(self) -> bool:
        return self.highest > 0

    @property
    def levels(self) -> range:
        return range(self.lowest, self.highest + 1) if self.on else range(0)


class Atropos(Table):
    """Where environments of Atropos post to the trainer; `token_env` names the variable that holds the bearer token which they need."""

    open: bool = False
    host: str = "127.0.0.1"
    port: int = 8000
    token_env: str = ""
    max_tokens: int = 2048
    """Of a sequence, prompt and answer."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise ValueError(f"port is {self.port}; give 1 to 65535, or 0 for any that is free")
        if self.max_tokens < 2:
            raise ValueError(f"max_tokens is {self.max_tokens}; give at least 2: a prompt and an answer")
        if self.open and not is_loopback(self.host) and not self.token_env:
            raise ValueError(
                f"host is {self.host!r}, which others reach; name the variable of a token in token_env, or listen on 127.0.0.1"
            )
        _check_variable(self.token_env)


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
    reward: Reward = field(default_factory=Reward)
    proposer: Proposer = field(default_factory=Proposer)
    atropos: Atropos = field(default_factory=Atropos)
    verify: Verify = field(default_factory=Verify)
    network: Network = field(default_factory=Network)

    def __post_init__(self) -> None:
        train, network = self.train, self.network
        if not self.run or len(self.run.encode()) > 64:
            raise ValueError(f"run is {self.run!r}; give a name of 1 to 64 bytes")
        for name in ("updates", "groups", "micro_batch", "publish_every", "evaluate_every", "checkpoint_every"):
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
        if not 0 <= train.kl < math.inf:
            raise ValueError(f"kl is {train.kl}; give 0 (no reference) or more")
        if self.proposer.on and self.reward.by == "judges":
            raise ValueError("the proposer needs to know how many answers are right, and ranks of judges do not say; leave one of them out")
        for key in (*network.trainers, *network.verifiers):
            key_from(key)

    @property
    def trainers(self) -> tuple[bytes, ...]:
        return tuple(map(key_from, self.network.trainers))

    @property
    def verifiers(self) -> tuple[bytes, ...]:
        return tuple(map(key_from, self.network.verifiers))


def _check_variable(name: str) -> None:
    """What is no name is not repeated: it may be the secret itself."""
    if name and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", name):
        raise ValueError(
            "token_env is no name of an environment variable (capitals, digits and _); name the variable, never give the token"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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
