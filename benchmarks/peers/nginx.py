"""nginx as it serves files in production: sendfile, one worker, and no log."""

import os
import pwd
from pathlib import Path

from benchmarks.peers import TINY, Peer, program_path

# tcp_nopush off: with it a 64 KiB range stalls 43 ms over loopback. keepalive_requests: a client here asks
# more often than the 1000 times after which nginx would close its connection. _temp_path: the places that
# are compiled in belong to root.
_CONFIGURATION = """
{modules}
daemon off;
worker_processes 1;
pid {own}/nginx.pid;
error_log stderr;
{user}
events {{ worker_connections 16384; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush off;
    open_file_cache off;
    keepalive_requests 1000000000;
    types {{ audio/x-wav wav; text/plain txt; }}
    client_body_temp_path {own}/nginx_body;
    proxy_temp_path {own}/nginx_proxy;
    fastcgi_temp_path {own}/nginx_fastcgi;
    uwsgi_temp_path {own}/nginx_uwsgi;
    scgi_temp_path {own}/nginx_scgi;
    server {{
        listen 127.0.0.1:{port};
        root {folder};
        {locations}
    }}
}}
"""

_TINY = f'location = /tiny {{ default_type text/plain; return 200 "{TINY}"; }}'


def command(folder: Path, port: int, modules: str = "", locations: str = _TINY) -> list[str]:
    """nginx with the configuration that this makes in the folder's parent."""
    # Started by root, a worker would become a user who may not read a temporary folder.
    user = f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""
    own = folder.parent
    path = own / "nginx.conf"
    places = {"own": own, "user": user, "port": port, "folder": folder}
    path.write_text(_CONFIGURATION.format(modules=modules, locations=locations, **places))
    return [program_path("nginx"), "-c", str(path), "-p", str(own), "-e", "stderr"]


PEER = Peer("nginx", "nginx", command, program="nginx")
