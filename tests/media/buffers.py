"""A buffer for tests, and what it makes of a function's items."""

from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from media.functions import Call
from media.generated import StreamRequest
from media.producing import BUFFER_BYTES

REQUEST = StreamRequest()


class Items:
    """A buffer that keeps what it is given; full at `most`."""

    def __init__(self, most: int = 1000) -> None:
        self.items: list[Any] = []
        self.most = most

    def add(self, item: Any) -> int:
        """One more."""
        self.items.append(item)
        return BUFFER_BYTES if len(self.items) >= self.most else 0

    def take(self) -> list[list[Any]]:
        """As one, to be seen how they were gathered."""
        taken, self.items = self.items, []
        return [taken] if taken else []


async def all_of(function: Callable[..., Any], request: StreamRequest = REQUEST) -> list[Any]:
    """The items, as they were gathered, joined."""
    async with aclosing(Call(function).gathered(request, Items())) as taken:
        return [item for buffer in [buffer async for buffer in taken] for item in buffer]
