"""Two real nodes for a whole test module: starting p2pd takes a second."""

from collections.abc import Iterator

import pytest

from tests.comms.swarm.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("world"))
    yield made
    made.close()
