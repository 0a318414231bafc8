"""The state of a run as a newcomer gets it: content-addressed chunks, from several holders at once, in the smallest form that is exact.

    manifest = pack(snapshot, keep)        keep(bytes) -> sha256 of a chunk; members with the same state make the same manifest
    snapshot = await unpack(manifest, meta, get)   get(digest, nbytes) -> bytes

A tensor of zeros takes nothing; float32 whose lower halves are all zero travels as bfloat16. Everything else is raw little-endian.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator

import msgspec
import torch
from torch import Tensor

from thinwire.comms.door import Snapshot
from thinwire.comms.wire import WireError, bytes_of

CHUNK_NBYTES = 4 << 20
MANIFEST_NBYTES = 16 << 20
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64)}


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """One piece of a tensor."""

    digest: bytes
    nbytes: int


class Part(msgspec.Struct, frozen=True, array_like=True):
    """One tensor: `coding` is zero, halves (float32 as bfloat16) or raw."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    coding: str
    chunks: tuple[Chunk, ...]


class Manifest(msgspec.Struct, frozen=True, array_like=True):
    """The whole agreed state before `round` is decided; the same on all members. What is a member's own travels beside it."""

    round: int
    parts: tuple[Part, ...]

    def digest(self) -> bytes:
        """What members confirm: sha256 over everything."""
        return hashlib.sha256(msgspec.msgpack.encode(self)).digest()

    @property
    def nbytes(self) -> int:
        """Of all chunks."""
        return sum(chunk.nbytes for part in self.parts for chunk in part.chunks)


def pack(snapshot: Snapshot, keep: Callable[[bytes], bytes]) -> Manifest:
    """Cut a snapshot into chunks, each given to `keep`, which returns its sha256."""
    parts = []
    for name, tensor in snapshot.tensors.items():
        coding, coded = _coded(tensor.detach().cpu().reshape(-1))
        raw = bytes_of(coded) if coded.numel() else memoryview(b"")
        chunks = tuple(Chunk(keep(bytes(piece)), len(piece)) for piece in _pieces(raw))
        parts.append(Part(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), coding, chunks))
    return Manifest(snapshot.round, tuple(parts))


def read_manifest(data: bytes, expected: Snapshot) -> Manifest:
    """A peer's manifest, if it is one of a state like `expected`: the same tensors in the same order, and chunks that add up.

    Raises `WireError` for anything else, before anything is allocated for it.
    """
    try:
        manifest = msgspec.msgpack.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WireError(f"manifest of the state is unreadable: {error}") from None
    if manifest.round < 0:
        raise WireError(f"manifest of the state: round {manifest.round}")
    theirs = [(part.name, part.dtype, part.shape) for part in manifest.parts]
    ours = [(name, str(t.dtype).removeprefix("torch."), tuple(t.shape)) for name, t in expected.tensors.items()]
    if theirs != ours:
        first = next((pair for pair in zip(theirs, ours, strict=False) if pair[0] != pair[1]), (len(theirs), len(ours)))
        raise WireError(f"state of another model: {first[0]}, expected {first[1]}")
    for part in manifest.parts:
        want = _coded_nbytes(part)
        sizes = [chunk.nbytes for chunk in part.chunks]
        if sizes != [min(CHUNK_NBYTES, want - at) for at in range(0, want, CHUNK_NBYTES)] or any(len(c.digest) != 32 for c in part.chunks):
            raise WireError(f"chunks of {part.name} do not make up its {want} bytes")
    return manifest


async def unpack(manifest: Manifest, meta: bytes, get: Callable[[bytes, int], Awaitable[bytes]]) -> Snapshot:
    """The snapshot of a manifest that `read_manifest` has passed; `get` checks each chunk's hash."""
    tensors = {}
    for part in manifest.parts:
        dtype = _DTYPES[part.dtype]
        coded = torch.empty(_coded_nbytes(part), dtype=torch.uint8)
        came = await asyncio.gather(*(get(chunk.digest, chunk.nbytes) for chunk in part.chunks))
        at = 0
        for data in came:
            bytes_of(coded)[at : at + len(data)] = data
            at += len(data)
        if part.coding == "zero":
            tensors[part.name] = torch.zeros(part.shape, dtype=dtype)
        elif part.coding == "halves":
            tensors[part.name] = coded.view(torch.bfloat16).to(torch.float32).view(part.shape)
        else:
            tensors[part.name] = coded.view(dtype).view(part.shape)
    return Snapshot(manifest.round, tensors, meta)


def _coded(tensor: Tensor) -> tuple[str, Tensor]:
    if tensor.numel() == 0 or not tensor.view(torch.uint8).any():  # by bits: -0.0 is not zero
        return "zero", tensor.new_empty(0)
    if tensor.dtype == torch.float32:
        halves = tensor.to(torch.bfloat16)
        if torch.equal(halves.to(torch.float32).view(torch.int32), tensor.view(torch.int32)):
            return "halves", halves
    return "raw", tensor


def _coded_nbytes(part: Part) -> int:
    dtype = _DTYPES.get(part.dtype)
    if dtype is None or part.coding not in ("zero", "halves", "raw") or (part.coding == "halves" and part.dtype != "float32"):
        raise WireError(f"{part.name} is {part.dtype} as {part.coding}, which no member sends")
    count = 1
    for side in part.shape:
        count *= side
    return {"zero": 0, "halves": 2 * count, "raw": dtype.itemsize * count}[part.coding]


def _pieces(raw: memoryview) -> Iterator[memoryview]:
    for at in range(0, len(raw), CHUNK_NBYTES):
        yield raw[at : at + CHUNK_NBYTES]
