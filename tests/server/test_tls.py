"""TLS in the test's own process: which pairs are taken, and who may hold a connection open without a word.

tests/end_to_end/test_tls.py has the rest.
"""

import asyncio
import re
import shutil
import ssl
from contextlib import suppress
from pathlib import Path

import pytest
from tornado.httpserver import HTTPServer

from server import tls
from server.flags import read_settings
from server.lifecycle import run
from server.settings import Settings, SettingsError
from server.signals import Signals
from server.values import quoted
from tests.certificates import Pair, make_pair
from tests.server.test_settings import forbidden
from tests.serving import eventually

ENCRYPTED = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-passout", "pass:secret")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """Pairs of many kinds."""
    folder = tmp_path_factory.mktemp("pairs")
    return {
        "good": make_pair(folder / "good"),
        "other": make_pair(folder / "other"),
        "rsa": make_pair(folder / "rsa", "-newkey", "rsa:2048", "-noenc"),
        "weak": make_pair(folder / "weak", "-newkey", "rsa:1024", "-noenc"),
        "encrypted": make_pair(folder / "encrypted", *ENCRYPTED),
    }


@pytest.fixture
def settings(pairs: dict[str, Pair], tmp_path: Path) -> Settings:
    """With a good pair, which lies in files of the test's own."""
    pair = Pair(tmp_path / "certificate.pem", tmp_path / "key.pem")
    shutil.copy(pairs["good"].certificate, pair.certificate)
    shutil.copy(pairs["good"].key, pair.key)
    database = f"sqlite+aiosqlite:///{tmp_path}/tracks.sqlite3"
    return Settings(port=0, certificate=pair.certificate, key=pair.key, database=database)


def refusal(certificate: object, key: object) -> str:
    """The sentence that these two are refused with."""
    with pytest.raises(SettingsError) as caught:
        read_settings(["--certificate", str(certificate), "--key", str(key)])
    return str(caught.value)


def test_context_is_of_today(pairs: dict[str, Pair]) -> None:
    """TLS 1.2 at least, no compression, no renegotiation, the server's choice of ciphers."""
    for name in ("good", "rsa"):
        context = tls.load(pairs[name].certificate, pairs[name].key)
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        for option in (ssl.OP_NO_COMPRESSION, ssl.OP_NO_RENEGOTIATION, ssl.OP_CIPHER_SERVER_PREFERENCE):
            assert context.options & option


def test_certificate_that_is_none(pairs: dict[str, Pair], tmp_path: Path) -> None:
    """Missing, a folder, empty, a text, cut off, or the key in its place."""
    key = pairs["good"].key
    for path in (tmp_path / "missing", tmp_path, ""):
        assert refusal(path, key) == f'--certificate must be a file that exists, not "{path}"'
    whole = pairs["good"].certificate.read_text()
    for text in ("", "Hello.\n", "ümlaut\n", whole[:100], whole + whole[:100], key.read_text()):
        path = tmp_path / "certificate"
        path.write_text(text)
        assert refusal(path, key) == (
            "--certificate must be a file with a certificate in PEM, and its chain behind it, not "
            + quoted(str(path))
        )


def test_certificate_that_may_not_be_read(pairs: dict[str, Pair]) -> None:
    """Permission is told from absence."""
    pair = pairs["good"]
    with forbidden(pair.certificate.parent):
        sentence = refusal(pair.certificate, pair.key)
    assert sentence == f'--certificate must be a file that this user may read, not "{pair.certificate}"'


def test_key_that_does_not_belong(pairs: dict[str, Pair], tmp_path: Path) -> None:
    """Missing, no key, another's, one of another kind, one of a certificate that nobody would trust."""
    good = pairs["good"].certificate
    (tmp_path / "text").write_text("Hello.\n")
    rows = [
        (good, tmp_path / "missing", "a file that exists"),
        (good, tmp_path / "text", "a file with a private key in PEM"),
        (good, good, "a file with a private key in PEM"),
        (good, pairs["other"].key, f"the key of the certificate {good}"),
        (good, pairs["rsa"].key, f"the key of the certificate {good}"),
        (
            pairs["weak"].certificate,
            pairs["weak"].key,
            "the key of a stronger certificate (EE_KEY_TOO_SMALL)",
        ),
    ]
    for certificate, key, right in rows:
        assert refusal(certificate, key) == f'--key must be {right}, not "{key}"'


def test_key_with_a_passphrase_is_refused_and_nothing_is_asked(pairs: dict[str, Pair]) -> None:
    """A server that starts at night would wait for an answer."""
    pair = pairs["encrypted"]
    sentence = f'--key must be a private key without a passphrase, not "{pair.key}"'
    assert refusal(pair.certificate, pair.key) == sentence


def test_both_or_neither(pairs: dict[str, Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gives one of them wants TLS, and must not get plain HTTP."""
    together = "--key must be given together with --certificate"
    with pytest.raises(SettingsError, match=f"^{together}$"):
        read_settings(["--certificate", str(pairs["good"].certificate)])
    alone = f'--key must be the key of a certificate that --certificate names, not "{pairs["good"].key}"'
    with pytest.raises(SettingsError, match=f"^{re.escape(alone)}$"):
        read_settings(["--key", str(pairs["good"].key)])
    monkeypatch.setenv("MILLRACE_KEY", "nowhere")
    with pytest.raises(SettingsError, match=r'^MILLRACE_KEY must be a file that exists, not "'):
        read_settings(["--certificate", str(pairs["good"].certificate)])


def test_links_are_not_resolved(
    pairs: dict[str, Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ACME client renews by turning a link: its old target would be loaded for ever."""
    (tmp_path / "live").symlink_to(pairs["good"].certificate.parent)
    monkeypatch.chdir(tmp_path)
    settings = read_settings(["--certificate", "live/certificate.pem", "--key=live/key.pem"])
    assert settings.certificate == tmp_path / "live" / "certificate.pem"
    assert settings.key == tmp_path / "live" / "key.pem"


@pytest.mark.gen_test
async def test_renewal_that_fails_changes_nothing(
    settings: Settings, pairs: dict[str, Pair], caplog: pytest.LogCaptureFixture
) -> None:
    """One error in the log; the next renewal can succeed."""
    assert settings.certificate
    assert settings.key
    server = HTTPServer(lambda request: None)
    async with tls.speaking(server, settings.certificate, settings.key) as renew:
        first = server.ssl_options
        assert isinstance(first, ssl.SSLContext)
        shutil.copy(pairs["other"].certificate, settings.certificate)
        renew()
        sentence = "the certificate stays as it was: --key must be the key of the certificate"
        await eventually(lambda: sentence in caplog.text)
        assert server.ssl_options is first
        shutil.copy(pairs["other"].key, settings.key)
        renew()
        await eventually(lambda: server.ssl_options is not first)


@pytest.mark.gen_test(timeout=20)
async def test_pair_that_breaks_during_the_start(settings: Settings) -> None:
    """What was right when the settings were read is looked at again, and named."""
    assert settings.key
    settings.key.unlink()
    with Signals(60) as signals, pytest.raises(SettingsError, match=r"^--key must be a file that exists$"):
        await run(settings, signals)


@pytest.mark.slow
@pytest.mark.gen_test(timeout=30)
async def test_handshake_that_never_comes(
    settings: Settings,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Who connects and says nothing, or half of a hello, holds nobody up and is let go like a slow header."""
    settings = settings.model_copy(update={"idle_timeout": 1.0, "header_timeout": 1.0})
    trusting = ssl.create_default_context(cafile=settings.certificate)
    with Signals(60) as signals:
        serving = asyncio.create_task(run(settings, signals))
        said = ""

        def started() -> "re.Match[str] | None":
            nonlocal said
            said += capsys.readouterr().out
            return re.search(r" at https://127\.0\.0\.1:([0-9]+)/\n", said)

        await eventually(started, 20)
        line = started()
        assert line is not None
        silent = [await asyncio.open_connection("127.0.0.1", int(line[1])) for _ in range(20)]
        for _, writer in silent[10:]:
            writer.write(b"\x16\x03\x01\x02\x00\x01")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(line[1]), ssl=trusting)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert (await reader.read()).endswith(b"ok\n")
        for reader, other in silent[:10]:
            assert await reader.read() == b""
            other.close()
        for reader, other in silent[10:]:
            with suppress(ConnectionResetError):
                assert await reader.read() == b""
            other.close()
        writer.close()
        signals.asked.set()
        await serving
