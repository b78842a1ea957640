"""The digest of what an episode has outside of its tables: texts and arrays without a checksum.

HDF5 guards headers, and with them numbers that are attributes, but neither texts of variable length
nor arrays as they are. Invariant: what was written and what is read of it have one digest, wherever
it lies in a file.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from isal import isal_zlib

__all__ = ["STATIC_DIGEST", "StaticObject", "static_digest"]

STATIC_DIGEST = "_crc32"  # an attribute of the episode's group

StaticObject = tuple[str, Mapping[str, Any], "np.ndarray[Any, Any] | None"]


def static_digest(objects: Iterable[StaticObject]) -> int:
    """Return the CRC-32 of objects: each one's path, attributes, and data, None for a group.

    Of an attribute only text counts.
    """
    crc = 0
    for path, attributes, values in sorted(objects, key=lambda each: _encoded(each[0])):
        crc = isal_zlib.crc32(_encoded(path) + b"\0", crc)
        texts = [(_encoded(key), text) for key, text in attributes.items() if isinstance(text, str)]
        for key, text in sorted(texts):
            crc = isal_zlib.crc32(b"%b\0%b\0" % (key, _encoded(text)), crc)
        if values is not None:
            crc = isal_zlib.crc32(_octets(values), crc)
    return crc


def _encoded(text: str) -> bytes:
    """Return a text's bytes; one that is not UTF-8 in its file stays as it is."""
    return text.encode("utf-8", "surrogateescape")


def _octets(values: "np.ndarray[Any, Any]") -> Any:
    if values.dtype == object:
        return b"".join(_encoded(text) + b"\0" for text in values.reshape(-1).tolist())
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)
