"""A trainer over several ranks: rank 0 leads and has the network, others follow; and what becomes of them when one is gone."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from examples.rl.config import Config, ConfigError, load
from examples.rl.environment import Task
from examples.rl.evaluate import evaluate
from examples.rl.events import read
from examples.rl.network import Network
from examples.rl.policy import policy
from examples.rl.ranks import Lead, Part
from examples.rl.sharded import World
from examples.rl.tasks import Sort
from examples.rl.tiny import Tiny
from examples.rl.trained import RankError, check
from examples.rl.trainer import Trainer
from tests.examples.rl.test_sharded import batch
from tests.examples.rl.world import SMALL, TRAINER, Said
from tests.worlds import run_ranks
from thinwire.comms.swarm.memory import Network as Memory

OWN = SMALL | {"train.own_groups": 4, "train.checkpoint_every": 1, "train.evaluate_every": 1, "train.lr": 1e-2}


class Odd(Sort):
    """What an untrained policy is right about half of the time."""

    def reward(self, task: Task, completion: str) -> float:
        return float(sum(completion.encode()) % 2)


def config(**changes: Any) -> Config:
    return load(Path("examples/rl/tiny.toml"), OWN | {name.replace("__", "."): value for name, value in changes.items()})


@contextmanager
def training(folder: Path, run: Config, lead: Lead | None = None) -> Iterator[tuple[Trainer, Said]]:
    """A trainer that samples all its groups itself."""
    memory, said = Memory(), Said("trainer")
    with Network(run.run, "trainer", identity=TRAINER, transport=lambda one: memory.node(one.key)) as network:
        trainer = Trainer(run, network, folder, said, lead=lead)
        trainer.environment = trainer.parts.curriculum.measured = Odd()
        few = partial(evaluate, tasks=16)
        try:
            with mock.patch("examples.rl.trainer.evaluate", few):
                yield trainer, said
        finally:
            trainer.close()


def numbers(said: Said) -> list[dict[str, float]]:
    names = ("update", "reward", "entropy", "mismatch_kl", "accuracy")
    return [{name: each[name] for name in names if name in each} for each in said.all("update") + said.all("accuracy")]


def on_ranks(rank: int, folder: Path, updates: int) -> Any:
    run = config(train__updates=updates)
    world = World.join()
    if rank:
        Part(world, run).follow()
        return None
    with training(folder, run, Lead(world, run)) as (trainer, said):
        trainer.run()
        held = trainer._publisher.weights() if trainer._publisher else None
        assert held is not None
        published = {name: tensor.float().numpy() for name, tensor in held[1].items()}
        whole = {name: p.detach().bfloat16().float().numpy() for name, p in trainer.policy.module.named_parameters()}
    return published, whole, numbers(said), said.all("resumed")


def alone(folder: Path, updates: int) -> tuple[Trainer, Said]:
    with training(folder, config(train__updates=updates)) as (trainer, said):
        trainer.run()
    return trainer, said


def test_two_ranks_train_measure_and_publish_as_one_process_does_and_go_on_where_it_was(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    first, said = alone(one, 2)
    [(published, whole, told, _), _] = run_ranks(2, on_ranks, two, 2, deadline_s=240.0)
    assert published.keys() == whole.keys()
    assert all(np.array_equal(published[name], whole[name]) for name in whole)
    expected = numbers(said)
    assert [each.keys() for each in told] == [each.keys() for each in expected]
    assert any(each.get("reward", 0) > 0 for each in told)
    assert all(ours == pytest.approx(theirs, rel=1e-3, abs=1e-4) for ours, theirs in zip(told, expected, strict=True))
    for parameter, (name, start) in zip(first.policy.module.parameters(), Tiny().module.named_parameters(), strict=True):
        assert not np.array_equal(whole[name], start.detach().bfloat16().float().numpy())
        np.testing.assert_allclose(whole[name], parameter.detach().numpy(), atol=1e-2, rtol=1e-2)
    _, said = alone(two, 3)  # the checkpoint of two ranks, in one process
    assert [each["update"] for each in said.all("resumed")] == [2]
    [(published, whole, told, resumed), _] = run_ranks(2, on_ranks, one, 3, deadline_s=240.0)  # and that of one process, on two ranks
    assert [each["update"] for each in resumed] == [2]
    assert all(np.array_equal(published[name], whole[name]) for name in whole)
    assert [each["update"] for each in told] == [each["update"] for each in numbers(said)] == [3, 2, 3]


def bereft(rank: int, victim: int) -> tuple[str, float, float] | None:
    """Both train until one is killed, between two updates of its own."""
    world = World.join()
    run = config()
    part = Part(world, run) if rank else None
    lead = None if rank else Lead(world, run)
    began = time.monotonic()
    try:
        if lead is not None:
            lead.begin()
            for update in range(3):
                if victim == 0 and update == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                lead.update(batch(4))
        elif part is not None:
            step = part.learner.update

            def dies(groups: Any) -> Any:
                if victim == rank and part.optimizer.state:
                    os.kill(os.getpid(), signal.SIGKILL)
                return step(groups)

            part.learner.update = dies  # type: ignore[method-assign]
            part.follow()
    except RankError as error:
        closing = time.monotonic()
        if lead is not None:
            lead.close()  # tells nobody
        return str(error), closing - began, time.monotonic() - closing
    return None


@pytest.mark.parametrize("victim", [0, 1])
def test_the_others_end_with_a_sentence_when_a_rank_is_killed(victim: int) -> None:
    told = run_ranks(2, bereft, victim, killed=[victim], deadline_s=200.0)[1 - victim]
    assert told is not None
    sentence, _, closing_s = told
    assert sentence.startswith("a rank of this trainer is gone; start torchrun again, which goes on from the checkpoint (")
    assert "\n" not in sentence
    assert closing_s < 5.0


def test_learners_that_average_are_refused_in_shards_and_those_that_share_are_not() -> None:
    with pytest.raises(ConfigError, match=r"swarms decide for themselves .* share rollouts instead \(learners.average = false\)"):
        check(load(Path("examples/rl/learners.toml")))
    check(load(Path("examples/rl/sharing.toml")))
    check(load(Path("examples/rl/tiny.toml")))


@pytest.mark.slow
def test_torchrun_trains_in_shards_with_a_worker_over_the_network(tmp_path: Path) -> None:
    torch_run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "examples.rl"]
    few = ["train.updates=3", "train.groups=4", "train.completions=4", "train.evaluate_every=3", "warmup.steps=40", "verify.rate=1.0"]
    changes = ["--set", *few]
    trainer = [*torch_run, "trainer", "--json", "--folder", str(tmp_path / "trainer"), *changes]
    worker = [sys.executable, "-m", "examples.rl", "worker", "--folder", str(tmp_path / "worker"), *changes]
    with (tmp_path / "said").open("w") as said, subprocess.Popen(trainer, stdout=subprocess.PIPE, stderr=said, text=True) as training:
        assert training.stdout is not None
        events: list[dict[str, Any]] = []
        sampling = None
        try:
            for line in training.stdout:
                event = read(line)
                assert event is not None, line
                events.append(event)
                if event["event"] == "listening":
                    sampling = subprocess.Popen(
                        [*worker, "--peers", event["address"], "--trainers", event["key"]], stdout=subprocess.DEVNULL, stderr=said
                    )
            assert training.wait(60) == 0, (tmp_path / "said").read_text()[-2000:]
        finally:
            training.kill()
            if sampling is not None:
                sampling.terminate()
                sampling.wait(30)
    updates = [event for event in events if event["event"] == "update"]
    assert [event["update"] for event in updates] == [1, 2, 3]
    assert all(sum(event["staleness"].values()) > 0 for event in updates)  # groups of the worker
    assert events[-1]["event"] == "end"


@pytest.mark.slow
def test_torchrun_refuses_learners_that_average_with_one_sentence() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "examples.rl", "trainer"]
    done = subprocess.run([*command, "--config", "examples/rl/learners.toml"], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode != 0
    assert len(re.findall("^trainer: learners that average", done.stderr, flags=re.MULTILINE)) == 1


def test_a_card_is_for_policies_that_can_use_one() -> None:
    with pytest.raises(ValueError, match="computes on the cpu"):
        policy("tiny", device="cuda")
