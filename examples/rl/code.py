"""Small programming tasks, answered with Python that runs in a sandbox: `Code(level=2)`.

A task follows from its seed: a list function put together from `level` steps, told in words, with two examples. The completion, or the
last block in it between ``` fences, defines `solve(values)`. It is called on `hidden` lists that the prompt does not show; the reward is
the part of them that it gets right. What is right never enters the sandbox: the program gets lists and gives lists, compared outside.
"""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from examples.rl.environment import Task
from examples.rl.sandbox import MAX_FILES_NBYTES, Bounds, Sandbox, SandboxError

log = logging.getLogger("thinwire")

Step = tuple[str, Callable[[list[int]], list[int]], str]

# In words, as a function, and as an expression of `v`, from which the answer of a task is written.
STEPS: tuple[Step, ...] = (
    ("sort them", lambda v: sorted(v), "sorted(v)"),
    ("reverse their order", lambda v: v[::-1], "v[::-1]"),
    ("drop the odd ones", lambda v: [x for x in v if x % 2 == 0], "[x for x in v if x % 2 == 0]"),
    ("drop the negative ones", lambda v: [x for x in v if x >= 0], "[x for x in v if x >= 0]"),
    ("double each", lambda v: [2 * x for x in v], "[2 * x for x in v]"),
    ("square each", lambda v: [x * x for x in v], "[x * x for x in v]"),
    ("take the absolute value of each", lambda v: [abs(x) for x in v], "[abs(x) for x in v]"),
    ("keep the first of equal ones", lambda v: list(dict.fromkeys(v)), "list(dict.fromkeys(v))"),
    ("replace each by the sum up to it", lambda v: [sum(v[: i + 1]) for i in range(len(v))], "[sum(v[: i + 1]) for i in range(len(v))]"),
    ("keep every second, from the first on", lambda v: v[::2], "v[::2]"),
    ("add 3 to each", lambda v: [x + 3 for x in v], "[x + 3 for x in v]"),
    ("drop the last one", lambda v: v[:-1], "v[:-1]"),
)

# Runs in the sandbox. Results go through a descriptor of their own, so that what `solve` prints is no result.
HARNESS = """
import json, os, runpy
told = os.dup(1)
os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
solve = runpy.run_path("solution.py")["solve"]
for values in json.load(open("inputs.json")):
    try:
        line = json.dumps(solve(values))
    except Exception:
        line = "null"
    os.write(told, line.encode() + b"\\n")
"""
_FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)
_RESULT = msgspec.json.Decoder(list[int])  # strict: 1.0 and true are no 1


class Code:
    """Programming tasks of one level. Raises `SandboxError` where the machine has no sandbox, and then without `sandbox` given."""

    def __init__(self, level: int = 2, *, hidden: int = 8, sandbox: Sandbox | None = None) -> None:
        if not 1 <= level <= 6 or not 1 <= hidden <= 64:
            raise ValueError(f"level={level}, hidden={hidden}; a level from 1 to 6, and 1 to 64 hidden cases")
        self._level, self._hidden = level, hidden
        self._sandbox = sandbox or Sandbox(Bounds())
        self.failed = 0  # completions that got no reward because the machine gave no sandbox

    @property
    def name(self) -> str:
        return f"code{self._level}"

    def task(self, seed: int) -> Task:
        steps = self._steps(seed)
        shown = [_case(random.Random(f"shown {seed} {i}")) for i in range(2)]
        examples = "; ".join(f"solve({case}) is {_apply(steps, case)}" for case in shown)
        words = ", then ".join(step[0] for step in steps)
        prompt = f"Write a Python function solve(values) that gives a new list made of these integers: {words}. For example {examples}."
        lines = "".join(f"    v = {step[2]}\n" for step in steps)
        return Task(seed, prompt, answer=f"def solve(values):\n    v = list(values)\n{lines}    return v\n")

    def reward(self, task: Task, completion: str) -> float:
        solution = code_in(completion)
        inputs = [_case(random.Random(f"hidden {task.seed} {i}")) for i in range(self._hidden)]
        files = {"main.py": HARNESS, "solution.py": solution, "inputs.json": json.dumps(inputs)}
        if 8 * len(solution) > MAX_FILES_NBYTES:
            return 0.0
        steps = self._steps(task.seed)
        try:
            given = self._sandbox.run(files).stdout.split(b"\n")[: self._hidden]
        except SandboxError as error:  # it worked when this was made: the machine is out of something
            self.failed += 1
            log.warning("%s: no reward for a completion: %s", self.name, error)
            return 0.0
        return sum(_is(line, _apply(steps, case)) for line, case in zip(given, inputs, strict=False)) / self._hidden

    def _steps(self, seed: int) -> Sequence[Step]:
        return random.Random(f"steps {seed}").sample(STEPS, self._level)


class CodeLevels:
    """For the proposer: the more steps, the harder."""

    levels = range(1, 7)

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    def at(self, level: int) -> Code:
        return Code(level, **self._settings)


def code_in(completion: str) -> str:
    """The last fenced block, or all of it.

    >>> code_in("So:\\n```python\\nx = 1\\n```")
    'x = 1\\n'
    """
    blocks = _FENCED.findall(completion)
    return blocks[-1] if blocks else completion


def _case(rng: random.Random) -> list[int]:
    return [rng.randint(-9, 9) for _ in range(rng.randint(4, 9))]


def _apply(steps: Sequence[Step], values: list[int]) -> list[int]:
    for _, step, _ in steps:
        values = step(values)
    return values


def _is(line: bytes, right: list[int]) -> bool:
    try:
        return _RESULT.decode(line) == right
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
