"""run.py: what it says, where, and with which exit code."""

import logging
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import run
from server import lifecycle
from server.flags import read_settings
from server.settings import Settings, SettingsError


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """What `main` does to the signals ends with the test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def main(monkeypatch: pytest.MonkeyPatch, *flags: str) -> int:
    """The exit code of `run.py` with these flags."""
    monkeypatch.setattr(sys, "argv", ["run.py", *flags])
    return run.main()


def test_wrong_setting(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence on stderr, nothing on stdout, exit code 2."""
    assert main(monkeypatch, "--port", "many") == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", 'millrace: --port must be a whole number from 0 to 65535, not "many"\n')


def test_settings_reach_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's exit code is the process's, before it Ctrl-C ends, and behind it no signal does."""
    seen: list[Settings] = []

    def serve(settings: Settings) -> int:
        seen.append(settings)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        return 0

    monkeypatch.setattr(lifecycle, "serve", serve)
    assert main(monkeypatch, "--port", "0", "--log-level", "error") == 0
    assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    assert [(settings.port, settings.log_level) for settings in seen] == [(0, "error")]


def test_refusal_of_the_server(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What the server finds wrong is said like a wrong setting."""

    def serve(settings: Settings) -> int:
        raise SettingsError("--port must be another")

    monkeypatch.setattr(lifecycle, "serve", serve)
    assert main(monkeypatch) == 2
    assert capsys.readouterr() == ("", "millrace: --port must be another\n")


def test_log_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """--log-level is the root logger's."""
    levels: list[object] = []
    monkeypatch.setattr(logging, "basicConfig", lambda **options: levels.append(options["level"]))
    monkeypatch.setattr(lifecycle, "serve", lambda settings: 0)
    main(monkeypatch, "--log-level", "warning")
    assert levels == ["WARNING"]


def test_systemd_example_can_start(tmp_path: Path) -> None:
    """The flags of examples/millrace.service exist, but for its folder they are right."""
    unit = (Path(__file__).parents[2] / "examples" / "millrace.service").read_text()
    found = re.search(r"^ExecStart=\S+ /opt/millrace/run\.py (.*)$", unit, re.MULTILINE)
    assert found is not None
    settings = read_settings(found[1].replace("/srv/music", str(tmp_path)).split())
    assert settings.media == tmp_path.resolve()
