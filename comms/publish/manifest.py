"""What a version of the weights is: signed by its publisher, and enough to fetch, check and apply it.

A manifest is a msgpack array, at most 4 MiB:

    run, version, parent (version, digest) or nil, codec, tensors (name, shape, dtype)..., chunks (sha256, nbytes)...,
    sha256 of the canonical weights, extra, publisher's key, Ed25519 signature

The signature is of a prefix that names its purpose and the same array with an empty signature. A manifest's digest is the sha256 of all its
bytes; a patch or delta names the version it starts from by that digest, so that one signature vouches for the whole chain behind it.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from thinwire.comms.publish import coding
from thinwire.comms.publish.weights import MAX_TENSORS, TensorSpec, numel_of
from thinwire.comms.swarm.identity import Identity, verify
from thinwire.comms.swarm.transport import Key
from thinwire.comms.wire import WireError

MAX_MANIFEST_NBYTES = 4 << 20
MAX_EXTRA_NBYTES = 16 << 10
MAX_CHUNKS = 1 << 16
MAX_CHUNK_NBYTES = 16 << 20
_PURPOSE = b"thinwire/publish/1\0"

KeyField = Annotated[bytes, Meta(min_length=32, max_length=32)]
HashField = Annotated[bytes, Meta(min_length=32, max_length=32)]
Version = Annotated[int, Meta(ge=1, le=2**53)]
RunField = Annotated[str, Meta(min_length=1, max_length=64)]
Scalar = bool | int | float | str | None
Extra = Mapping[str, Scalar | Sequence[Scalar] | Mapping[str, Scalar]]


class RefusedManifest(WireError):
    """A manifest that is not taken; `reason` is a word to count by."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class Chunk(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A piece of the payload."""

    digest: HashField
    nbytes: Annotated[int, Meta(ge=1, le=MAX_CHUNK_NBYTES)]


class Parent(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The version that a patch or delta is applied to."""

    version: Version
    digest: HashField


class Manifest(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One version; `parent` is None exactly for a full one."""

    run: RunField
    version: Version
    parent: Parent | None
    codec: Literal["full", "patch", "delta"]
    tensors: Annotated[tuple[TensorSpec, ...], Meta(min_length=1, max_length=MAX_TENSORS)]
    chunks: Annotated[tuple[Chunk, ...], Meta(max_length=MAX_CHUNKS)]
    weights_sha256: HashField
    extra: dict[str, bool | int | float | str | list[Scalar] | dict[str, Scalar] | None]
    publisher: KeyField
    signature: Annotated[bytes, Meta(max_length=64)] = b""

    @property
    def nbytes(self) -> int:
        """Of the payload."""
        return sum(chunk.nbytes for chunk in self.chunks)

    @property
    def numel(self) -> int:
        """Of all tensors."""
        return numel_of(self.tensors)


@dataclass(frozen=True, eq=False)
class Signed:
    """A manifest as it travels, and its name."""

    manifest: Manifest
    data: bytes
    digest: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Manifest] = msgspec.msgpack.Decoder(Manifest)


def sign(manifest: Manifest, identity: Identity) -> Signed:
    """Sign with the key that the manifest names; raises `ValueError` when it breaks a bound."""
    if len(_encoder.encode(manifest.extra)) > MAX_EXTRA_NBYTES:
        raise ValueError(f"extra takes more than {MAX_EXTRA_NBYTES} bytes: put large things elsewhere, and their hash here")
    signed = msgspec.structs.replace(manifest, signature=identity.sign(_signed_bytes(manifest)))
    data = _encoder.encode(signed)
    try:
        return read(data, run=manifest.run, publishers=[identity.key])
    except RefusedManifest as error:
        raise ValueError(f"a manifest that nobody would take: {error}") from None


def read(
    data: bytes,
    *,
    run: str,
    publishers: Collection[Key],
    shapes: Mapping[str, Sequence[int]] | None = None,
    limit_nbytes: int = 1 << 40,
) -> Signed:
    """A manifest from anywhere, if it is one of `run` signed by one of `publishers`, of a model with these `shapes` (None: any model whose
    bfloat16 weights take at most `limit_nbytes`). Raises `RefusedManifest`, and nothing else, whatever the bytes are.
    """
    if len(data) > MAX_MANIFEST_NBYTES:
        raise RefusedManifest("manifest too large", f"{len(data)} bytes")
    try:
        manifest = _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise RefusedManifest("manifest unreadable", str(error)) from None
    if manifest.run != run:
        raise RefusedManifest("another run", f"{manifest.run!r}, expected {run!r}")
    if manifest.publisher not in publishers:
        raise RefusedManifest("publisher not pinned", manifest.publisher.hex())
    if _encoder.encode(manifest) != data or not verify(manifest.publisher, _signed_bytes(manifest), manifest.signature):
        raise RefusedManifest("forged", f"version {manifest.version} is not signed by {manifest.publisher.hex()}")
    _check(manifest, limit_nbytes)
    if shapes is not None and {spec.name: spec.shape for spec in manifest.tensors} != {
        name: tuple(shape) for name, shape in shapes.items()
    }:
        raise RefusedManifest("another model", f"version {manifest.version} has tensors of other names or shapes")
    return Signed(manifest, data, hashlib.sha256(data).digest())


def _check(manifest: Manifest, limit_nbytes: int) -> None:
    names = [spec.name for spec in manifest.tensors]
    parent = manifest.parent
    if names != sorted(set(names)):
        raise RefusedManifest("manifest unsound", "tensors are not in the order of their names")
    if (parent is None) != (manifest.codec == "full") or (parent is not None and parent.version >= manifest.version):
        raise RefusedManifest("manifest unsound", f"{manifest.codec} version {manifest.version} after {parent}")
    if 2 * manifest.numel > limit_nbytes:
        raise RefusedManifest("too large", f"{2 * manifest.numel} bytes of weights, at most {limit_nbytes}")
    if manifest.nbytes > coding.limit_nbytes(manifest.numel):
        raise RefusedManifest("too large", f"{manifest.nbytes} bytes for {manifest.numel} values")
    if len(_encoder.encode(manifest.extra)) > MAX_EXTRA_NBYTES:
        raise RefusedManifest("too large", "extra")


def _signed_bytes(manifest: Manifest) -> bytes:
    return _PURPOSE + _encoder.encode(msgspec.structs.replace(manifest, signature=b""))
