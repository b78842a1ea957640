"""How many bytes HDF5 will make of a stored chunk, known before it does.

HDF5 trusts a filter to return a whole chunk; where one returns less, HDF5 reads on behind it, and
crashes or gives what happens to lie there. Invariant: of a chunk that passed, HDF5's filters make
exactly the bytes that it has, or fail.
"""

import math
import os
from collections.abc import Callable, Mapping

import h5py
from h5py import h5d, h5i, h5t
from h5py.h5fd import SEC2

from shardwriter.files.codec import inflate, lzf_length

__all__ = ["DEFLATE", "SHUFFLE", "StoredChunks"]

DEFLATE, SHUFFLE = 1, 2
_LZF, _BLOSC, _LZ4, _ZSTD = 32000, 32001, 32004, 32015
_FEW = 4  # chunks are read in less time than it takes to find the file's descriptor
_MAGIC = b"\x28\xb5\x2f\xfd"


class StoredChunks:
    """The chunks of a dataset as they are stored.

    Attributes
    ----------
    filters
        The numbers of the dataset's filters, in order.
    kind
        The type of its items in the file.
    shape
        The shape of its chunks.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        properties = dataset.id.get_create_plist()
        self.filters = tuple(properties.get_filter(i)[0] for i in range(properties.get_nfilters()))
        self.shape: tuple[int, ...] = properties.get_chunk()
        self.kind: h5t.TypeID = dataset.id.get_type()
        self._dataset = dataset
        self._id: h5d.DatasetID = dataset.id
        self._size = self._item_bytes() * math.prod(self.shape)
        self._file: int | None = None
        self._reads = 0

    def _item_bytes(self) -> int:
        """Return the bytes of one item in a chunk, 0 where HDF5 tells only those in memory."""
        dtype = self._dataset.dtype
        if dtype.kind == "O" and h5py.check_ref_dtype(dtype) is None:  # length, address, and index
            address, _ = h5i.get_file_id(self._id).get_create_plist().get_sizes()
            return 4 + int(address) + 4
        return 0 if dtype.hasobject else int(self.kind.get_size())

    def share(self) -> None:
        """Read from now on outside the HDF5 library, which lets in one thread at a time."""
        self._file = _descriptor(self._dataset)

    def find(self, origin: tuple[int, ...]) -> h5d.StoreInfo | None:
        """Return where the chunk at an origin is, None for one that was never written."""
        stored = self._id.get_chunk_info_by_coord(origin)
        return None if stored.byte_offset is None else stored

    def applied(self, mask: int) -> tuple[int, ...]:
        """Return the filters that a chunk went through, by the mask of those that it did not."""
        return tuple(number for i, number in enumerate(self.filters) if not mask >> i & 1)

    def data(self, origin: tuple[int, ...], stored: h5d.StoreInfo) -> bytes:
        """Return a chunk as it is stored."""
        self._reads += 1
        if self._reads == _FEW:
            self.share()
        if self._file is None:
            _, data = self._id.read_direct_chunk(origin)
            return bytes(data)
        return os.pread(self._file, stored.size, stored.byte_offset)

    def check(self, origin: tuple[int, ...]) -> None:
        """Make sure that HDF5 makes a whole chunk of the one at an origin.

        Raises
        ------
        ValueError
            It makes more or less of it, or that cannot be known.
        """
        stored = self.find(origin)
        if stored is None:
            return
        if not self._size:
            raise ValueError("expected numbers or text")
        filters = self.applied(stored.filter_mask)
        codecs = filters[1:] if filters[:1] == (SHUFFLE,) else filters
        if not codecs:
            size = stored.size
        elif len(codecs) == 1 and codecs[0] in _SIZES:
            size = _SIZES[codecs[0]](self.data(origin, stored), self._size)
        else:
            raise ValueError(f"expected shuffle and one codec, got filters {filters}")
        if size != self._size:
            raise ValueError(f"expected {self._size} bytes, it holds {size}")


def _descriptor(dataset: h5py.Dataset) -> int | None:
    """Return the descriptor of a dataset's file, None for one that is no plain file."""
    file = h5i.get_file_id(dataset.id)
    is_plain = file.get_access_plist().get_driver() == SEC2
    return int(file.get_vfd_handle()) if is_plain else None


# Each returns how many bytes a codec makes of data; what that cannot be known of is a ValueError.


def _of_deflate(data: bytes, expected: int) -> int:
    return len(inflate(data, expected))


def _of_lzf(data: bytes, expected: int) -> int:
    return lzf_length(data)


def _of_lz4(data: bytes, expected: int) -> int:
    """Go through the blocks of HDF5's LZ4 filter, which believes each block's size.

    Source: HDF5_LZ4.pdf of the HDF Group's registered filter 32004; numbers are big-endian.
    """
    size, block = int.from_bytes(data[:8], "big"), int.from_bytes(data[8:12], "big")
    at = 12
    if size == expected and block:  # else there might be many blocks
        for _ in range(-(-size // block)):
            at += 4 + int.from_bytes(data[at : at + 4], "big")
            if at > len(data):
                break
    if at != len(data) or not block:
        raise ValueError(f"its {len(data)} bytes are no LZ4 blocks of {block} bytes for {size}")
    return size


def _of_zstd(data: bytes, expected: int) -> int:
    """Return the content size of a frame, which the decoder holds it to (RFC 8878, 3.1.1.1)."""
    if data[:4] != _MAGIC or len(data) < 5:
        raise ValueError("expected a Zstandard frame")
    descriptor = data[4]
    is_single, code = descriptor >> 5 & 1, descriptor >> 6
    length = (is_single, 2, 4, 8)[code]
    at = 5 + (not is_single) + (0, 1, 2, 4)[descriptor & 3]
    if not length or len(data) < at + length:
        raise ValueError("expected a Zstandard frame that says how much it holds")
    return int.from_bytes(data[at : at + length], "little") + (256 if length == 2 else 0)


def _of_blosc(data: bytes, expected: int) -> int:
    """Return the bytes that Blosc's header, which its decoder goes by, declares."""
    stored = int.from_bytes(data[12:16], "little")
    if len(data) < 16 or stored != len(data):
        raise ValueError(f"expected {stored} bytes of Blosc, got {len(data)}")
    return int.from_bytes(data[4:8], "little")


_SIZES: Mapping[int, Callable[[bytes, int], int]] = {
    DEFLATE: _of_deflate,
    _LZF: _of_lzf,
    _BLOSC: _of_blosc,
    _LZ4: _of_lz4,
    _ZSTD: _of_zstd,
}
