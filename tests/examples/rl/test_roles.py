"""What a configuration adds to the roles: judges, a proposer, Atropos, a reference; and provers that cannot prove. In memory."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from rich.console import Console

from examples.rl.config import ConfigError
from examples.rl.environment import Task
from examples.rl.events import Events
from examples.rl.judges import JudgementError
from examples.rl.learner import Learner, Update
from examples.rl.live import View
from examples.rl.rewards import ByJudges
from examples.rl.rollout import RolloutGroup
from examples.rl.tiny import Characters
from examples.rl.trainer import Trainer
from tests.examples.rl.test_atropos import ENVIRONMENT, Client
from tests.examples.rl.world import Liar, World, someone

JUDGES = [{"kind": "environment"}, {"kind": "noisy", "deviation": 0.1}, {"kind": "adversarial", "loudness": 10.0}]
JUDGED = {"reward__by": "judges", "reward__judges": JUDGES}
PROPOSED = {"proposer__lowest": 2, "proposer__highest": 4}


def shown(world: World) -> str:
    """What the live view makes of the trainer's events."""
    view = View(world.config.train.updates)
    for event in ("accuracy", "update", "end"):
        for each in world.events[0].all(event):
            view.hear("trainer0", each)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(view)
    return console.export_text()


def again(world: World, trainer: Trainer, **changes: Any) -> tuple[Trainer, Any]:
    """A trainer that comes back in the same folder."""
    trainer.close()
    world.closing.remove(trainer.close)
    made = Trainer(world.config, trainer._network, world.folder, fresh := world._said("trainer"))
    world.closing.append(made.close)
    return made, fresh


# -- judges ------------------------------------------------------------------------------------------------------------------------------


def test_judges_decide_and_workers_are_rated(make: Callable[..., World]) -> None:
    world = make(**JUDGED, train__checkpoint_every=3)
    trainer, said = world.trainer()
    world.start(trainer.run)
    for i in range(2):
        world.start(world.worker(someone(i))[0].run)
    said.wait("end")
    last = said.all("update")[-1]
    assert set(last["ratings"]) <= {someone(i).key.hex()[:8] for i in range(2)}
    assert last["abstained"] == {}
    assert "ratings" in shown(world)
    assert 0.3 < last["reward"] < 0.7  # ranks
    assert torch.load(world.folder / "trainer.pt", weights_only=True)["parts"].keys() == {"sessions"}


def test_what_a_worker_claims_is_not_looked_at_where_judges_decide(make: Callable[..., World]) -> None:
    world = make(**JUDGED, train__groups=16, train__updates=1)
    trainer, said = world.trainer()
    world.start(trainer.run)
    said.wait("accuracy")
    liar = Liar(world, someone(0))
    assert liar.send_group(msgspec.structs.replace(liar.group(0), rewards=(1.0,) * 4)).accepted
    assert trainer._intake._checks.counts["false reward"] == 0
    assert trainer.reputation.standing(liar.identity.key).bad == 0


def test_groups_that_cannot_be_judged_are_dropped_and_training_goes_on(make: Callable[..., World]) -> None:
    class Sleepy:
        """Awake from its third group on."""

        asked = 0

        def score(self, task: Task, texts: Sequence[str]) -> list[float]:
            self.asked += 1
            if self.asked <= 2:
                raise JudgementError("asleep")
            return [float(text == task.answer) for text in texts]

    world = make(**JUDGED, train__updates=2)
    trainer, said = world.trainer()
    assert isinstance(trainer.parts.rewards, ByJudges)
    trainer.parts.rewards.panel._judges = (Sleepy(), *trainer.parts.rewards.panel._judges[1:2], Sleepy())
    world.start(trainer.run)
    world.start(world.worker(someone(0))[0].run)
    said.wait("end")
    last = said.all("update")[-1]
    assert last["refused"]["unjudged"] == 2
    assert last["abstained"] == {"1 (environment)": 2, "3 (adversarial)": 2}
    assert trainer.reputation.standing(someone(0).key).bad == 0
    assert "unjudged 2" in shown(world)


# -- the proposer ------------------------------------------------------------------------------------------------------------------------


def test_levels_go_out_with_the_weights_and_everybody_takes_the_tasks_of_that_level(make: Callable[..., World]) -> None:
    world = make(**PROPOSED)
    trainer, said = world.trainer()
    taken: list[RolloutGroup] = []
    put = trainer.buffer.put
    trainer.buffer.put = lambda group: (put(group), taken.append(group))[0]  # type: ignore[method-assign,func-returns-value]
    world.start(trainer.run)
    for i in range(2):
        world.start(world.worker(someone(i))[0].run)
    world.start(world.verifier()[0].run)
    said.wait("end")
    assert not said.wait("verdict")["reason"]
    assert all(each["accepted"] for each in said.all("verdict")), said.all("verdict")
    assert {len(group.prompt) - 1 for group in taken} <= {2, 3, 4}
    assert all(group.environment == f"sort-{len(group.prompt) - 1}" for group in taken)
    assert {each["level"] for each in said.all("update")} <= {2, 3, 4}
    assert "environment" not in said.all("update")[-1]["refused"]
    assert "solve rate" in shown(world)


def test_who_comes_back_knows_the_levels_of_versions_that_are_out(make: Callable[..., World]) -> None:
    world = make(**PROPOSED, train__checkpoint_every=2, train__updates=5)
    trainer, said = world.trainer()
    run = world.start(trainer.run)
    world.start(world.worker(someone(0))[0].run)
    said.wait("update", lambda event: event["update"] == 3)  # one version more than the checkpoint knows
    trainer._events.alive = False
    run.join(60)
    known = dict(trainer.parts._proposals._levels)  # type: ignore[union-attr]
    back, fresh = again(world, trainer)
    assert known.items() <= back.parts._proposals._levels.items()  # type: ignore[union-attr]
    world.start(back.run)
    assert fresh.wait("end")["update"] == 5
    assert "environment" not in fresh.all("update")[-1]["refused"]


def test_a_group_of_another_level_than_its_versions_is_refused(make: Callable[..., World]) -> None:
    world = make(**PROPOSED, train__groups=16, train__updates=1)
    trainer, said = world.trainer()
    world.start(trainer.run)
    said.wait("accuracy")
    liar = Liar(world, someone(0))
    level = trainer.parts.curriculum.told(liar.version.extra)
    liar.worker.environment = trainer.parts.curriculum.at(2 if level != 2 else 3)
    assert liar.send_group(liar.group(0)).reason == "environment"
    liar.worker.environment = trainer.parts.curriculum.at(level)
    assert liar.send_group(liar.group(1)).accepted


# -- environments of Atropos -------------------------------------------------------------------------------------------------------------


def posted(i: int, *, logprobs: bool) -> dict[str, Any]:
    encode = Characters().encode
    prompt, answers = encode(f"{i:05d}="), [encode(f"{i:05d}\n"), encode(f"{i + 1:05d}\n")]
    body: dict[str, Any] = {
        "tokens": [prompt + answer for answer in answers],
        "masks": [[-100] * len(prompt) + answer for answer in answers],
        "scores": [0.5 * i, -1.0],
        "env_id": 0,
    }
    if logprobs:
        body["inference_logprobs"] = [[1.0] * len(prompt) + [-0.5 * (j + 1)] * len(answer) for j, answer in enumerate(answers)]
    return body


def test_an_http_client_posts_groups_and_the_trainer_trains_on_exactly_them(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[RolloutGroup] = []
    update = Learner.update

    def recorded(self: Learner, groups: Sequence[RolloutGroup]) -> Update:
        trained.extend(groups)
        return update(self, groups)

    monkeypatch.setattr(Learner, "update", recorded)
    monkeypatch.setenv("ATROPOS_TOKEN", "a word of sixteen letters")
    world = make(atropos__open=True, atropos__port=0, atropos__token_env="ATROPOS_TOKEN", train__updates=2)
    trainer, said = world.trainer()
    client = Client(said.wait("atropos")["url"], "a word of sixteen letters")
    assert Client(said.wait("atropos")["url"]).ask("GET", "/status")[0] == 401
    world.start(trainer.run)
    said.wait("accuracy")
    answer = client.post("/register-env", {**ENVIRONMENT, "group_size": 2})
    assert (answer["status"], answer["num_steps"]) == ("success", 2)
    sent = [posted(i, logprobs=i % 2 == 0) for i in range(8)]
    assert client.post("/scored_data_list", sent[:3]) == {"status": "received", "groups_processed": 3}
    assert client.get("/status")["queue_size"] == 3
    client.post("/scored_data", sent[3])
    said.wait("update", lambda event: event["update"] == 1)
    assert client.ask("POST", "/scored_data", {**sent[4], "advantages": [[0.0] * 12] * 2})[0] == 422
    for body in sent[4:]:
        client.post("/scored_data", body)
    said.wait("end")
    assert len(trained) == len(sent)
    for group, body in zip(trained, sent, strict=True):
        assert group.rewards == tuple(body["scores"])
        rows = [[*group.prompt_tokens.tolist(), *one.tokens.tolist()] for one in group.completions]
        assert rows == body["tokens"]
        told = [one.behaviour for one in group.completions]
        assert all(len(row) == 6 and (row <= 0).all() for row in told)
        if "inference_logprobs" in body:
            np.testing.assert_array_equal(told, [row[6:] for row in body["inference_logprobs"]])
    assert said.all("update")[-1]["posted"]["complete"] == 8
    assert client.get("/status")["current_step"] == 2
    assert "posted" in shown(world)


def test_an_address_that_is_taken_and_a_token_that_is_not_there_are_one_sentence(make: Callable[..., World]) -> None:
    world = make(atropos__open=True, atropos__port=0, atropos__token_env="NO_SUCH_TOKEN")
    with pytest.raises(ConfigError, match="NO_SUCH_TOKEN is not set"):
        world.trainer()
    world = make(atropos__open=True, atropos__port=0)
    trainer, _ = world.trainer()
    assert trainer.parts.atropos is not None
    other = make(atropos__open=True, atropos__port=trainer.parts.atropos.server_address[1])
    with pytest.raises(ConfigError, match=r"atropos at 127\.0\.0\.1:.*in use"):
        other.trainer()


# -- a reference -------------------------------------------------------------------------------------------------------------------------


def test_the_reference_is_the_warmed_up_policy_also_after_a_crash(make: Callable[..., World]) -> None:
    noise = [{"kind": "noisy", "deviation": 1.0}]  # so that there is always something to learn
    world = make(train__kl=0.1, train__checkpoint_every=1, train__updates=50, reward__by="judges", reward__judges=noise)
    trainer, said = world.trainer()
    run = world.start(trainer.run)
    said.wait("accuracy")
    assert trainer._reference is not None
    start = {name: value.clone() for name, value in trainer._reference.module.state_dict().items()}
    assert all(torch.equal(value, start[name]) for name, value in trainer.policy.module.state_dict().items())
    world.start(world.worker(someone(0))[0].run)
    said.wait("update", lambda event: event["update"] == 2)
    trainer._events.alive = False
    run.join(60)
    back, fresh = again(world, trainer)
    assert back._reference is not None
    assert all(torch.equal(value, start[name]) for name, value in back._reference.module.state_dict().items())
    world.start(back.run)
    assert fresh.wait("update")["kl"] > 0
    assert "KL from start" in shown(world)
    assert not all(torch.equal(value, start[name]) for name, value in back.policy.module.state_dict().items())


def test_a_run_that_began_without_a_reference_cannot_have_one_later(make: Callable[..., World]) -> None:
    world = make(train__own_groups=2, train__groups=2, train__updates=1, train__checkpoint_every=1)
    trainer, said = world.trainer()
    world.start(trainer.run)
    said.wait("end")
    trainer.close()
    world.closing.remove(trainer.close)
    later = make(train__kl=0.1)
    with pytest.raises(ConfigError, match="began without a reference"):
        Trainer(later.config, trainer._network, world.folder, Events("trainer", as_json=True, stream=said.lines))


# -- who cannot prove --------------------------------------------------------------------------------------------------------------------


def test_a_verifier_that_cannot_prove_says_so_and_nobody_is_banned_for_it(make: Callable[..., World]) -> None:
    world = make(train__groups=16, train__updates=1)
    trainer, said = world.trainer()
    world.start(trainer.run)
    said.wait("accuracy")
    liar = Liar(world, someone(0))
    verifier, _ = world.verifier()
    hidden = verifier.policy.hidden
    verifier.policy.hidden = lambda tokens: hidden(tokens) * float("nan")  # type: ignore[method-assign]
    run = world.start(verifier.run)
    assert liar.send_group(liar.proved(liar.group(0))).accepted
    verdict = said.wait("verdict")
    assert (verdict["accepted"], verdict["reason"]) == (False, "unprovable")
    assert "NaN" in verdict["detail"]
    assert not trainer.reputation.banned(liar.identity.key)
    assert len(trainer.buffer) == 1
    verifier.policy.hidden = hidden  # type: ignore[method-assign]
    assert liar.send_group(liar.proved(liar.group(1))).accepted
    assert said.wait("verdict", lambda event: event["accepted"])
    assert run.is_alive()


def test_a_worker_that_cannot_prove_says_so_and_waits_for_other_weights(make: Callable[..., World]) -> None:
    world = make(train__groups=16, train__updates=1)
    trainer, said = world.trainer()
    world.start(trainer.run)
    said.wait("accuracy")
    worker, words = world.worker(someone(0))
    hidden = worker.policy.hidden
    worker.policy.hidden = lambda tokens: hidden(tokens) * float("nan")  # type: ignore[method-assign]
    run = world.start(worker.run)
    assert "cannot be proved" in words.wait("trouble")["why"]
    worker.policy.hidden = hidden  # type: ignore[method-assign]
    said.wait("end")
    assert run.is_alive()
