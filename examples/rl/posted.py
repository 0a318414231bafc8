"""What environments of Atropos post, as groups in the trainer's own buffer: trained on as they came, next to those of workers.

    prompt       the tokens before those that are trained on, the same in all sequences of a group
    completion   the tokens that are trained on, one after the other; what follows them is of no use and left out
    rewards      the scores, whatever their scale; judges do not see them, for there is no task that they could read
    log-probs    `inference_logprobs`; without them the policy's own when the group is trained on (`generate.adopted`)

A group gets the newest version at its arrival, and is dropped like any other when it is too old.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import secrets

import numpy as np
from numpy.typing import NDArray

from examples.rl.atropos import Atropos, AtroposLimits, Registration
from examples.rl.atropos_server import AtroposServer
from examples.rl.buffer import ReplayBuffer
from examples.rl.checks import CheckLimits, check_logprobs
from examples.rl.config import Config, ConfigError
from examples.rl.policy import Tokenizer
from examples.rl.rewards import secret
from examples.rl.rollout import Completion, RolloutError, RolloutGroup
from examples.rl.scored import ScoredError, ScoredGroup, ScoredLimits

POSTED = hashlib.sha256(b"thinwire rl: what Atropos environments post").digest()  # stands where a worker's key does
NAME = "atropos"


class Posted:
    """The sink of one trainer: refuses what this policy cannot be trained on, takes as much as its buffer has room for."""

    def __init__(self, buffer: ReplayBuffer, tokenizer: Tokenizer, run: str) -> None:
        self._buffer, self._tokenizer, self._run = buffer, tokenizer, run
        self._numbers = itertools.count(secrets.randbelow(1 << 60))  # who comes back after a crash must not count the same again

    def check(self, group: ScoredGroup) -> None:
        made = self._group(group, version=0, n=0)
        if group.inference_logprobs is not None:
            try:
                check_logprobs(made, CheckLimits().lowest_logprob)
            except RolloutError as error:
                raise ScoredError(str(error)) from None

    def room(self) -> int:
        return self._buffer.room(POSTED)

    def sizes(self) -> list[tuple[int | None, int]]:
        waiting = self._buffer.held_of(POSTED)
        return [(_number(group.environment), len(group.completions)) for group in waiting]

    def put(self, group: ScoredGroup) -> None:
        with contextlib.suppress(RolloutError):  # the same twice: the buffer has counted it
            self._buffer.put(self._group(group, version=self._buffer.head, n=next(self._numbers)))

    def _group(self, scored: ScoredGroup, *, version: int, n: int) -> RolloutGroup:
        if scored.advantages is not None:
            raise ScoredError("advantages are made from the scores here; leave them out")
        parts = [_cut(tokens, mask) for tokens, mask in zip(scored.tokens, scored.masks, strict=True)]
        prompt = scored.tokens[0][: parts[0].start]
        for tokens, part in zip(scored.tokens, parts, strict=True):
            if not np.array_equal(tokens[: part.start], prompt):
                raise ScoredError("sequences of a group have the same prompt: the tokens before the first that is trained on")
            if int(tokens[: part.stop].max()) >= self._tokenizer.size:
                raise ScoredError(f"a token id that is not below {self._tokenizer.size}, the size of this policy's vocabulary")
        return RolloutGroup(
            run=self._run,
            worker=POSTED,
            version=version,
            n=n,
            environment=NAME if scored.environment is None else f"{NAME}-{scored.environment}",
            tokenizer=self._tokenizer.digest,
            prompt=self._tokenizer.decode(prompt.tolist()),
            prompt_ids=prompt.astype("<u4").tobytes(),
            completions=tuple(self._completion(scored, i, part) for i, part in enumerate(parts)),
            rewards=tuple(float(score) for score in scored.scores),
        )

    def _completion(self, scored: ScoredGroup, i: int, part: slice) -> Completion:
        ids = scored.tokens[i][part]
        known = scored.inference_logprobs
        logprobs = np.zeros(0) if known is None else np.maximum(known[i][part], -65504.0)  # where float16 ends
        return Completion.of(ids, logprobs, finished=int(ids[-1]) == self._tokenizer.end, text=self._tokenizer.decode(ids.tolist()))


def _cut(tokens: NDArray[np.int64], mask: NDArray[np.bool_]) -> slice:
    """Where the tokens are that are trained on; raises `ScoredError` unless they are one stretch behind a prompt."""
    trained = np.flatnonzero(mask)
    if len(trained) == 0 or trained[0] == 0:
        raise ScoredError("a sequence with nothing to train on, or with no prompt before it")
    if trained[-1] - trained[0] + 1 != len(trained):
        raise ScoredError("tokens that are trained on lie on both sides of some that are not; post each answer with what came before it")
    return slice(int(trained[0]), int(trained[-1]) + 1)


def _number(name: str) -> int | None:
    number = name.removeprefix(f"{NAME}-")
    return int(number) if number.isdigit() else None


def opened(config: Config, buffer: ReplayBuffer, tokenizer: Tokenizer, *, step: int) -> AtroposServer:
    """Atropos over a trainer's buffer. Raises `ConfigError` for an address that cannot be listened on, and a token that is none."""
    train, told = config.train, config.atropos
    here = Registration(
        wandb_group=config.run,
        wandb_project="thinwire",
        batch_size=train.groups * train.completions,
        max_token_len=told.max_tokens,
        checkpoint_dir="",
        save_checkpoint_interval=train.checkpoint_every,
        starting_step=step,
        num_steps=train.updates,
    )
    limits = AtroposLimits(scored=ScoredLimits(tokens=told.max_tokens, vocabulary=tokenizer.size))
    atropos = Atropos(Posted(buffer, tokenizer, config.run), limits=limits, trainer=here)
    token = secret(told.token_env)
    try:
        return AtroposServer(atropos, told.host, told.port, token=token)
    except (ValueError, OSError, OverflowError) as error:
        raise ConfigError(f"atropos at {told.host}:{told.port}: {error}") from None
