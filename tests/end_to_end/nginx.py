"""nginx as a process of its own, in front of a server."""

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.certificates import Pair
from tests.end_to_end.process import ROOT, program, surroundings, until

_DEBIAN = "/usr/sbin/nginx"  # where only root's PATH leads


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert isinstance(port, int)
        return port


def main_part(folder: Path) -> str:
    """What a configuration begins with, for a user who may not be root."""
    user = "user root;" if os.geteuid() == 0 else ""  # its workers read what only root may
    return f"worker_processes 2; daemon off; pid {folder}/pid; {user}"


def http_part(folder: Path) -> str:
    """What its `http` begins with."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)


def example(folder: Path, pair: Pair, behind: int, port: int) -> str:
    """examples/nginx.conf with this machine's ports and folders, for a user who is not root."""
    conf = (ROOT / "examples" / "nginx.conf").read_text()
    for there, here in {
        "worker_processes auto;": main_part(folder),
        "http {\n": f"http {{ {http_part(folder)}\n",
        "/var/log/nginx/millrace.log": f"{folder}/access.log",
        "server 127.0.0.1:8888;": f"server 127.0.0.1:{behind};",
        "listen 80;": f"listen 127.0.0.1:{free_port()};",
        "listen 443 ssl http2;": f"listen 127.0.0.1:{port} ssl http2;",
        "/etc/ssl/music/fullchain.pem": str(pair.certificate),
        "/etc/ssl/music/privkey.pem": str(pair.key),
        "alias /srv/music/;": f"alias {folder}/library/;",
    }.items():
        assert conf.count(there) == 1, there
        conf = conf.replace(there, here)
    return conf


@contextmanager
def nginx(folder: Path, conf: str, port: int, *, expected: str = "$^") -> Iterator[None]:
    """Run it until it is no longer needed, and hold it to a log without complaints.

    Args:
        conf: the whole configuration; it listens on `port`.
        expected: a regular expression of complaints that the test is about.
    """
    (folder / "nginx.conf").write_text(conf)
    program_ = _DEBIAN if os.access(_DEBIAN, os.X_OK) else program("nginx")
    with (folder / "nginx.log").open("wb") as log:
        process = subprocess.Popen(
            [program_, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")],
            env=surroundings(folder),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        until(lambda: process.poll() is not None or _listens(port), 10)
        assert process.poll() is None, (folder / "nginx.log").read_text()
        yield
    finally:
        process.terminate()
        process.wait(10)
    complaints = [
        line
        for line in (folder / "nginx.log").read_text().splitlines()
        if re.search(r"\[(warn|error|crit|alert|emerg)\]", line)
        # Newer ones want `http2 on`, which 1.22 does not know.
        and not re.search(f"http2. directive is deprecated|{expected}", line)
    ]
    assert not complaints


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True
