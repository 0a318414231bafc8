"""A tokenizer of bytes, an environment that wants its prompt back, and the group of an honest worker."""

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from examples.rl.environment import Task, task_seed
from examples.rl.rollout import Completion, RolloutGroup

RUN = "test"
END = 256


class Bytes:
    """Token = byte, and one more that ends."""

    digest = hashlib.sha256(b"bytes").digest()
    end = END

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        if any(i > END for i in ids):
            raise ValueError("no byte")
        return bytes(i for i in ids if i != END).decode("utf-8", "replace")


class Echo:
    """Say the prompt."""

    name = "echo"

    def task(self, seed: int) -> Task:
        return Task(seed, f"say {seed % 1000}:", answer=str(seed % 1000))

    def reward(self, task: Task, completion: str) -> float:
        return float(completion == task.answer)


def completion(said: str, *, logprob: float = -1.0, **changed: Any) -> Completion:
    ids = np.asarray([*Bytes().encode(said), END])
    made = Completion.of(ids, np.full(len(ids), logprob), finished=True, text=said)
    return msgspec.structs.replace(made, **changed)


def honest(worker: bytes = bytes(32), *, version: int = 3, n: int = 0, texts: tuple[str, ...] = (), logprob: float = -1.0) -> RolloutGroup:
    """What a worker sends that answers right once and wrong once."""
    task = Echo().task(task_seed(RUN, worker, version, n))
    texts = texts or (task.answer, f"no {worker[0]} {version} {n}")
    return RolloutGroup(
        run=RUN,
        worker=worker,
        version=version,
        n=n,
        environment="echo",
        tokenizer=Bytes.digest,
        prompt=task.prompt,
        prompt_ids=np.asarray(Bytes().encode(task.prompt), "<u4").tobytes(),
        completions=tuple(completion(text, logprob=logprob) for text in texts),
        rewards=tuple(Echo().reward(task, text) for text in texts),
    )


def key(i: int) -> bytes:
    """The `i`th worker."""
    return i.to_bytes(4, "big") + bytes(28)
