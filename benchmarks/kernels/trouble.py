"""Rows of every kind of trouble, for whoever compares bits: the tests, and the check of a GPU."""

import numpy as np

SPECIALS = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    1e-45,
    -1e-39,
    2.0**-126,
    2.0**-101,
    2.0**100,
    -(2.0**101),
    np.inf,
    -np.inf,
    np.nan,
    65504.0,
    1e6,
]


def rows(kind: str, n: int, chunk: int, seed: int) -> np.ndarray:
    """Rows of one kind of trouble."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, chunk)).astype(np.float32)
    if kind == "ties":
        x = np.rint(x).astype(np.float32)
    elif kind == "zeros":
        x[:] = 0
    elif kind == "sparse":
        x[rng.random(x.shape) < 0.95] = 0
    elif kind == "denormal":
        x *= np.float32(1e-39)
    elif kind == "specials":
        x = rng.choice(np.array(SPECIALS, np.float32), x.shape)
    elif kind == "wide":
        x *= np.exp2(rng.integers(-60, 60, x.shape)).astype(np.float32)
    return x
