"""What several files of tests need."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from examples.rl.evaluate import evaluate
from tests.examples.rl.world import World


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., World]]:
    """Worlds of a test, `make(train__updates=3)`; accuracy is measured on 16 tasks."""
    monkeypatch.setattr("examples.rl.trainer.evaluate", partial(evaluate, tasks=16))
    made: list[World] = []

    def one(**changes: Any) -> World:
        made.append(World(tmp_path, {name.replace("__", "."): value for name, value in changes.items()}))
        return made[-1]

    yield one
    for world in made:
        world.end()
        assert not world.failed, world.failed
