"""Titles between the bytes of live audio, for players that ask for them with `Icy-MetaData: 1`."""

from media.live import Mount, Playing


class IcyBlocks:
    """Puts titles between the bytes of one listener: a block after each `INTERVAL` bytes.

    A block is its length in units of 16 bytes, and as many bytes of text; a single zero says that nothing has
    changed (as SHOUTcast began it and Icecast does it; there is no standard).
    """

    INTERVAL = 16_000

    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        self._until = self.INTERVAL
        self._told: Playing | None = None

    def __call__(self, run: bytes) -> bytes:
        """The same bytes with the blocks that are due."""
        if len(run) < self._until:
            self._until -= len(run)
            return run
        parts: list[bytes] = []
        start = 0
        while len(run) - start >= self._until:
            parts += run[start : start + self._until], self._block()
            start += self._until
            self._until = self.INTERVAL
        self._until -= len(run) - start
        return b"".join([*parts, run[start:]])

    def _block(self) -> bytes:
        playing = self._mount.playing
        if playing == self._told:
            return b"\0"
        self._told = playing
        # A quote is not escaped by anybody: players look for the first one with a semicolon behind it.
        title, link = (text.replace("';", "' ;") for text in (playing.title, playing.link))
        text = f"StreamTitle='{title}';" + (f"StreamUrl='{link}';" if link else "")
        encoded = text.encode()  # at most 4028 bytes of the 4080 that fit, by TITLE_CHARACTERS
        units = (len(encoded) + 15) // 16
        return bytes([units]) + encoded.ljust(units * 16, b"\0")
