"""Streams of one's own, one of each kind: `python run.py --streams examples/my_streams.py`.

docs/own_streams.md says what there is to know of them.
"""

import asyncio
import math
import os
import struct
import time

from media.streams import channel, file, generated, relay, rows, shared, template

RATE = 8000


async def ticks(request, *, every: float = 1.0):
    """The time, once a second or as often as you ask."""
    while True:
        yield {"time": time.time()}
        await asyncio.sleep(every)


async def prices(request):
    """One price for all who look at it."""
    price = 100.0
    while True:
        price *= 1 + math.sin(time.time()) / 100
        yield {"price": round(price, 2)}
        await asyncio.sleep(0.5)


async def count(request, *, most: int = 20):
    """Work that goes on when nobody looks: POST starts it."""
    for done in range(1, most + 1):
        await asyncio.sleep(0.05)
        yield {"done": done, "of": most}


async def sales(request, *, hours: int = 24):
    """The rows of the report."""
    for hour in range(hours):
        await asyncio.sleep(0.05)
        yield {"hour": hour, "total": hour * 7 % 10}


def tone(request, *, seconds: float = 2.0, hertz: float = 440.0):
    """A tone, as bytes of a type of their own; in a thread, as it does nothing but compute."""
    samples = int(seconds * RATE)
    yield struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + 2 * samples, b"WAVE", b"fmt ", 16, 1, 1, RATE,
                      2 * RATE, 2, 16, b"data", 2 * samples)  # fmt: skip
    for sample in range(samples):
        yield struct.pack("<h", int(10000 * math.sin(2 * math.pi * hertz * sample / RATE)))


STREAMS = {
    "ticks": generated(ticks, live=True),
    "prices": shared(prices, history=1000),
    "count": shared(count, detached=True, keep=600),
    "news": channel(history=10_000),
    "orders.csv": rows(
        "sqlite+aiosqlite://",
        "WITH RECURSIVE n(id) AS (VALUES (1) UNION ALL SELECT id + 1 FROM n WHERE id < 10000)"
        " SELECT id, 'Order ' || id AS name, id * 7919 % 100 AS quantity FROM n",
        key="id",
    ),
    "report.html": template("report.html", rows=sales),
    "tone.wav": generated(tone, media_type="audio/wav"),
    "my_streams.py": file(__file__),
    "weather": relay(os.environ.get("WEATHER_URL", "https://wttr.in/Seoul?format=j1")),
}
