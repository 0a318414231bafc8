"""Which implementation runs: C++ for CPU tensors when the library was built, the torch definition otherwise. The bits are the same."""

from torch import Tensor

from thinwire.kernels import dct, native


def dct_tiles(x: Tensor, side: int) -> Tensor:
    """`(tiles, side*side)` float32 to its orthonormal 2-D DCT-II, order column frequency * side + row frequency."""
    return native.dct_tiles(x, side) if _native(x) else dct.dct_tiles(x, side)


def idct_tiles(x: Tensor, side: int) -> Tensor:
    """The inverse of `dct_tiles`."""
    return native.idct_tiles(x, side) if _native(x) else dct.idct_tiles(x, side)


def _native(x: Tensor) -> bool:
    return x.device.type == "cpu" and native.available()
