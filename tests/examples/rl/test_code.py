"""Programs are worth the share of hidden cases that they get right; no program is worth more for anything else it does."""

import pytest

from examples.rl.code import STEPS, Code, CodeLevels, code_in
from examples.rl.sandbox import Bounds, Sandbox, SandboxError


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    try:
        return Sandbox(Bounds(wall_s=60.0, cpu_s=1))
    except SandboxError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def environment(sandbox: Sandbox) -> Code:
    return Code(2, sandbox=sandbox)


def test_a_seed_makes_the_same_task_and_its_answer_is_right(environment: Code, sandbox: Sandbox) -> None:
    prompts = {environment.task(seed).prompt for seed in range(50)}
    assert len(prompts) == 50
    for seed in (0, (1 << 64) - 1):
        task = environment.task(seed)
        assert Code(2, sandbox=sandbox).task(seed) == task
        assert environment.reward(task, f"Like this:\n```python\n{task.answer}```\n") == 1


def test_every_step_does_what_its_expression_says() -> None:
    for words, step, expression in STEPS:
        for values in ([3, -1, 3, 2, 0, -9], [], [5]):
            assert step(list(values)) == eval(expression, {"v": list(values)}), words


def test_a_program_that_is_right_in_part_gets_a_part(environment: Code) -> None:
    task = environment.task(3)
    partly = task.answer.replace("def solve", "def right") + "def solve(v):\n    return right(v) if len(v) % 2 else None\n"
    assert 0 < environment.reward(task, partly) < 1


HOSTILE = {
    "nothing": "",
    "prose": "I would sort them.",
    "no function": "x = 1",
    "a broken function": "def solve(v): return 1 / 0",
    "an exit": "import os\ndef solve(v): os._exit(0)",
    "another type": "def solve(v): return {'a': 1}",
    "no JSON": "def solve(v): return object()",
    "floats": "def solve(v): return [float(x) for x in v]",
    "a huge answer": "def solve(v): return [1] * 10_000_000",
    "a loop": "def solve(v):\n    while True: pass",
    "noise": "def solve(v): print('[1, 2]'); return 0",
    "deep brackets": "import os\nos.write(3, b'[' * 9999)\ndef solve(v): return 0",
    "NUL": "\0",
    "a lone surrogate": "\ud800",
    "too long": "#" * 1_000_000,
    "the inputs": "def solve(v): return open('inputs.json').read()",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_solution_is_worth_nothing_and_raises_nothing(environment: Code, what: str) -> None:
    assert environment.reward(environment.task(1), HOSTILE[what]) == 0


def test_what_a_program_prints_is_no_result(environment: Code) -> None:
    task = environment.task(5)
    assert environment.reward(task, "print('[0]')\n" + task.answer.replace("    return v", "    print('x')\n    return v")) == 1


def test_a_machine_that_gives_no_sandbox_any_more_is_counted_and_raises_nothing(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = Code(2, sandbox=sandbox)
    monkeypatch.setattr(type(sandbox), "_run", lambda *_: (_ for _ in ()).throw(SandboxError("no memory")))
    assert environment.reward(environment.task(1), environment.task(1).answer) == 0
    assert environment.failed == 1


def test_the_last_block_counts() -> None:
    assert code_in("```py\na\n```\n```\nb\n```") == "b\n"
    assert code_in("plain") == "plain"
    assert code_in("```python\nnever closed") == "```python\nnever closed"


def test_levels_are_numbers_of_steps(sandbox: Sandbox) -> None:
    family = CodeLevels(sandbox=sandbox)
    assert [family.at(level).task(0).prompt.count(", then ") for level in family.levels] == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="level=7"):
        Code(7, sandbox=sandbox)
