"""Whether a cluster is there at all: engines wait for one without end, or for half a minute.

Invariant: only what says where it listens for TCP is asked; of other addresses the engine judges.
"""

import socket
from urllib.parse import urlsplit

from shardwriter.errors import ConfigError

__all__ = ["check_answers"]

_PATIENCE_S = 5.0
_OVER_TCP = ("", "ray", "tcp", "tls", "ws", "wss")


def check_answers(engine: str, address: str) -> None:
    """Make sure that something takes connections at the address of a cluster.

    Parameters
    ----------
    engine
        Whose cluster it should be, for the error.
    address
        ``host:port``, also with a scheme as in ``tcp://host:port``; others pass.

    Raises
    ------
    ConfigError
        Nothing does, within five seconds.
    """
    scheme, _, place = address.rpartition("://")
    try:
        where = urlsplit(f"//{place}")
        host, port = where.hostname, where.port
    except ValueError:
        return
    if scheme not in _OVER_TCP or host is None or port is None:
        return
    try:
        socket.create_connection((host, port), _PATIENCE_S).close()
    except OSError as error:
        expected = f"a cluster of {engine}'s that answers"
        raise ConfigError(f"address {address}", expected, str(error)) from error
