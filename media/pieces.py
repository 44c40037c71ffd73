"""Live audio in pieces that are never cut: what a parser makes of the chunks that arrive.

A listener may begin at any piece that says so. Parsers are pure: bytes in, pieces out.
Nothing is decoded, and nothing is changed: the pieces are the bytes as they came, without what is no audio.
The parsers: `frames`, `ogg`, `webm`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

PENDING_BYTES = 1024 * 1024
"""The most that a parser keeps of what came: a WebM cluster of some seconds, Ogg headers with a cover."""

TITLE_CHARACTERS = 500
"""The longest title that is passed on; what is longer is cut."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of live audio that is never cut: a frame, a page, a block.

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


class PendingParser:
    """A parser that keeps what has come until a piece of it is whole. A subclass has `_pieces`."""

    def __init__(self) -> None:
        self._pending = bytearray()
        self._failure = ""

    def feed(self, data: bytes) -> list[Piece]:
        """As Parser has it. What comes before a mistake is returned; the next call raises."""
        pieces: list[Piece] = []
        self._pending += data
        try:
            if not self._failure:
                for piece in self._pieces():  # one by one: what came before a mistake is kept
                    pieces.append(piece)
        except FormatError as error:
            self._failure = str(error)
        if self._failure:
            self._pending.clear()
            if not pieces:
                raise FormatError(self._failure)
        return pieces

    def _pieces(self) -> Iterator[Piece]:
        """Those that are whole, taken out of what is pending.

        Raises:
            FormatError: what follows is no piece.
        """
        raise NotImplementedError
