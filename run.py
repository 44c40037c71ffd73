"""Read the settings, run the server."""

import os
import signal
import sys


def main() -> int:
    """Exit code 0 after an orderly end, 2 when a setting is wrong."""
    _occupy_standard_descriptors()
    # While the modules are loaded, which takes most of a second: Ctrl-C ends without a traceback, and who
    # reloads us right after our start does not kill us. The server's own handlers follow.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from server.flags import read_settings
    from server.lifecycle import serve
    from server.log import start_log
    from server.settings import SettingsError

    try:
        settings = read_settings(sys.argv[1:])
        start_log(settings.log_level, settings.processes)
        code = serve(settings)
        # Asked once more while the interpreter closes, it ends with this code all the same.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        return code
    except SettingsError as error:
        print(f"millrace: {error}", file=sys.stderr)  # noqa: T201, for the person
        return 2


def _occupy_standard_descriptors() -> None:
    """Open /dev/null in place of stdin, stdout and stderr where they are closed.

    A socket would get their number, and what a library says to stderr. libuv aborts when it is to close one.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free is this


if __name__ == "__main__":
    sys.exit(main())
