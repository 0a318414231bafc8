"""The built-in tasks: characters in, characters out, right or wrong; a policy of 342 thousand parameters climbs on them in seconds.

A demonstration is right only some of the time: who learns from such ones can do the task and mostly does not, like a base model.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Protocol

from examples.rl.environment import Environment, Task

END = "\n"  # ends every answer


class Demonstrator(Environment, Protocol):
    """An environment that also shows how to answer."""

    def demonstrate(self, task: Task, random: Random, *, right: float) -> str:
        """An answer that is right with probability `right`, and otherwise one that looks like it."""
        ...


def number_of(kind: str, seed: int, below: int) -> int:
    """What a task is made of: the same on every machine, with every Python; in [0, below) for below < 2^64.

    >>> number_of("sort", 7, 10) == number_of("sort", 7, 10)
    True
    """
    digest = hashlib.sha256(b"thinwire rl " + kind.encode() + b"\n" + seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest[:16], "little") % below


@dataclass(frozen=True)
class Sort:
    """Digits in ascending order: "52910=" -> "01259\\n". Raises `ValueError` for other than 2 to 18 digits.

    >>> task = Sort().task(0)
    >>> Sort().reward(task, "".join(sorted(task.prompt[:-1])) + "\\n"), Sort().reward(task, "junk")
    (1.0, 0.0)
    """

    digits: int = 5

    def __post_init__(self) -> None:
        if not 2 <= self.digits <= 18:
            raise ValueError(f"sort has {self.digits} digits; choose 2 to 18")

    @property
    def name(self) -> str:
        return "sort" if self.digits == 5 else f"sort-{self.digits}"

    def task(self, seed: int) -> Task:
        digits = f"{number_of(self.name, seed, 10**self.digits):0{self.digits}d}"
        return Task(seed, f"{digits}=", "".join(sorted(digits)) + END)

    def reward(self, task: Task, completion: str) -> float:
        return float(completion == task.answer)

    def demonstrate(self, task: Task, random: Random, *, right: float) -> str:
        if random.random() < right:
            return task.answer
        digits = list(task.prompt[: self.digits])
        random.shuffle(digits)
        return "".join(digits) + END


@dataclass(frozen=True)
class Addition:
    """A sum: "37+85=" -> "122\\n". The hard preset: minutes instead of seconds. Raises `ValueError` for other than 1 to 9 digits."""

    digits: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.digits <= 9:
            raise ValueError(f"addition has {self.digits} digits; choose 1 to 9")

    @property
    def name(self) -> str:
        return "addition" if self.digits == 2 else f"addition-{self.digits}"

    def task(self, seed: int) -> Task:
        first, second = divmod(number_of(self.name, seed, 10 ** (2 * self.digits)), 10**self.digits)
        return Task(seed, f"{first:0{self.digits}d}+{second:0{self.digits}d}=", f"{first + second}{END}")

    def reward(self, task: Task, completion: str) -> float:
        return float(completion == task.answer)

    def demonstrate(self, task: Task, random: Random, *, right: float) -> str:
        if random.random() < right:
            return task.answer
        wrong = random.randrange(2 * 10**self.digits - 2)  # every sum but the right one, alike often
        return f"{wrong + (wrong >= int(task.answer))}{END}"


ENVIRONMENTS: dict[str, Callable[[int | None], Environment]] = {}
_NAME = re.compile(r"(?P<kind>[a-z_]+)(-(?P<size>\d{1,9}))?")


def register(kind: str, make: Callable[[int | None], Environment]) -> None:
    """Let `environment("KIND")` be `make(None)`, and `environment("KIND-7")` `make(7)`. Raises `ValueError` when the kind is taken."""
    if kind in ENVIRONMENTS:
        raise ValueError(f"there is an environment {kind!r} already; choose another name")
    ENVIRONMENTS[kind] = make


register("sort", lambda digits: Sort() if digits is None else Sort(digits))
register("addition", lambda digits: Addition() if digits is None else Addition(digits))


def environment(name: str) -> Environment:
    """The environment of a name such as "sort", "sort-3" or "addition". Raises `ValueError` with the known names for another one.

    >>> environment("sort-3")
    Sort(digits=3)
    """
    match = _NAME.fullmatch(name)
    if match is None or match["kind"] not in ENVIRONMENTS:
        raise ValueError(f"no environment is called {name!r}; known are {', '.join(sorted(ENVIRONMENTS))}, and with a size: sort-3")
    return ENVIRONMENTS[match["kind"]](int(match["size"]) if match["size"] else None)
