"""What a module of streams of one's own is written with (docs/own_streams.md).

from media.streams import generated

async def ticks(request, *, every: float = 1.0):
    ...

STREAMS = {"ticks": generated(ticks)}
"""

from media.generated import Stream, StreamRequest, generated
from media.records import Event
from media.rows import rows
from media.shared import shared
from media.source import BadRequest, Busy, NotFound
from media.subscriptions import ChannelRow, channel
from media.tail import file
from media.templating import template

__all__ = [
    "BadRequest",
    "Busy",
    "ChannelRow",
    "Event",
    "NotFound",
    "Stream",
    "StreamRequest",
    "channel",
    "file",
    "generated",
    "rows",
    "shared",
    "template",
]
