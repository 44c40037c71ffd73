"""Icecast: live audio in C, with threads of its own; its log as Millrace's, into a file."""

import os
from pathlib import Path

from benchmarks.peers import SOURCE_PASSWORD, Peer, program_path

# burst-size is Icecast's default. The places are those of Debian's package; "-" is stderr.
_CONFIGURATION = """
<icecast>
    <hostname>localhost</hostname>
    <limits>
        <clients>20000</clients>
        <sources>2</sources>
        <burst-size>65535</burst-size>
    </limits>
    <authentication>
        <source-password>{password}</source-password>
        <admin-user>admin</admin-user>
        <admin-password>{password}</admin-password>
    </authentication>
    <listen-socket><port>{port}</port><bind-address>127.0.0.1</bind-address></listen-socket>
    <paths>
        <logdir>{own}</logdir>
        <webroot>/usr/share/icecast2/web</webroot>
        <adminroot>/usr/share/icecast2/admin</adminroot>
    </paths>
    <logging><accesslog>-</accesslog><errorlog>-</errorlog><loglevel>2</loglevel></logging>
    <security><chroot>0</chroot>{changeowner}</security>
</icecast>
"""

_CHANGEOWNER = "<changeowner><user>nobody</user><group>nogroup</group></changeowner>"


def _command(folder: Path, port: int) -> list[str]:
    # Icecast does not run as root; told to, it becomes another user.
    changeowner = _CHANGEOWNER if os.geteuid() == 0 else ""
    own = folder.parent
    values = {"own": own, "port": port, "password": SOURCE_PASSWORD, "changeowner": changeowner}
    path = own / "icecast.xml"
    path.write_text(_CONFIGURATION.format(**values))
    return [program_path("icecast2"), "-c", str(path)]


PEER = Peer("icecast", "Icecast", _command, program="icecast2")
