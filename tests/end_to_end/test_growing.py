"""A log that is written, moved, cut and deleted meanwhile, as curl and an EventSource see it."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.end_to_end.conftest import Starter
from tests.end_to_end.process import Process, program, surroundings, until

pytestmark = pytest.mark.slow

ROUNDS = 3


class Writer:
    """A program that writes numbered lines to its log, and somebody who rotates it."""

    def __init__(self, path: Path, followed: Path) -> None:
        self.path, self.followed = path, followed
        self.number = 0
        self.log = path.open("ab", buffering=0)
        self.moves = 0

    def write(self, count: int) -> None:
        """So many lines, some of them in parts."""
        for _ in range(count):
            line = f"{self.number:06d} 바람이 불어오는 곳\n".encode()
            cut = self.number % len(line)
            self.log.write(line[:cut])
            self.log.write(line[cut:])
            self.number += 1

    def seen(self) -> None:
        """Wait until the follower has what there is: what is cut away before it is read nobody gets."""
        last = f"{self.number - 1:06d} 바람이 불어오는 곳\n".encode()
        until(lambda: last in self.followed.read_bytes(), 20)

    def renamed(self) -> None:
        """logrotate's `create`: the program writes on to what it has open until it is told."""
        self.moves += 1
        self.path.rename(self.path.with_name(f"log.{self.moves}"))
        self.path.touch()
        self.write(50)
        self.reopened()

    def copied(self) -> None:
        """logrotate's `copytruncate`."""
        self.moves += 1
        self.seen()
        shutil.copyfile(self.path, self.path.with_name(f"log.{self.moves}"))
        os.truncate(self.path, 0)

    def deleted(self) -> None:
        """And made again a moment later."""
        self.write(50)
        self.path.unlink()
        time.sleep(0.05)
        self.reopened()

    def begun_longer(self) -> None:
        """What is there when it is looked at is more than was before."""
        self.seen()
        os.truncate(self.path, 0)
        self.write(5000)

    def reopened(self) -> None:
        """The program opens its log anew."""
        self.log.close()
        self.log = self.path.open("ab", buffering=0)


def curl(folder: Path, url: str, out: Path) -> "subprocess.Popen[bytes]":
    """What comes is in `out`."""
    out.touch()
    command = [program("curl"), "-sSN", "--fail", url, "-o", str(out)]
    return subprocess.Popen(command, env=surroundings(folder), stdin=subprocess.DEVNULL)


def descriptors(server: Process) -> int:
    return len(os.listdir(f"/proc/{server.popen.pid}/fd"))  # noqa: PTH208


def test_a_log_that_is_rotated_in_every_way(start: Starter, library: Path, tmp_path: Path) -> None:
    """Each line arrives once and in order, as text and as events; a shutdown ends both bodies whole."""
    log = library / "app.log"
    log.touch()
    server = start("--media", str(library))
    before = descriptors(server)
    text, events = tmp_path / "text", tmp_path / "events"
    url = f"{server.url}/text/app.log?follow=1"
    clients = [curl(tmp_path, url, text), curl(tmp_path, f"{url}&format=sse", events)]
    try:
        writer = Writer(log, text)
        writer.write(100)
        writer.seen()
        until(lambda: "000099" in events.read_text(encoding="utf-8"), 20)
        for _ in range(ROUNDS):
            for rotate in (writer.renamed, writer.copied, writer.deleted, writer.begun_longer):
                rotate()
                writer.write(200)
        writer.seen()
        lines = [f"{number:06d} 바람이 불어오는 곳" for number in range(writer.number)]
        until(lambda: lines[-1] in events.read_text(encoding="utf-8"), 20)
        assert descriptors(server) <= before + 6  # two clients, the file, its folder's watch
        server.signal(signal.SIGTERM)
        assert [client.wait(20) for client in clients] == [0, 0]
    finally:
        for client in clients:
            client.kill()
            client.wait()
        writer.log.close()
    assert text.read_text(encoding="utf-8").splitlines() == lines
    told = events.read_text(encoding="utf-8")
    assert re.findall("data: ([0-9]{6} .*)\n", told) == lines
    causes = re.findall('event: rotated\nid: 0-[0-9a-f]{8}\ndata: {"cause":"(.*)"}\n', told)
    assert causes == ["replaced", "truncated"] * 2 * ROUNDS
