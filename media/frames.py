"""Live audio in pieces that are never cut: what arrives in any chunks, as frames, pages and clusters.

A listener may begin at any piece that says so. Pure: bytes in, pieces out.
Nothing is decoded, and nothing is changed: the pieces are the bytes as they came, without what is no audio.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

PENDING_BYTES = 1024 * 1024
"""The most that a parser keeps of what came: a WebM cluster of some seconds, Ogg headers with a cover."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of live audio that is never cut: a frame, a page, a cluster.

    Args:
        data: the bytes as they came.
        seconds: how long they play.
        head: what a listener who begins here has to get in front of it (decoder headers); b"": nothing;
            None: nobody can begin here.
        title: what the stream itself says is playing from here on (Ogg comments); None: it does not say.
    """

    data: bytes
    seconds: float
    head: bytes | None = b""
    title: str | None = None


class FormatError(Exception):
    """What came is not of the format that was announced.

    The text is for the client: what was wrong and what would be right.
    """


class Parser(Protocol):
    """Bytes of one stream as they come, in pieces. One for each source; of no use after a FormatError."""

    def feed(self, data: bytes) -> list[Piece]:
        """The pieces that `data` makes whole, in order; they do not depend on where the chunks end.

        Raises:
            FormatError: this is another format, or more than PENDING_BYTES would have to be kept.
        """


def parser(media_type: str) -> Parser:
    """A new parser for this media type; its parameters and its case do not matter.

    Raises:
        ValueError: there is none; the text names those that there are.
    """
    make = PARSERS.get(media_type.partition(";")[0].strip().lower())
    if make is None:
        raise ValueError(f"{media_type!r} is none of {', '.join(PARSERS)}")
    return make()


# Media type → a new parser. Files that import from this one are imported by a function, when first asked for.
PARSERS: dict[str, Callable[[], Parser]] = {}
