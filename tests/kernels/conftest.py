"""Processes beside the tests' own, one in which Triton kernels are interpreted and one in which they are compiled."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from tests.kernels import triton_work

Run = Callable[..., Any]


def beside(interpret: bool) -> Iterator[Run]:
    """Run functions of `triton_work` in a new process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=triton_work.begin, initargs=(interpret,)) as pool:
        yield lambda work, *args, **options: pool.submit(work, *args, **options).result()


@pytest.fixture(scope="session")
def interpreted() -> Iterator[Run]:
    yield from beside(True)


@pytest.fixture(scope="session")
def compiled() -> Iterator[Run]:
    yield from beside(False)
