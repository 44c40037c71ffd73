"""nginx with the module nchan, which fans out events in C: one worker, no log.

The module is loaded by the configuration made here, so nginx without it is as it was.
"""

from pathlib import Path

from benchmarks.peers import EVENTS, Peer
from benchmarks.peers import nginx as nginx_peer

MODULE = "/usr/lib/nginx/modules/ngx_nchan_module.so"
"""Of Debian's package libnginx-mod-nchan."""

# newest: else a subscriber begins with what is in the buffer. A thousand messages, as Millrace keeps them.
_LOCATIONS = f"""
        location = {EVENTS} {{
            nchan_publisher http;
            nchan_subscriber eventsource;
            nchan_channel_id bench;
            nchan_subscriber_first_message newest;
            nchan_message_buffer_length 1000;
            nchan_eventsource_ping_interval 15;
        }}
"""


def _command(folder: Path, port: int) -> list[str]:
    return nginx_peer.command(folder, port, f"load_module {MODULE};", _LOCATIONS)


PEER = Peer("nchan", "nginx with nchan", _command, program="nginx", file=MODULE)
