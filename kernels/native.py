"""The C++ library, loaded with ctypes (which releases the GIL during a call). Absent where there was no compiler: `available()` tells."""

import ctypes
import logging
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import torch
from torch import Tensor

log = logging.getLogger("thinwire")

ABI = 1
_NAME = "libthinwire.so"


@cache
def library() -> ctypes.CDLL | None:
    """The library, or None (said once in the log: everything works, slower)."""
    path = _find()
    if path is None:
        log.warning("thinwire was installed without its C++ library (no compiler?): the torch kernels run instead, slower")
        return None
    try:
        loaded = ctypes.CDLL(str(path))
        abi = loaded.tw_abi()
    except (OSError, AttributeError) as error:
        log.warning("%s cannot be loaded (%s): reinstall thinwire; the torch kernels run instead, slower", path, error)
        return None
    if abi != ABI:
        log.warning("%s has interface %d, this thinwire needs %d: reinstall it; the torch kernels run instead, slower", path, abi, ABI)
        return None
    loaded.tw_dct_tiles.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_int]
    return loaded


def available() -> bool:
    """Whether the C++ kernels can run here."""
    return library() is not None


def set_isa(level: int) -> int:
    """Use instruction set 0 (baseline), 1 (x86-64-v3) or 2 (v4) if the processor has it; returns the one in use. The bits stay the same."""
    loaded = library()
    return loaded.tw_set_isa(level) if loaded is not None else 0


def dct_tiles(x: Tensor, side: int) -> Tensor:
    """`thinwire.kernels.dct.dct_tiles` for CPU float32, the same bits."""
    return _dct(x, side, inverse=False)


def idct_tiles(x: Tensor, side: int) -> Tensor:
    """`thinwire.kernels.dct.idct_tiles` for CPU float32, the same bits."""
    return _dct(x, side, inverse=True)


def _dct(x: Tensor, side: int, *, inverse: bool) -> Tensor:
    loaded = library()
    if loaded is None or x.dtype != torch.float32 or x.dim() != 2 or x.shape[1] != side * side or x.device.type != "cpu":
        raise ValueError(f"native DCT needs the library and a CPU float32 (tiles, {side * side}) tensor, got {tuple(x.shape)} {x.dtype}")
    x = x.contiguous()
    out = torch.empty_like(x)
    if loaded.tw_dct_tiles(x.data_ptr(), out.data_ptr(), len(x), side, int(inverse)):
        raise ValueError(f"native DCT knows sides 8, 16, 32 and 64, got {side}")
    return out


def _find() -> Path | None:
    beside = Path(__file__).parent / _NAME
    if beside.exists():
        return beside
    try:  # an editable install puts the library into site-packages, away from this file
        listed = [Path(str(file.locate())) for file in files("thinwire") or [] if file.name == _NAME]
    except PackageNotFoundError:
        return None
    return next((path for path in listed if path.exists()), None)
