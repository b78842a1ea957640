"""Groups within groups, encoded once it is known what is in them.

Invariant: a group is encoded after all that it holds, for it has to know their addresses.
"""

from collections.abc import Mapping
from typing import Any

from shardwriter.files.encoding import Encoder

__all__ = ["ObjectTree"]


class ObjectTree:
    """A group, "", and all below it.

    Parameters
    ----------
    encoder
        What encodes the groups.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._members: dict[str, dict[str, int]] = {"": {}}  # of each group, by its path
        self._attributes: dict[str, Mapping[str, Any]] = {}

    def group(self, path: str, attributes: Mapping[str, Any] | None = None) -> dict[str, int]:
        """Return a group's members, to add to; it is made with all above it where it is new."""
        if attributes:
            self._attributes[path] = attributes
        members = self._members.get(path)
        if members is None:
            members = self._members[path] = {}
            self.group(path.rpartition("/")[0])
        return members

    def put(self, path: str, address: int) -> None:
        """Take in an object that is encoded already."""
        parent, _, name = path.rpartition("/")
        self.group(parent)[name] = address

    def encode(self) -> int:
        """Encode every group; return the address of the outermost."""
        for path in sorted(filter(None, self._members), key=lambda one: -one.count("/")):
            self.put(path, self._encoded(path))
        return self._encoded("")

    def _encoded(self, path: str) -> int:
        members = dict(sorted(self._members[path].items()))
        return self._encoder.group(members, self._attributes.get(path, {}))
