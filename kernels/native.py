"""The C++ library, loaded with ctypes (which releases the GIL during a call). Absent where there was no compiler: `available()` tells."""

import ctypes
import logging
from collections.abc import Sequence
from ctypes import POINTER, Structure, byref, c_float, c_int, c_int64, c_void_p
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thinwire.kernels.finish import Finish, Out, Sgd
from thinwire.kernels.program import Program

log = logging.getLogger("thinwire")

ABI = 3
_NAME = "libthinwire.so"
_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
SOURCES = tuple(_DTYPES)
TARGETS = (torch.float32, torch.bfloat16)


class _Program(Structure):
    _fields_ = [(name, c_int64) for name in Program._fields]


class _Sheet(Structure):
    _fields_ = [("data", c_void_p), ("dtype", c_int64), ("height", c_int64), ("width", c_int64)]


class _Finish(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("kind", "sign", "nesterov")),
        *((name, c_float) for name in ("lr", "keep", "mu")),
        *((name, c_void_p) for name in ("anchor", "momentum")),
    ]


_SIGNATURES = {
    "tw_encode": [POINTER(_Program), POINTER(_Sheet), c_int64, c_void_p, c_void_p, c_float, c_float, c_void_p, c_void_p, c_void_p, c_int],
    "tw_check": [POINTER(_Program), c_void_p, c_int],
    "tw_decode": [POINTER(_Program), POINTER(c_void_p), c_int64, c_int, POINTER(_Finish), POINTER(_Sheet), c_int64, c_int],
    "tw_large_pages": [c_void_p, c_int64],
    "tw_dct_tiles": [c_void_p, c_void_p, c_int64, c_int, c_int, c_int],
    "tw_dct_rows": [c_void_p, c_void_p, c_int64, c_int, c_int],
    "tw_index_nbytes": [c_int64, c_int64, c_int, c_int],
    "tw_index_pack": [c_void_p, c_int64, c_int64, c_int64, c_int, c_int, c_void_p, c_int64, c_void_p],
    "tw_index_unpack": [c_void_p, c_int64, c_int64, c_int64, c_int, c_int, c_int64, c_void_p, c_void_p],
}


class Encoded(NamedTuple):
    """What encoding gives: the payload, the new residual (None when not asked for), and `stats (3,)` float64: numbers that are NaN, Inf or
    above 2^100, the sum of x*x, the sum of kept*kept."""

    payload: Tensor
    kept: Tensor | None
    stats: Tensor


@cache
def library() -> Any:
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
    for name, arguments in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = arguments, None if name == "tw_large_pages" else c_int64
    return loaded


def available() -> bool:
    """Whether the C++ kernels can run here."""
    return library() is not None


def set_isa(level: int) -> int:
    """Use instruction set 0 (baseline), 1 (x86-64-v3) or 2 (v4) if the processor has it; returns the one in use. The bits stay the same."""
    loaded = library()
    return int(loaded.tw_set_isa(level)) if loaded is not None else 0


def isa() -> int:
    """The instruction set in use."""
    loaded = library()
    return int(loaded.tw_isa()) if loaded is not None else 0


def sheet(shape: Sequence[int]) -> tuple[int, int]:
    """A tensor as a matrix: its first dimension x the rest, and one row where it has no two dimensions."""
    numel = 1
    for size in shape:
        numel *= size
    return (shape[0], numel // shape[0]) if len(shape) > 1 and numel else (1, numel)


def encode(
    program: Program,
    sources: Sequence[Tensor],
    *,
    anchor: Tensor | None = None,
    held: Tensor | None = None,
    decay: float = 1.0,
    gain: float = 1.0,
    state: bool = True,
    code: bool = True,
    kept: Tensor | None = None,
    payload: Tensor | None = None,
    threads: int | None = None,
) -> Encoded:
    """Residual, basis, selection, quantisation and packing in one pass over memory (csrc/encode.cpp).

    - `sources`: contiguous CPU tensors, float32, bfloat16 or float16; `x` is they, end to end, or `anchor - x` with a flat float32 anchor.
    - `held`: `(rows, chunk)` float32 residual or None.
    - `state`: whether the new residual is wanted; `code=False` gives an empty payload and the residual before anything is sent.
    - `kept`: `(rows, chunk)` float32 to write the new residual into (new memory costs as much as the encoding); not `held`.
    - `payload`: `(nbytes,)` uint8 to write the payload into, for the same reason; not with `code=False`.

    Nothing else is changed in place. Raises `ValueError` for a program or a layout that the kernels do not know.

    >>> from thinwire.comms.recipes import codec
    >>> encode(codec("blockmax").plan(1).program, [torch.ones(4096)]).payload.numel()
    60
    """
    loaded = _loaded()
    _same_size(anchor, sum(source.numel() for source in sources), "anchor")
    _same_size(held, program.rows * program.chunk, "held")
    if payload is None:
        payload = torch.empty(program.nbytes if code else 0, dtype=torch.uint8)
    elif code:
        _payload(program, payload)
    else:
        raise ValueError("encode got memory for a payload, but code=False gives none")
    if state and kept is None:
        kept = torch.empty((program.rows, program.chunk), dtype=torch.float32)
    _same_size(kept, program.rows * program.chunk, "kept")
    stats = torch.empty(3, dtype=torch.float64)
    failed = loaded.tw_encode(
        _Program(*program),
        _sheets(sources, SOURCES),
        len(sources),
        _pointer(anchor),
        _pointer(held),
        decay,
        gain,
        _pointer(payload) if code else None,
        _pointer(kept) if state else None,
        _pointer(stats),
        _threads(threads),
    )
    _raise_for(failed, program, sources)
    return Encoded(payload, kept if state else None, stats)


def check(program: Program, payload: Tensor, *, threads: int | None = None) -> int:
    """The first row of a payload that no encoder of this program can have made, or -1."""
    payload = _payload(program, payload)
    row = int(_loaded().tw_check(_Program(*program), _pointer(payload), _threads(threads)))
    if row < -1:
        _raise_for(row, program, ())
    return row


def decode(
    program: Program,
    payloads: Sequence[Tensor],
    targets: Sequence[Tensor],
    finish: Finish,
    *,
    contributors: bool = False,
    threads: int | None = None,
) -> None:
    """Sum payloads in order, divide, undo the basis and finish, in one pass over memory (csrc/decode.cpp).

    - `payloads`: of at least one member; each must have passed `check`.
    - `targets`: contiguous CPU tensors with the shapes of the fragment; `Step` and `Sgd` change them in place (float32 or bfloat16), for
      `Out` only their shapes matter.
    - `contributors`: divide each coefficient by the members that sent it, instead of by all.

    Raises `ValueError` for a program or a layout that the kernels do not know.
    """
    loaded = _loaded()
    if not payloads:
        raise ValueError("decode got no payloads; a round in which nothing counts has no update")
    held = [_payload(program, payload) for payload in payloads]
    numel = sum(target.numel() for target in targets)
    made = _Finish(kind=0, keep=1.0, lr=1.0)
    if isinstance(finish, Out):
        made.anchor = _pointer(_same_size(finish.out, numel, "out"))
    elif isinstance(finish, Sgd):
        made.kind, made.lr, made.mu, made.nesterov = 2, finish.lr, finish.momentum, int(finish.nesterov)
        made.anchor = _pointer(_same_size(finish.anchor, numel, "anchor"))
        made.momentum = _pointer(_same_size(finish.buffer, numel, "momentum buffer"))
    else:
        made.kind, made.lr, made.keep, made.sign = 1, finish.lr, finish.keep, int(finish.sign)
    failed = loaded.tw_decode(
        _Program(*program),
        (c_void_p * len(held))(*(payload.data_ptr() for payload in held)),
        len(held),
        int(contributors),
        byref(made),
        _sheets(targets, TARGETS if made.kind else None),
        len(targets),
        _threads(threads),
    )
    _raise_for(failed, program, targets)


def residual(rows: int, chunk: int) -> Tensor:
    """`(rows, chunk)` float32 zeros in large pages, where the system has them: encoding then looks up fewer addresses."""
    held = torch.empty((rows, chunk), dtype=torch.float32)
    loaded = library()
    if loaded is not None:
        loaded.tw_large_pages(held.data_ptr(), held.numel() * held.element_size())
    return held.zero_()


def dct_tiles(x: Tensor, side: int, *, out: Tensor | None = None, threads: int | None = None) -> Tensor:
    """`thinwire.kernels.dct.dct_tiles` for CPU float32, the same bits."""
    return _dct(x, side, out, inverse=False, threads=threads)


def idct_tiles(x: Tensor, side: int, *, out: Tensor | None = None, threads: int | None = None) -> Tensor:
    """`thinwire.kernels.dct.idct_tiles` for CPU float32, the same bits."""
    return _dct(x, side, out, inverse=True, threads=threads)


def dct_rows(x: Tensor, *, inverse: bool = False, out: Tensor | None = None, threads: int | None = None) -> Tensor:
    """The orthonormal DCT-II of each row of `(rows, 64)` CPU float32, or its inverse."""
    loaded = _loaded()
    if x.dtype != torch.float32 or x.dim() != 2 or x.shape[1] != 64 or x.device.type != "cpu":
        raise ValueError(f"dct_rows needs a CPU float32 (rows, 64) tensor, got {tuple(x.shape)} {x.dtype}")
    x = x.contiguous()
    out = torch.empty_like(x) if out is None else out
    _same_size(out, x.numel(), "out")
    loaded.tw_dct_rows(_pointer(x), _pointer(out), len(x), int(inverse), _threads(threads))
    return out


def _dct(x: Tensor, side: int, out: Tensor | None, *, inverse: bool, threads: int | None) -> Tensor:
    loaded = library()
    if loaded is None or x.dtype != torch.float32 or x.dim() != 2 or x.shape[1] != side * side or x.device.type != "cpu":
        raise ValueError(f"native DCT needs the library and a CPU float32 (tiles, {side * side}) tensor, got {tuple(x.shape)} {x.dtype}")
    x = x.contiguous()
    out = torch.empty_like(x) if out is None else out
    _same_size(out, x.numel(), "out")
    if loaded.tw_dct_tiles(_pointer(x), _pointer(out), len(x), side, int(inverse), _threads(threads)):
        raise ValueError(f"native DCT knows sides 8, 16, 32 and 64, got {side}")
    return out


# -- index coding by itself ----------------------------------------------------------------------------------------------------

CODINGS = {"planes": 0, "elias-fano": 1, "bitmap": 2, "rice": 3}


def pack_index(index: Tensor, chunk: int, coding: str, *, rice: int = 0) -> tuple[Tensor, Tensor]:
    """`(rows, k)` ascending uint16 places below `chunk` to `(rows, stride)` bytes, and how many of each row count, `(rows,)` int64.

    Fixed-size codings fill every row; "rice" (Golomb-Rice with `rice` low bits) is a stream of its own length, and undefined behind it.
    """
    loaded = _loaded()
    if index.dtype != torch.uint16 or index.dim() != 2 or index.device.type != "cpu":
        raise ValueError(f"pack_index needs CPU (rows, k) uint16 places, got {tuple(index.shape)} {index.dtype}")
    index = index.contiguous()
    rows, k = index.shape
    stride = _index_nbytes(k, chunk, coding, rice)
    out, sizes = torch.empty((rows, stride), dtype=torch.uint8), torch.empty(rows, dtype=torch.int64)
    failed = loaded.tw_index_pack(_pointer(index), rows, k, chunk, CODINGS[coding], rice, _pointer(out), stride, _pointer(sizes))
    if failed:
        raise ValueError(f"cannot pack {k} places below {chunk} as {coding}")
    return out, sizes


def unpack_index(packed: Tensor, sizes: Tensor, k: int, chunk: int, coding: str, *, rice: int = 0) -> tuple[Tensor, int]:
    """`(rows, k)` uint16 places from what `pack_index` gave, and the first row that it cannot have given, or -1. Any bytes are safe."""
    loaded = _loaded()
    if packed.dtype != torch.uint8 or packed.dim() != 2 or sizes.dtype != torch.int64 or len(sizes) != len(packed):
        raise ValueError(f"unpack_index needs (rows, nbytes) uint8 and (rows,) int64, got {tuple(packed.shape)} and {tuple(sizes.shape)}")
    packed, sizes = packed.contiguous(), sizes.contiguous()
    rows, stride = packed.shape
    index = torch.empty((rows, k), dtype=torch.uint16)
    bad = int(
        loaded.tw_index_unpack(
            _pointer(packed), rows, k, chunk, CODINGS[coding], rice, stride, _pointer(sizes), _pointer(index)
        )
    )  # fmt: skip
    if bad < -1:
        raise ValueError(f"cannot unpack {k} places below {chunk} as {coding} from rows of {stride} bytes")
    return index, bad


def _index_nbytes(k: int, chunk: int, coding: str, rice: int) -> int:
    nbytes = int(_loaded().tw_index_nbytes(k, chunk, CODINGS[coding], rice))
    if nbytes < 0:
        raise ValueError(f"cannot code {k} places below {chunk} as {coding} with {rice} low bits")
    return nbytes


# -- arguments -----------------------------------------------------------------------------------------------------------------


def _loaded() -> Any:
    loaded = library()
    if loaded is None:
        raise RuntimeError("the C++ library of thinwire is not installed; ask native.available() first")
    return loaded


def _threads(threads: int | None) -> int:
    return torch.get_num_threads() if threads is None else threads


def _pointer(tensor: Tensor | None) -> int | None:
    if tensor is None:
        return None
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise ValueError(
            f"native kernels need contiguous CPU tensors, got {tuple(tensor.shape)} with strides {tensor.stride()} on {tensor.device}"
        )
    return tensor.data_ptr()


def _same_size(tensor: Tensor | None, numel: int, name: str) -> Tensor | None:
    if tensor is not None and (tensor.numel() != numel or tensor.dtype != torch.float32):
        raise ValueError(f"{name} is {tuple(tensor.shape)} {tensor.dtype}, expected {numel} float32")
    return tensor


def _payload(program: Program, payload: Tensor) -> Tensor:
    if payload.shape != (program.nbytes,) or payload.dtype != torch.uint8:
        raise ValueError(f"payload is {tuple(payload.shape)} {payload.dtype}, expected ({program.nbytes},) uint8")
    return payload.contiguous()


def _sheets(tensors: Sequence[Tensor], dtypes: Sequence[torch.dtype] | None) -> Any:
    made = (_Sheet * len(tensors))()
    for into, tensor in zip(made, tensors, strict=True):
        into.height, into.width = sheet(tensor.shape)
        if dtypes is None:
            continue
        if tensor.dtype not in dtypes:
            raise ValueError(f"native kernels take {', '.join(map(str, dtypes))}, got {tensor.dtype}")
        into.dtype, into.data = _DTYPES[tensor.dtype], _pointer(tensor)
    return made


def _raise_for(code: int, program: Program, tensors: Sequence[Tensor]) -> None:
    if code == 0:
        return
    why = {
        -2: "a program that the C++ kernels do not know",
        -3: f"tensors of shapes {[tuple(tensor.shape) for tensor in tensors]}, which do not fill its rows",
        -4: "arguments that cannot be meant (a buffer is missing, or used twice)",
    }
    raise ValueError(f"{program}: {why.get(code, f'error {code}')}")


def _find() -> Path | None:
    beside = Path(__file__).parent / _NAME
    if beside.exists():
        return beside
    try:  # an editable install puts the library into site-packages, away from this file
        listed = [Path(str(file.locate())) for file in files("thinwire") or [] if file.name == _NAME]
    except PackageNotFoundError:
        return None
    return next((path for path in listed if path.exists()), None)
