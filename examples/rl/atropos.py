"""What stands behind the HTTP shape of Atropos (Nous Research, archived): environments register and post, trainers ask for exact batches.

Names of fields and answers are those of `atroposlib/api/server.py`; nothing else is. The original trusts whoever reaches it. Here every
body is checked before anything is kept, each request happens as a whole or not at all, and what is kept is bounded in sequences and bytes
(503 when full: clients of Atropos try again on 5xx).

A trainer over HTTP asks for batches. A learner in this process gives a `Sink` instead, which gets every complete group at once; or it calls
`batch` itself.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import Struct

from examples.rl.batches import Piece, Pieces, Queue
from examples.rl.scored import ScoredData, ScoredError, ScoredGroup, ScoredLimits, Sink, convert, decode

MIN_WEIGHT = 0.01  # no environment is told that it counts for nothing


class Refused(Exception):
    """A request that gets another status than 200."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Registration(Struct, frozen=True, forbid_unknown_fields=True):
    """What a trainer says of itself."""

    wandb_group: str
    wandb_project: str
    batch_size: int
    max_token_len: int
    checkpoint_dir: str
    save_checkpoint_interval: int
    starting_step: int
    num_steps: int


class RegisterEnv(Struct, frozen=True, forbid_unknown_fields=True):
    """What an environment says of itself."""

    max_token_length: int
    desired_name: str
    weight: float
    group_size: int
    min_batch_allocation: float | None = None


class EnvIdentifier(Struct, frozen=True, forbid_unknown_fields=True):
    """Which environment."""

    env_id: int


@dataclass(frozen=True)
class AtroposLimits:
    """How much is taken, and kept."""

    body_nbytes: int = 32 << 20
    groups: int = 256  # in one /scored_data_list
    queued: int = 4096  # sequences
    kept_nbytes: int = 1 << 30  # of JSON, queued and buffered
    buffered: int = 1024  # sequences of one environment that make no group yet
    environments: int = 256
    name: int = 256  # characters
    requests: int = 32  # at once
    request_s: float = 60.0  # for one of them to come in
    scored: ScoredLimits = field(default_factory=ScoredLimits)


@dataclass(eq=False)
class _Environment:
    number: int
    told: RegisterEnv
    name: str
    pieces: Pieces[_Entry]
    connected: bool = True


@dataclass(frozen=True, eq=False)
class _Entry:
    raw: bytes  # as it came, for trainers over HTTP
    group: ScoredGroup

    @property
    def told(self) -> ScoredData:
        """With every field, those that were left out as null."""
        return decode(self.raw)


class Atropos:
    """The state behind the paths. All methods may be called from any thread; each request happens as a whole or not at all."""

    def __init__(self, sink: Sink | None = None, *, limits: AtroposLimits = AtroposLimits()) -> None:
        self.limits, self._sink = limits, sink
        self.counts: Counter[str] = Counter()  # groups by what became of them, refusals by status
        self._lock = threading.RLock()
        self._reset()

    def _reset(self) -> None:
        self._trainer: Registration | None = None
        self._trainers = 0
        self._started = self._sink is not None
        self._step = 0
        self._environments: list[_Environment] = []
        self._queue: Queue[_Entry] = Queue(self.limits.queued)
        self._latest: _Entry | None = None
        self._kept_nbytes = 0

    def count(self, what: str, by: int = 1) -> None:
        """Add to `counts`."""
        with self._lock:
            self.counts[what] += by

    # What a trainer asks.

    def register(self, body: bytes) -> dict[str, Any]:
        told = _read(Registration, body)
        if not 1 <= told.batch_size <= self.limits.queued or told.max_token_len < 1 or told.starting_step < 0:
            raise Refused(422, f"batch_size is from 1 to {self.limits.queued}, max_token_len at least 1, starting_step not negative")
        self._check_names(told.wandb_group, told.wandb_project, told.checkpoint_dir)
        with self._lock:
            if self._trainer is None:
                self._trainer, self._step = told, told.starting_step
            self._trainers += 1
            return {"uuid": self._trainers}

    def batch(self) -> list[ScoredGroup] | None:
        """Groups that sum to the batch size of the trainer, for a trainer in this process; None while there are none."""
        taken = self._take()
        return None if taken is None else [entry.group for entry in taken]

    def get_batch(self) -> dict[str, Any]:
        taken = self._take()
        return {"batch": None if taken is None else [entry.told for entry in taken]}

    def _take(self) -> list[_Entry] | None:
        with self._lock:
            if self._trainer is None:
                raise Refused(409, "no trainer has registered: POST /register first")
            self._started = True
            size = self._trainer.batch_size
            promised = {one.number: int(size * (one.told.min_batch_allocation or 0)) for one in self._environments if one.connected}
            batch = self._queue.take(size, {number: least for number, least in promised.items() if least})
            if batch is None:
                return None
            self._step += 1
            self._kept_nbytes -= sum(len(piece.what.raw) for piece in batch)
            self.count("trained", len(batch))
            return [piece.what for piece in batch]

    def info(self) -> dict[str, Any]:
        with self._lock:
            trainer = self._trainer
            return {"batch_size": trainer.batch_size if trainer else -1, "max_token_len": trainer.max_token_len if trainer else -1}

    def wandb_info(self) -> dict[str, Any]:
        with self._lock:
            trainer = self._trainer
            return {"group": trainer and trainer.wandb_group, "project": trainer and trainer.wandb_project}

    def status(self) -> dict[str, Any]:
        with self._lock:
            return {"current_step": self._step, "queue_size": len(self._queue)}

    def latest_example(self) -> Any:
        with self._lock:
            return self._latest.told if self._latest else ScoredData(tokens=[], masks=[], scores=[])

    def reset_data(self) -> str:
        with self._lock:
            self._reset()
        return "Reset successful"

    # What an environment asks.

    def register_env(self, body: bytes) -> dict[str, Any]:
        told = _read(RegisterEnv, body)
        least = told.min_batch_allocation
        if not (1 <= told.group_size <= self.limits.scored.sequences and told.max_token_length >= 1 and 0 <= told.weight < 1e9):
            raise Refused(422, f"group_size is from 1 to {self.limits.scored.sequences}, max_token_length at least 1, weight not negative")
        if least is not None and not 0 <= least <= 1:
            raise Refused(422, f"min_batch_allocation is {least}; a share in [0, 1]")
        self._check_names(told.desired_name)
        with self._lock:
            if not self._started:
                return {"status": "wait for trainer to start"}
            if len(self._environments) >= self.limits.environments:
                raise Refused(503, f"{len(self._environments)} environments are registered already")
            number = len(self._environments)
            name = f"{told.desired_name}_{sum(one.told.desired_name == told.desired_name for one in self._environments)}"
            self._environments.append(_Environment(number, told, name, Pieces(told.group_size)))
            trainer = self._trainer
            return {
                "status": "success",
                "env_id": number,
                "wandb_name": name,
                "checkpoint_dir": trainer.checkpoint_dir if trainer else "",
                "starting_step": self._step,
                "checkpoint_interval": trainer.save_checkpoint_interval if trainer else 0,
                "num_steps": trainer.num_steps if trainer else 0,
            }

    def disconnect_env(self, body: bytes) -> dict[str, Any]:
        told = _read(EnvIdentifier, body)
        with self._lock:
            self._environment(told.env_id).connected = False
            return {"status": "success"}

    def scored_data(self, body: bytes) -> dict[str, Any]:
        (held,) = self._add([body])
        return {"status": "received"} if held is None else {"status": "buffered", "buffer_size": held}

    def scored_data_list(self, body: bytes) -> dict[str, Any]:
        raws = _read(list[msgspec.Raw], body)
        if len(raws) > self.limits.groups:
            raise Refused(413, f"{len(raws)} groups at once, at most {self.limits.groups}")
        return {"status": "received", "groups_processed": len(self._add([bytes(raw) for raw in raws]))}

    def _add(self, raws: list[bytes]) -> list[int | None]:
        """Keep all groups or none; for each how much its environment has buffered, None for one that went straight on."""
        try:
            entries = [_Entry(raw, convert(decode(raw), self.limits.scored)) for raw in raws]
        except ScoredError as error:
            raise Refused(422, str(error)) from None
        with self._lock:
            if not self._started:
                raise Refused(409, "no trainer has started")
            homes = [self._home(entry.group) for entry in entries]
            self._check_room(entries, homes)
            self.count("received", len(entries))
            return [self._keep(entry, home) for entry, home in zip(entries, homes, strict=True)]

    def _home(self, group: ScoredGroup) -> _Environment | None:
        """The environment that holds this group back for its size; None for a group that is whole, or of no environment."""
        if group.environment is None:
            return None
        environment = self._environment(group.environment)
        size = len(group)
        if size > environment.told.group_size:
            raise Refused(422, f"{size} sequences of an environment whose groups have {environment.told.group_size}")
        return environment if size < environment.told.group_size else None

    def _check_room(self, entries: list[_Entry], homes: list[_Environment | None]) -> None:
        """All of a request must fit, whatever becomes complete on the way."""
        wanted = sum(len(entry.group) for entry in entries)
        held = sum(one.pieces.sequences for one in {id(home): home for home in homes if home is not None}.values())
        if self._kept_nbytes + sum(len(entry.raw) for entry in entries) > self.limits.kept_nbytes:
            raise Refused(503, f"{self._kept_nbytes} bytes are queued or buffered, at most {self.limits.kept_nbytes}")
        if self._sink is None and not self._queue.fits(wanted + held):
            raise Refused(503, f"{self._queue.sequences} sequences are queued, at most {self.limits.queued}")
        for home in homes:
            mine = sum(len(entry.group) for entry, other in zip(entries, homes, strict=True) if other is home)
            if home is not None and home.pieces.sequences + mine > self.limits.buffered:
                raise Refused(503, f"{home.pieces.sequences} sequences of {home.name} make no group yet, at most {self.limits.buffered}")

    def _keep(self, entry: _Entry, home: _Environment | None) -> int | None:
        piece = Piece(len(entry.group), entry.group.environment, entry)
        self._kept_nbytes += len(entry.raw)
        for complete in [piece] if home is None else home.pieces.add(piece):
            self._latest = complete.what
            self.count("complete")
            if self._sink is None:
                self._queue.add(complete)
            else:
                self._kept_nbytes -= len(complete.what.raw)
                self._sink.put(complete.what.group)
        return None if home is None else home.pieces.sequences

    def status_env(self, body: bytes) -> dict[str, Any]:
        """What is queued in units of the environment's groups; what others are promised in each batch does not count against it."""
        number = _read(EnvIdentifier, body).env_id
        with self._lock:
            asking = self._environment(number)
            connected = [one for one in self._environments if one.connected]
            total = sum(one.told.max_token_length * one.told.weight for one in connected)
            share = asking.told.max_token_length * asking.told.weight / total if total > 0 else 0.0
            queued: Counter[int | None] = Counter()
            for owner, size in self._queue.sizes():
                queued[owner] += size
            largest = max((size for _, size in self._queue.sizes()), default=1)
            group_size = max([asking.told.group_size, *(size for owner, size in self._queue.sizes() if owner == number)])
            batch_size = self._trainer.batch_size if self._trainer else 0
            promised = {one.number: int(batch_size * (one.told.min_batch_allocation or 0)) for one in connected}
            others = sum(
                max(0, -(-sequences // largest) * largest - promised.get(owner, 0) if owner is not None else sequences)
                for owner, sequences in queued.items()
                if owner != number
            )
            allocated = sum(one.told.min_batch_allocation or 0.0 for one in connected)
            return {
                "current_step": self._step,
                "queue_size": (queued[number] + others) // group_size,
                "unallocated_fraction": 1.0 - min(allocated, 1.0),
                "self_queue_size": queued[number] // group_size,
                "max_group_size": largest,
                "env_weight": max(MIN_WEIGHT, share),
            }

    def _environment(self, number: int) -> _Environment:
        if not 0 <= number < len(self._environments):
            raise Refused(404, f"no environment has the number {number}")
        return self._environments[number]

    def _check_names(self, *names: str) -> None:
        if any(len(name) > self.limits.name for name in names):
            raise Refused(422, f"a name of more than {self.limits.name} characters")


def _read(kind: type[Any], body: bytes) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Refused(422, str(error)) from None
