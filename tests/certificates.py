"""Certificates for the tests, made by Debian's openssl."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.process import program


@dataclass(frozen=True)
class Pair:
    """A certificate that signs itself, for 127.0.0.1 and localhost, and its key: files in PEM."""

    certificate: Path
    key: Path

    @property
    def flags(self) -> tuple[str, str, str, str]:
        """As they stand on the command line."""
        return "--certificate", str(self.certificate), "--key", str(self.key)

    def trusting(self) -> ssl.SSLContext:
        """A client's context that trusts this certificate and no other."""
        return ssl.create_default_context(cafile=str(self.certificate))


def make_pair(folder: Path, *more: str) -> Pair:
    """A new pair in `folder`, over the one that is there. `more` are options of `openssl req`."""
    folder.mkdir(exist_ok=True)
    pair = Pair(folder / "certificate.pem", folder / "key.pem")
    command = "req -x509 -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
    kind = more or ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")
    files = ("-keyout", str(pair.key), "-out", str(pair.certificate))
    subprocess.run((program("openssl"), *command.split(), *kind, *files), check=True, capture_output=True)
    return pair
