"""Datatypes, from the messages that spell them in a file.

HDF5's own decoder trusts the lengths and counts in a message. Source: HDF5 File Format
Specification 3.0, IV.A.2.d. Invariant: a type returned is the one that h5py would give, and
harmless to HDF5; any other is ``Unfamiliar``.
"""

from functools import cache, lru_cache
from typing import Any

import h5py
import numpy as np
from h5py import h5t

from shardwriter.files.dense_storage import Unfamiliar

__all__ = ["dtype_of"]

_HEAD_BYTES = 8  # version and class, flags, size
_STRING, _COMPOUND = 0x13, 0x36
_OF_NUMBERS = {0x10: 12, 0x11: 20}  # bytes of a message: integers, and floats
_PADDED_BY_NUL = 1
_CHARSETS = ("ascii", "utf-8")


@lru_cache(maxsize=1024)
def dtype_of(message: bytes) -> np.dtype[Any] | None:
    """Return the dtype that a message spells, None for text of variable length.

    Raises
    ------
    Unfamiliar
        It is none of NumPy's numbers in this machine's order of bytes, no text, no compound of
        these, or is spelled otherwise than HDF5 does.
    """
    known = _known()
    if message in known:
        return known[message]
    if message[:1] == bytes([_STRING]):
        return _string(message)
    if message[:1] == bytes([_COMPOUND]):
        return _compound(message)
    raise Unfamiliar


@cache
def _known() -> dict[bytes, np.dtype[Any] | None]:
    known: dict[bytes, np.dtype[Any] | None] = {}
    for code in "?bBhHiIqQefdFD":
        kind = h5t.py_create(np.dtype(code), logical=True)
        known[_encoded(np.dtype(code))] = kind.dtype
    # In files that older versions of HDF5 need not read, a list of names has no padding.
    of_one_byte = _encoded(np.dtype(np.int8))
    boolean = b"\x38\x02\0\0\x01\0\0\0" + of_one_byte + b"FALSE\0TRUE\0\0\x01"
    known[boolean] = np.dtype(bool)
    for charset in _CHARSETS:
        text = bytearray(_encoded(h5py.string_dtype(charset)))
        text[4:8] = (16).to_bytes(4, "little")  # in a file it is a reference
        known[bytes(text)] = None
    return known


def _encoded(dtype: Any) -> bytes:
    return bytes(h5t.py_create(dtype, logical=True).encode())[2:]


def _string(message: bytes) -> np.dtype[Any]:
    padding, charset = message[1] & 15, message[1] >> 4
    size = int.from_bytes(message[4:8], "little")
    is_known = padding == _PADDED_BY_NUL and charset < len(_CHARSETS) and message[2:4] == b"\0\0"
    if len(message) != _HEAD_BYTES or not is_known or not 0 < size < 1 << 31:
        raise Unfamiliar
    dtype: np.dtype[Any] = h5py.string_dtype(_CHARSETS[charset], size)
    return dtype


def _compound(message: bytes) -> np.dtype[Any]:
    """Return the dtype of a compound: members one behind the other, none of them compound."""
    count = int.from_bytes(message[1:4], "little")
    size = int.from_bytes(message[4:8], "little")
    offset_bytes = -(-size.bit_length() // 8)
    names, formats, offsets = [], [], []
    at, expected = _HEAD_BYTES, 0
    for _ in range(count):
        name, end, _ = message[at:].partition(b"\0")
        at += len(name) + 1
        offset = int.from_bytes(message[at : at + offset_bytes], "little")
        at += offset_bytes
        length = _OF_NUMBERS.get(message[at], _HEAD_BYTES) if at < len(message) else 0
        dtype = dtype_of(message[at : at + length])
        if not end or dtype is None or dtype.names or offset != expected:
            raise Unfamiliar
        at += length
        expected += dtype.itemsize
        names.append(name.decode())
        formats.append(dtype)
        offsets.append(offset)
    if at != len(message) or expected != size or len(set(names)) != count or not count:
        raise Unfamiliar
    if names == ["r", "i"] and formats[0] == formats[1] and formats[0].kind == "f" and size > 4:
        return np.dtype(f"c{size}")
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})
