"""The sockets that the process listens on."""

import gc
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from server.lifecycle import serve
from server.listening import listening
from server.settings import Settings, SettingsError


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """For an empty library, on any port."""
    return Settings(port=0, media=tmp_path, database=f"sqlite+aiosqlite:///{tmp_path}/tracks.sqlite3")


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_port_in_use(settings: Settings) -> None:
    """The sentence names the flags, the place and the system's reason, and the signals are as before."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SettingsError) as caught:
            serve(settings.model_copy(update={"port": port}))
    assert str(caught.value) == (
        f"--port and --address must name a place that is free to listen on, not 127.0.0.1 port {port}: "
        "address already in use"
    )
    del caught
    gc.collect()  # Tornado leaves the socket that it could not bind open
    after = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    assert after == before


def test_no_descriptor_is_left(settings: Settings, expect_log: Callable[[str, int, str], None]) -> None:
    """Who waits is turned away and the log says so; with a descriptor free again clients are accepted."""
    expect_log("millrace", logging.ERROR, "no descriptor is left: clients are turned away")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        [ours] = stack.enter_context(listening(settings))
        clients = [stack.enter_context(socket.create_connection(ours.getsockname())) for _ in range(3)]
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (clients[-1].fileno() + 10, hard))
        with ExitStack() as full:
            with suppress(OSError):
                while True:
                    full.callback(os.close, os.open(os.devnull, os.O_RDONLY))
            for client in clients[:2]:
                with pytest.raises(BlockingIOError):
                    ours.accept()
                assert client.recv(1) == b""
        accepted, _ = ours.accept()
        accepted.close()
        with pytest.raises(BlockingIOError):
            ours.accept()
