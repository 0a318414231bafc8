"""A worker ends with the process that started it, however that ends; Linux does it, elsewhere nothing happens."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """From now on SIGKILL comes when the parent is gone: one that was killed cannot end its workers, and in no lab nobody else does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:  # it was gone before
            sys.exit("whoever started this worker is gone")
