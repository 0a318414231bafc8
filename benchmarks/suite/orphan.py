"""A process ends with the one that started it, however that ends; Linux does it, elsewhere nothing happens.

`python -m benchmarks.suite.orphan MODULE ...` is `python -m MODULE ...` that does so from its first moment, before it imports torch.
"""

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """From now on SIGKILL comes when the parent is gone: one that was killed cannot end its workers, and in no lab nobody else does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:  # it was gone before
            sys.exit("whoever started this worker is gone")


def main() -> None:
    end_with_parent()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
