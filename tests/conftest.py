"""What every test has: a loop of its own, and a failure for what nobody would look for.

A blocking call on the loop, a task or a socket that is left behind, a log line that nobody expected.
`--way` has all servers work in another way than the usual one.
"""

import asyncio
import gc
import logging
from collections.abc import Callable, Iterator

import pytest
import uvloop
from blockbuster import blockbuster_ctx
from tornado.ioloop import IOLoop

from handlers import outgoing
from media.parameters import Declared
from tests.end_to_end.process import Process
from tests.postgresql import PostgreSQL

WAYS = {
    "reads": ("--sendfile", "off"),
    "uvloop": ("--loop", "uvloop"),
    "processes": ("--processes", "2"),
}
"""What a server process is told besides. One in a test's own process has the test's loop, and sends files as
`outgoing.SUPPORTED` says."""

ANSWERED_AT_ONCE = ("os.readlink", "os.path.abspath", "os.getcwd")
"""What the kernel answers from memory is no blocking call, and realpath is made of it. `open`, `fstat`,
`lstat` and `preadv` blockbuster does not look at."""

ExpectLog = Callable[[str, int, str], None]
"""Announces a log line: its logger, its level, and what its text, traceback included, holds."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--way", choices=[*WAYS], help="have every server work in another way than usual")


def pytest_configure(config: pytest.Config) -> None:
    way = config.getoption("way")
    Process.way = WAYS.get(way, ())
    if way == "reads":
        outgoing.SUPPORTED = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is about another way: `@pytest.mark.left_out(way, ..., reason=...)`."""
    way = config.getoption("way")
    left_out = [item for item in items if any(way in mark.args for mark in item.iter_markers("left_out"))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session", autouse=True)
def _modules_are_no_garbage() -> None:
    """What was imported is left out of the collection that ends each test: 3 ms instead of 40."""
    Declared({})  # pydantic looks for plugins on the disk at its first model, which a user's module makes
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A database server, started by the first test that asks for it: 0.6 s."""
    server = PostgreSQL()
    yield server
    server.stop()


@pytest.fixture
def io_loop(pytestconfig: pytest.Config) -> Iterator[IOLoop]:
    """The loop of one test. pytest-tornado's own fixture asks for the current loop, which is deprecated.

    A task that still runs when the test has ended is a failure; so is a socket that nobody closed.
    """
    library = uvloop if pytestconfig.getoption("way") == "uvloop" else asyncio
    loop = IOLoop(make_current=False, asyncio_loop=library.new_event_loop())
    asyncio.set_event_loop(loop.asyncio_loop)
    yield loop
    left = loop.asyncio_loop.run_until_complete(_tasks_left())
    asyncio.set_event_loop(None)
    loop.close()
    gc.collect()  # an open socket warns here, and not in another test
    assert not left, f"left running: {left}"


async def _tasks_left() -> list[str]:
    """The tasks that go on although they had a second to end. Nothing of the loop is in use afterwards."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    if tasks:
        _, tasks = await asyncio.wait(tasks, timeout=1)
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=1)
    loop = asyncio.get_running_loop()
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()
    return [repr(task) for task in tasks]


@pytest.fixture(autouse=True)
def _no_blocking_calls() -> Iterator[None]:
    """A call of ours that blocks the loop raises BlockingError. What tests do themselves is let pass."""
    with blockbuster_ctx(["handlers", "media", "server"]) as blockbuster:
        for name in ANSWERED_AT_ONCE:
            blockbuster.functions[name].deactivate()
        blockbuster.functions["os.stat"].can_block_in("pathlib.py", "resolve")
        # Looks for ~/.pgpass.
        blockbuster.functions["os.stat"].can_block_in("asyncpg/connect_utils.py", "_read_password_file")
        blockbuster.functions["os.stat"].can_block_in("jinja2/loaders.py", "uptodate")  # of an include
        # What the page cache has, and a socket that does not block.
        blockbuster.functions["os.sendfile"].can_block_in("handlers/outgoing.py", "_sendfile")
        # Under --cov the tracer takes a lock of its own in whatever it traces.
        blockbuster.functions["threading.Lock.acquire"].can_block_in("coverage/collector.py", "lock_data")
        yield


@pytest.fixture(autouse=True)
def expect_log(request: pytest.FixtureRequest) -> Iterator[ExpectLog]:
    """A log line of level WARNING or above fails the test, unless it was announced; so does one that fails
    to come. A test that has `caplog` looks for itself."""
    records: list[logging.LogRecord] = []
    expected: list[tuple[str, int, str]] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    yield lambda *line: expected.append(line)
    logging.getLogger().removeHandler(handler)
    form = logging.Formatter("%(name)s %(levelname)s %(message)s")
    unmet = list(expected)
    for record in records:
        text = form.format(record)
        met = [line for line in expected if line[:2] == (record.name, record.levelno) and line[2] in text]
        assert met or "caplog" in request.fixturenames, f"nobody expected: {text}"
        unmet = [line for line in unmet if line not in met]
    assert not unmet, f"expected in the log, and not there: {unmet}"


class AccessLog:
    """The lines of the access log so far: one a response, in the order in which they ended."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def endings(self) -> list[tuple[str, int]]:
        """Of each response its outcome and the bytes of its body."""
        return [(outcome, int(length)) for outcome, length in map(self._ending, self.lines)]

    @staticmethod
    def _ending(line: str) -> tuple[str, str]:
        _, outcome, length, _ = line.rpartition(" first ")[0].rsplit(" ", 3)
        return outcome, length


@pytest.fixture
def access_log() -> Iterator[AccessLog]:
    """What the access log says meanwhile."""
    access = AccessLog()
    handler = logging.Handler()
    handler.emit = lambda record: access.lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("millrace.access")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield access
    logger.removeHandler(handler)
    logger.setLevel(level)
