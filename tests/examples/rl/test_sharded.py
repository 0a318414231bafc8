"""A policy in shards over gloo ranks: the same update, the same weights to publish, and checkpoints that fit any number of ranks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from torch.optim import SGD, AdamW, Optimizer

from examples.rl.learner import Learner, Update
from examples.rl.loss import Tally
from examples.rl.rollout import RolloutGroup
from examples.rl.sharded import Shards, World, layers
from examples.rl.tiny import Tiny
from tests.examples.rl.test_learner import SMALL, groups
from tests.worlds import run_ranks

# (completions that count, completions in one pass): of 3 ranks each gets as many, then 2, 1 and 1, then one gets none, as in the last pass
# of the last.
BATCHES = [(12, 256), (4, 256), (2, 256), (2, 1), (7, 2)]
Weights = list[np.ndarray]


def batch(n: int) -> list[RolloutGroup]:
    """Groups of `n` completions in all, of which the last one's lengths differ."""
    made = groups(Tiny(**SMALL), count=-(-n // 4))
    cut = [replace(one, ids=one.ids[:4], logprobs=one.logprobs[:2]) for one in made[-1].completions]
    left = n - 4 * (len(made) - 1)
    assert left > 1
    return [*made[:-1], replace(made[-1], completions=(made[-1].completions[0], *cut[1:left]), rewards=made[-1].rewards[:left])]


def bits(module: torch.nn.Module) -> Weights:
    return [parameter.detach().float().numpy().copy() for parameter in module.parameters()]


def equal(ours: Weights, others: Weights) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(ours, others, strict=True))


def whole(shards: Shards) -> Weights:
    """On every rank."""
    copy = Tiny(**SMALL)
    shards.gather(copy.module)
    return bits(copy.module)


def in_shards(rank: int) -> tuple[list[tuple[Update, Weights]], dict[str, Any]]:
    world = World.join()
    updates = []
    for n, micro_batch in BATCHES:
        policy = Tiny(**SMALL)
        shards = Shards(policy.module, world)
        own = Learner(policy, SGD(policy.module.parameters(), lr=0.1), micro_batch=micro_batch, shares=shards)
        updates.append((own.update(batch(n)), whole(shards)))
    told: dict[str, Any] = {"untouched": whole(shards)}
    nothing = own.update([replace(group, rewards=(1.0,) * 4) for group in groups(Tiny(**SMALL))])
    told["nothing"] = (nothing, whole(shards))
    published = shards.rounded()
    told["published"] = {name: tensor.view(torch.int16).numpy().tobytes() for name, tensor in published.items()}
    broken = Tiny(**SMALL)
    if rank == 0:
        with torch.no_grad():
            broken.module.norm.weight[0] = torch.nan
    shards.spread(broken.module if rank == 0 else None)  # of the others' weights nothing counts
    told["broken"] = (own.update(batch(4)), whole(shards))
    world.leave()
    return updates, told


@pytest.fixture(scope="module")
def ranks() -> list[Any]:
    return run_ranks(3, in_shards, deadline_s=240.0)


@pytest.mark.parametrize("case", range(len(BATCHES)))
def test_an_update_in_shards_is_the_one_of_one_process_whatever_the_shares(ranks: list[Any], case: int) -> None:
    # Not bit for bit: the sums over completions are made on each rank, over rows padded to its own longest one, and then added.
    n, micro_batch = BATCHES[case]
    policy = Tiny(**SMALL)
    before = bits(policy.module)
    alone = Learner(policy, SGD(policy.module.parameters(), lr=0.1), micro_batch=micro_batch).update(batch(n))
    for updates, _ in ranks:
        done, weights = updates[case]
        assert equal(weights, ranks[0][0][case][1])
        assert (done.groups, done.used, done.tokens, done.stepped) == (alone.groups, alone.used, alone.tokens, True)
        assert done.numbers == pytest.approx(alone.numbers, rel=1e-5, abs=1e-6)
        moved = 0.0
        for ours, one, old in zip(weights, bits(policy.module), before, strict=True):
            np.testing.assert_allclose(ours, one, rtol=1e-5, atol=1e-7)
            moved = max(moved, float(np.abs(one - old).max()))
        assert moved > 1e-3


def test_nothing_to_learn_and_a_gradient_that_is_not_finite_move_nothing_on_any_rank(ranks: list[Any]) -> None:
    for _, told in ranks:
        nothing, weights = told["nothing"]
        assert (nothing.used, nothing.stepped, nothing.finite) == (0, False, True)
        assert equal(weights, told["untouched"])
        broken, weights = told["broken"]
        assert (broken.stepped, broken.finite) == (False, False)
        assert sum(np.isnan(each).sum() for each in weights) == 1
        assert equal([np.nan_to_num(each, nan=1.0) for each in weights], bits(Tiny(**SMALL).module))


def test_what_is_published_is_the_whole_weights_rounded_once_and_only_on_rank_0(ranks: list[Any]) -> None:
    _, told = ranks[0]
    names = [name for name, _ in Tiny(**SMALL).module.named_parameters()]
    expected = [torch.from_numpy(each).bfloat16().view(torch.int16).numpy().tobytes() for each in told["untouched"]]
    assert told["published"] == dict(zip(names, expected, strict=True))
    assert not any(other["published"] for _, other in ranks[1:])


# -- checkpoints ---------------------------------------------------------------------------------------------------------------------------


def adamw(policy: Tiny) -> AdamW:
    return AdamW(policy.module.parameters(), lr=1e-2, weight_decay=0.0)


def on_ranks(rank: int, folder: Path) -> None:
    """Go on from one process's checkpoint, save it again at once, then after an update; and begin a run of its own."""
    world = World.join()
    policy = Tiny(**SMALL, seed=rank)  # all but rank 0's are thrown away
    shards, optimizer = Shards(policy.module, world), adamw(policy)
    given = torch.load(folder / "alone", weights_only=True) if rank == 0 else None
    copy = Tiny(**SMALL).module
    if given is not None:
        copy.load_state_dict(given["policy"])
    shards.load_into(optimizer, given["optimizer"] if given is not None else None)
    shards.spread(copy if rank == 0 else None)
    own = Learner(policy, optimizer, shares=shards)

    def save(name: str) -> None:
        shards.gather(copy)
        state = {"policy": copy.state_dict(), "optimizer": shards.state_of(optimizer)}
        if rank == 0:
            torch.save(state, folder / name)

    save("again")
    own.update(batch(7))
    save("on")
    world.leave()


def same(ours: Any, other: Any, close: bool) -> None:
    assert ours.keys() == other.keys()
    for name, value in ours.items():
        if isinstance(value, torch.Tensor):
            assert (value.dtype, type(value)) == (other[name].dtype, torch.Tensor)
            # Adam divides by the root of a second moment near zero: rounding counts for more than in a gradient.
            torch.testing.assert_close(value, other[name], rtol=1e-3 if close else 0, atol=1e-5 if close else 0)
        elif isinstance(value, dict):
            same(value, other[name], close)
        else:
            assert value == other[name]


@pytest.mark.parametrize("size", [2, 3])
def test_a_checkpoint_of_one_process_goes_on_in_shards_and_one_of_shards_in_one_process(size: int, tmp_path: Path) -> None:
    def save(name: str, policy: Tiny, optimizer: Optimizer) -> None:
        torch.save({"policy": policy.module.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / name)

    policy = Tiny(**SMALL)
    optimizer = adamw(policy)
    own = Learner(policy, optimizer)
    for n in (4, 12):
        own.update(batch(n))
    save("alone", policy, optimizer)
    run_ranks(size, on_ranks, tmp_path, deadline_s=240.0)
    own.update(batch(7))
    save("expected", policy, optimizer)
    held = {name: torch.load(tmp_path / name, weights_only=True) for name in ("alone", "again", "on", "expected")}
    same(held["alone"], held["again"], close=False)
    same(held["expected"], held["on"], close=True)
    back = Tiny(**SMALL)
    optimizer = adamw(back)
    back.module.load_state_dict(held["on"]["policy"])
    optimizer.load_state_dict(held["on"]["optimizer"])
    assert Learner(back, optimizer).update(batch(4)).stepped
    own.update(batch(4))
    for ours, one in zip(bits(back.module), bits(policy.module), strict=True):
        np.testing.assert_allclose(ours, one, rtol=1e-3, atol=1e-4)


# -- without ranks -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "size", "ranks_"), [(12, 256, 3), (1, 1, 4), (7, 2, 2), (0, 4, 2), (100, 7, 5)])
def test_shares_are_each_completion_once_in_as_many_passes_everywhere(n: int, size: int, ranks_: int) -> None:
    shares = []
    for rank in range(ranks_):
        shards = object.__new__(Shards)
        shards.world = object.__new__(World)
        vars(shards.world).update(rank=rank, size=ranks_)
        shares.append([list(range(n))[part] for part in shards.parts(n, size)])
    assert sorted(i for own in shares for part in own for i in part) == list(range(n))
    assert len({len(own) for own in shares}) == 1
    assert all(len(part) <= size for own in shares for part in own)
    counts = [sum(map(len, own)) for own in shares]
    assert max(counts) - min(counts) <= 1


def test_layers_are_what_the_outermost_module_lists_hold() -> None:
    module = Tiny(width=16, layers=3, heads=2).module
    assert list(layers(module)) == list(module.blocks)
    nested = torch.nn.ModuleDict(
        {"model": torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.ModuleList([torch.nn.Linear(1, 1)])])})}
    )
    assert list(layers(nested)) == list(nested["model"]["layers"])  # type: ignore[index]


def test_a_learner_counts_what_all_shares_say() -> None:
    class Twice:
        def parts(self, n: int, size: int) -> list[slice]:
            return [slice(0, n)]

        def total(self, tally: Tally) -> Tally:
            tally.add(tally)
            return tally

    policy = Tiny(**SMALL)
    done = Learner(policy, SGD(policy.module.parameters(), lr=0.1), shares=Twice()).update(batch(4))
    assert done.tokens == 2 * Learner(Tiny(**SMALL), SGD(policy.module.parameters(), lr=0.1)).update(batch(4)).tokens
