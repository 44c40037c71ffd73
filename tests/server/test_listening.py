"""The sockets that the process listens on."""

import gc
import signal
import socket
from pathlib import Path

import pytest

from server.lifecycle import serve
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
