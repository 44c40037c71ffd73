"""What a user of Millrace writes for the rows. `--streams` loads it, from where its database is."""

from collections.abc import AsyncGenerator
from pathlib import Path

from benchmarks.orders import COLUMNS, DATABASE, GENERATOR, TABLE, orders
from media.streams import StreamRequest, generated, rows


async def made(request: StreamRequest, *, rows: int = 1000) -> AsyncGenerator[dict[str, object], None]:
    """Orders, as many as you ask for."""
    for number, item, quantity, price, day in orders(rows):
        yield {"id": number, "item": item, "quantity": quantity, "price": price, "day": day}


STREAMS = {
    GENERATOR: generated(made, first="csv"),
    TABLE: rows(
        f"sqlite+aiosqlite:///{Path(__file__).with_name(DATABASE)}",
        f"SELECT {', '.join(COLUMNS)} FROM orders WHERE id <= :rows",
        key="id",
        title="Orders of the table, as many as you ask for",
        parameters={"rows": int},
    ),
}
