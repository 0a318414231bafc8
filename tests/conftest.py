"""One torch thread in every test process: two threads on busy cores are several times slower."""

from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def nothing_in_the_users_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where the runs of tests remember their members."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-golden", action="store_true", help="rewrite tests/golden from what the code does now")
