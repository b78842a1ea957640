"""Whether a cluster answers, asked before its library waits for it."""

import socket

import pytest

from shardwriter.engines.addresses import check_answers
from shardwriter.errors import ConfigError


def test_what_listens_passes_and_what_does_not_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for scheme in ("", "tcp://", "ray://"):
            check_answers("Ray", f"{scheme}127.0.0.1:{port}")
    with pytest.raises(ConfigError) as caught:
        check_answers("Dask", f"tcp://127.0.0.1:{port}")
    text = f"address tcp://127.0.0.1:{port}: expected a cluster of Dask's that answers, got '[Errno"
    assert str(caught.value).startswith(text)


def test_a_host_without_an_address_is_named() -> None:
    with pytest.raises(ConfigError, match=r"nohost\.invalid:8786: expected a cluster"):
        check_answers("Ray", "nohost.invalid:8786")


@pytest.mark.parametrize("address", ["auto", "local", "host", "host:port", "inproc://1/2", "[", ""])
def test_what_says_no_port_is_left_to_the_engine(address: str) -> None:
    check_answers("Ray", address)
