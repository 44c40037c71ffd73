"""TLS: the certificate and its key, loaded at start and again on SIGHUP.

A pair is always loaded into a context of its own, which new connections then get: one that turns out to be
broken changes nothing, and open connections go on with what they have. Sessions are resumed (OpenSSL's
tickets) only within one context, so that everybody who connects after a renewal is shown the new certificate.
"""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tornado.httpserver import HTTPServer

from handlers.encrypted import EncryptedSocket

log = logging.getLogger("millrace.tls")

# In OpenSSL's words: a key of another certificate, or of another kind; a certificate that is too weak.
_STRANGERS = {"KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}
_WEAK = {"EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"}


class PairError(ValueError):
    """The pair cannot be used. The text is what `setting`, "certificate" or "key", would have to be."""

    def __init__(self, setting: str, right: str) -> None:
        super().__init__(right)
        self.setting = setting


class _Context(ssl.SSLContext):
    """Makes EncryptedSockets."""

    sslsocket_class = EncryptedSocket

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        """Raises ssl.SSLEOFError where the client has gone already: there Tornado closes without a word."""
        try:
            return super().wrap_socket(*args, **kwargs)
        except OSError as error:
            raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, str(error)) from error


def load(certificate: Path, key: Path) -> ssl.SSLContext:
    """A server's context with this pair: TLS 1.2 or newer, HTTP/1.1.

    Reads two files and blocks meanwhile. A key with a passphrase is refused, and nothing is asked for.

    Raises:
        PairError: a file cannot be read, is not what it should be, or the two do not belong together.
    """
    context = _Context(ssl.PROTOCOL_TLS_SERVER)  # server's preference of ciphers, no compression
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    check_certificate(certificate)
    _read("key", key)
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except PairError:
        raise
    except ssl.SSLError as error:
        if error.reason in _STRANGERS:
            raise PairError("key", f"the key of the certificate {certificate}") from error
        if error.reason in _WEAK:
            raise PairError("key", f"the key of a stronger certificate ({error.reason})") from error
        raise PairError("key", "a file with a private key in PEM") from error
    except OSError as error:  # changed or gone meanwhile
        raise PairError("key", "a file that can be read") from error
    return context


def check_certificate(path: Path) -> None:
    """Look at the certificate alone: of a broken pair OpenSSL would not say which of the two it is.

    Raises:
        PairError: it cannot be read, or is none.
    """
    text = _read("certificate", path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError) as error:  # ValueError: it is empty
        raise PairError("certificate", "a file with a certificate in PEM, and its chain behind it") from error


@asynccontextmanager
async def speaking(server: HTTPServer, certificate: Path, key: Path) -> AsyncIterator[Callable[[], None]]:
    """Have `server` speak TLS. Gives what loads the pair again, to be called in the loop.

    A pair that cannot be loaded then is an error in the log, and the one before stays in use.

    Raises:
        PairError: it cannot be loaded now.
    """
    asked = asyncio.Event()

    async def renew() -> None:
        while True:
            await asked.wait()
            asked.clear()
            try:
                server.ssl_options = await asyncio.to_thread(load, certificate, key)
            except PairError as error:
                log.error("the certificate stays as it was: --%s must be %s", error.setting, error)
            else:
                log.info("the certificate was loaded again")

    server.ssl_options = await asyncio.to_thread(load, certificate, key)
    task = asyncio.create_task(renew(), name="the renewal of the certificate")
    try:
        yield asked.set
    finally:
        task.cancel()
        await asyncio.wait({task})


def _read(setting: str, path: Path) -> str:
    """The PEM file; what is not ASCII in it is a comment."""
    try:
        if not path.is_file():  # nor a pipe, which would be waited for
            raise PairError(setting, "a file that exists")
        return path.read_text(encoding="ascii", errors="ignore")
    except OSError as error:
        raise PairError(setting, "a file that this user may read") from error


def _no_passphrase() -> str:
    raise PairError("key", "a private key without a passphrase")
