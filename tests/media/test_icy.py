"""Titles between the bytes: where the blocks stand, and what a stranger's title may do."""

import random
import re
from collections.abc import Callable

import pytest

from media.channel import Ids
from media.icy import IcyBlocks
from media.live import Mount, Playing
from media.pieces import TITLE_CHARACTERS


class Radio:
    """Takes the blocks out again, as players do: the titles where they stood, and the sound."""

    def __init__(self) -> None:
        self.sound = b""
        self.titles: list[tuple[int, str]] = []

    def take(self, received: bytes) -> None:
        """All that was sent."""
        while len(received) > IcyBlocks.INTERVAL:
            self.sound += received[: IcyBlocks.INTERVAL]
            length = received[IcyBlocks.INTERVAL] * 16
            block = received[IcyBlocks.INTERVAL + 1 : IcyBlocks.INTERVAL + 1 + length]
            assert len(block) == length
            received = received[IcyBlocks.INTERVAL + 1 + length :]
            if length:
                text = block.rstrip(b"\0")
                assert length - len(text) < 16
                self.titles.append((len(self.sound), text.decode()))
        self.sound += received


def a_mount(play: Callable[[int, Mount], None], runs: list[bytes]) -> bytes:
    """The runs with their blocks; `play(number, mount)` is called before each."""
    mount = Mount("a", Ids(), burst_seconds=5, grace_seconds=10)
    own = IcyBlocks(mount)
    sent = []
    for number, run in enumerate(runs):
        play(number, mount)
        sent.append(own(run))
    return b"".join(sent)


@pytest.mark.parametrize("sizes", [[100_000], [1] * 20_000, [15_999, 1, 1, 15_999], [16_000] * 3, [48_000]])
def test_blocks_stand_after_each_interval(sizes: list[int]) -> None:
    """However the bytes come; the first says what plays, and then a zero says that nothing has changed."""
    runs = [random.randbytes(size) for size in sizes]
    sent = a_mount(lambda number, mount: mount.play(Playing("A title")), runs)
    radio = Radio()
    radio.take(sent)
    sound = b"".join(runs)
    blocks = len(sound) // IcyBlocks.INTERVAL
    text = b"StreamTitle='A title';"
    assert len(sent) == len(sound) + blocks + (-(-len(text) // 16) * 16 if blocks else 0)
    assert radio.sound == sound or sent == sound + sent[len(sound) :]
    assert radio.titles in ([], [(IcyBlocks.INTERVAL, text.decode())])


def test_a_title_comes_with_the_next_block() -> None:
    """Each change once, and its address beside it."""

    def play(number: int, mount: Mount) -> None:
        if number in (1, 3):
            mount.play(Playing(f"Title {number}", "http://example.org/" if number == 3 else ""))

    radio = Radio()
    radio.take(a_mount(play, [bytes(16_000)] * 6 + [b"."]))
    assert radio.titles == [
        (16_000, "StreamTitle='';"),
        (32_000, "StreamTitle='Title 1';"),
        (64_000, "StreamTitle='Title 3';StreamUrl='http://example.org/';"),
    ]


@pytest.mark.parametrize(
    "title",
    [
        "It's",
        "'",
        "''",
        "a';b",
        "';StreamUrl='http://evil';",
        "a;b",
        "\u0414\u043e\u0436\u0434\u044c 🎵",
        "🎵" * 5000,
    ],
)
def test_a_hostile_title_stays_one(title: str) -> None:
    """A player reads to the first quote with a semicolon behind it: there is none before the end."""

    def play(number: int, mount: Mount) -> None:
        mount.play(Playing(title, "🎵" * 5000))

    radio = Radio()
    radio.take(a_mount(play, [bytes(16_001)]))
    ((_, block),) = radio.titles
    found = re.match("StreamTitle='(.*?)';StreamUrl='(.*?)';$", block)
    assert found is not None
    assert found[1].replace("' ;", "';") == title[:TITLE_CHARACTERS]
    assert found[2] == "🎵" * TITLE_CHARACTERS
