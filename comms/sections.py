"""Planes of bytes, deflated where that wins, and a reader that bytes from anywhere cannot make allocate more than was expected.

section  length 4 (highest bit: deflated, RFC 1951), bytes
"""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from thinwire.comms.wire import WireError

Bytes = NDArray[np.uint8]

_DEFLATED = 1 << 31
_SAMPLES, _SAMPLE_NBYTES = 8, 8 << 10
_LENGTH = struct.Struct("<I")


def section(plane: Bytes) -> bytes:
    """The plane as it is, deflated by its frequencies alone, or with matches (runs): whatever is shortest, judged by a sample."""
    raw = plane.tobytes()
    step = len(raw) // _SAMPLES
    sample = raw if step <= _SAMPLE_NBYTES else b"".join(raw[i * step : i * step + _SAMPLE_NBYTES] for i in range(_SAMPLES))
    strategy = min((zlib.Z_HUFFMAN_ONLY, zlib.Z_DEFAULT_STRATEGY), key=lambda each: len(deflated(sample, each)))
    if len(deflated(sample, strategy)) < len(sample):
        coded = deflated(raw, strategy)
        if len(coded) < len(raw):
            return _LENGTH.pack(len(coded) | _DEFLATED) + coded
    return _LENGTH.pack(len(raw)) + raw


def deflated(raw: bytes, strategy: int = zlib.Z_HUFFMAN_ONLY) -> bytes:
    """RFC 1951, level 1."""
    coder = zlib.compressobj(1, zlib.DEFLATED, -15, 9, strategy)
    return coder.compress(raw) + coder.flush()


class Reader:
    """Bytes that are not trusted, taken from the front."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.at = data, 0

    def take(self, nbytes: int) -> memoryview:
        if nbytes > len(self.data) - self.at:
            raise WireError("the bytes end early")
        self.at += nbytes
        return self.data[self.at - nbytes : self.at]

    def section(self, nbytes: int) -> bytes | memoryview:
        """A section of `nbytes` before deflation; no more than that is ever inflated."""
        (length,) = _LENGTH.unpack(self.take(_LENGTH.size))
        coded = self.take(length & ~_DEFLATED)
        if not length & _DEFLATED:
            if len(coded) != nbytes:
                raise WireError(f"a section of {len(coded)} bytes, expected {nbytes}")
            return coded
        inflater = zlib.decompressobj(-15)
        try:
            raw = inflater.decompress(coded, nbytes + 1)
        except zlib.error as error:
            raise WireError(f"a section cannot be inflated: {error}") from None
        if len(raw) != nbytes or not inflater.eof or inflater.unused_data:
            raise WireError(f"a section does not inflate to {nbytes} bytes")
        return raw
