"""A text that lies coded beside itself, through a real server: when it is sent, and as what."""

import gzip
import json
import os
from pathlib import Path

import pytest

from tests.serving import Response, Server, serving

TEXT = "".join(f"{number} 물레방아 turns\n" for number in range(9000)).encode()
GZIP = gzip.compress(TEXT)
# Nothing here decodes them: they are bytes like any others.
BROTLI, ZSTD = b"\x8b brotli" * 1000, b"\x28\xb5\x2f\xfd zstd" * 1000
ALL = "gzip, deflate, br, zstd"


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """One text, in every coding, all of the same second."""
    root = tmp_path / "library"
    root.mkdir()
    contents = {"song.txt": TEXT, "song.txt.gz": GZIP, "song.txt.br": BROTLI, "song.txt.zst": ZSTD}
    for name, content in contents.items():
        (root / name).write_bytes(content)
        touch(root / name, 0.5 if name == "song.txt" else 0)
    return root


def touch(path: Path, seconds: float) -> None:
    """Say that it was changed so long after the first."""
    at = round((1_800_000_000 + seconds) * 1e9)
    os.utime(path, ns=(at, at))


async def song(server: Server, accept_encoding: str = "gzip", query: str = "", **headers: str) -> Response:
    """The text, as a client gets it that takes these codings."""
    return await server.get(f"/text/song.txt{query}", accept_encoding=accept_encoding, **headers)


@pytest.mark.parametrize(
    ("accept_encoding", "coding", "body"),
    [
        (ALL, "br", BROTLI),
        ("gzip, zstd", "zstd", ZSTD),
        ("gzip", "gzip", GZIP),
        ("gzip, br;q=0.5", "gzip", GZIP),
        ("br;q=0, gzip;q=0.5, *;q=0.1", "gzip", GZIP),
        ("identity", None, TEXT),
        ("deflate", None, TEXT),
        ("", None, TEXT),
    ],
)
@pytest.mark.parametrize("compression", [0, 4])
@pytest.mark.gen_test
async def test_the_best_that_is_taken_is_sent(
    library: Path, accept_encoding: str, coding: str | None, body: bytes, compression: int
) -> None:
    """As the file that it is, whatever is coded on the way."""
    async with serving(library, scan=False, compression=compression) as server:
        response = await song(server, accept_encoding)
        head = await server.get("/text/song.txt", "HEAD", accept_encoding=accept_encoding)
    assert response.headers.get("Content-Encoding") == coding
    assert response.body == body
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert response.headers["Vary"] == "Accept, Accept-Encoding"
    assert response.headers["Accept-Ranges"] == "bytes"
    assert response.headers["Content-Length"] == str(len(body))
    for response in (response, head):  # noqa: B020, both
        del response.headers["Date"], response.headers["X-Request-Id"]
    assert head.headers == response.headers


@pytest.mark.gen_test
async def test_a_sidecar_is_a_representation_of_its_own(library: Path) -> None:
    """A strong tag, and ranges and conditions of its own bytes."""
    async with serving(library, scan=False) as server:
        tags = {coding: (await song(server, coding)).headers["ETag"] for coding in ("identity", "gzip", "br")}
        assert len(set(tags.values())) == 3
        assert not any(tag.startswith("W/") for tag in tags.values())
        part = await song(server, range="bytes=10-99", if_range=tags["gzip"])
        assert (part.status, part.body) == (206, GZIP[10:100])
        assert part.headers["Content-Range"] == f"bytes 10-99/{len(GZIP)}"
        assert part.headers["Content-Encoding"] == "gzip"
        other = await song(server, range="bytes=10-99", if_range=tags["identity"])
        assert (other.status, other.body) == (200, GZIP)
        beyond = await song(server, range=f"bytes={len(GZIP)}-")
        assert beyond.status == 416
        for coding, tag, status in (
            ("gzip", tags["gzip"], 304),
            ("identity", tags["identity"], 304),
            ("gzip", tags["identity"], 200),
            ("br, gzip", tags["gzip"], 200),
        ):
            response = await song(server, coding, if_none_match=tag)
            assert response.status == status
            assert response.headers["Vary"] == "Accept, Accept-Encoding"


@pytest.mark.parametrize(
    "query", ["?format=sse", "?pace=0.00001", "?encoding=latin-1"], ids=["events", "paced", "decoded"]
)
@pytest.mark.gen_test
async def test_only_of_the_text_as_it_is(library: Path, query: str) -> None:
    """What is made of a text on its way is not what lies beside it."""
    async with serving(library, scan=False, compression=0) as server:
        response = await song(server, ALL, query)
    assert response.status == 200
    assert "Content-Encoding" not in response.headers
    assert response.body not in (GZIP, BROTLI, ZSTD)


@pytest.mark.gen_test
async def test_one_that_is_older_is_of_another_text(library: Path) -> None:
    """By whole seconds: brotli copies a file's time without the rest."""
    async with serving(library, scan=False, compression=0) as server:
        for seconds, body in ((0.0, GZIP), (0.9, GZIP), (1.0, TEXT)):
            touch(library / "song.txt", seconds)
            assert (await song(server)).body == body


@pytest.mark.parametrize("what", ["missing", "empty", "longer", "folder", "fifo", "outside", "hidden"])
@pytest.mark.gen_test
async def test_what_is_no_sidecar(library: Path, what: str) -> None:
    """Then the next coding counts, and the text itself at last."""
    path = library / "song.txt.br"
    path.unlink()
    match what:
        case "empty":
            path.touch()
        case "longer":
            path.write_bytes(TEXT)
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "outside":
            (library.parent / "outside").write_bytes(BROTLI)
            path.symlink_to(library.parent / "outside")
        case "hidden":
            (library / ".hidden").write_bytes(BROTLI)
            path.symlink_to(library / ".hidden")
    async with serving(library, scan=False, compression=0) as server:
        assert (await song(server, ALL)).body == ZSTD
        assert (await song(server, "br, gzip")).body == GZIP
        assert (await song(server, "br")).body == TEXT


@pytest.mark.gen_test
async def test_a_symlink_within_the_library(library: Path) -> None:
    """It is followed, as everywhere."""
    (library / "song.txt.br").rename(library / "elsewhere")
    (library / "song.txt.br").symlink_to("elsewhere")
    async with serving(library, scan=False) as server:
        assert (await song(server, "br")).body == BROTLI


@pytest.mark.gen_test
async def test_a_text_that_is_not_utf8_has_none(library: Path) -> None:
    """A client is told UTF-8, and nobody knows what is in the sidecar."""
    (library / "song.txt").write_bytes(TEXT.decode().encode("cp949"))
    touch(library / "song.txt", 0)
    async with serving(library, scan=False) as server:
        response = await song(server)
    assert gzip.decompress(response.body) == TEXT
    assert response.headers["ETag"].endswith('-cp949-gzip"')


@pytest.mark.gen_test
async def test_sidecars_are_not_listed(library: Path) -> None:
    """Not even one that looks like text; a text that is only named so is listed."""
    (library / "song.txt.br").write_bytes(b"looks like text")
    (library / "notes.br").write_bytes(b"is text")
    async with serving(library, scan=False) as server:
        listed = json.loads((await server.get("/text")).body)["files"]
    assert [file["name"] for file in listed] == ["notes.br", "song.txt"]
