"""/text through a real server and a real folder: names, encodings, events, resuming."""

import asyncio
import itertools
import json
import os
import threading
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from media.library import TextFile, text_files
from tests.conftest import AccessLog, ExpectLog
from tests.serving import eventually, request, serving

SONG = "첫 줄\nsecond line 🎵\r\n\n마지막"
NAMES = [
    "plain.txt",
    "no_ending",
    "한글 이름.txt",
    unicodedata.normalize("NFD", "분해된 이름.txt"),
    "with spaces and + plus.txt",
    "100%41.txt",
    "question?.txt",
    "hash#tag.txt",
    "semi;colon&and=.txt",
    "folder/inside.txt",
    "폴더/더/깊이.txt",
]


def put(root: Path, name: str, content: bytes) -> Path:
    """A file of the library."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def events(body: bytes) -> list[dict[str, str]]:
    """The events of a body, each as its fields."""
    *blocks, last = body.decode().split("\n\n")
    assert last == ""
    return [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]


@contextmanager
def as_nobody() -> Iterator[None]:
    """As a user who may read only what is everybody's; root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


# --- names ---


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.gen_test
async def test_a_file_is_found_by_its_name(tmp_path: Path, name: str) -> None:
    """In the query and in the path, in either normal form, with `/` as it is or as %2F."""
    content = name.encode()
    put(tmp_path, name, content)
    forms = {name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)}
    async with serving(tmp_path, scan=False) as server:
        for asked, target in itertools.product(forms, ("/text?file_name=", "/text/")):
            response = await server.get(target + quote(asked, safe=""))
            assert (response.status, response.body) == (200, content)
        for asked in forms:
            target = f"/text/{quote(asked)}"
            response = await server.get(target)
            assert (response.status, response.body) == (200, content), target


@pytest.mark.gen_test
async def test_what_is_listed_can_be_fetched(tmp_path: Path) -> None:
    """Every text of the library by name, length and date, and nothing that is none."""
    for name in NAMES:
        put(tmp_path, name, f"{name}\n".encode() * 3)
    put(tmp_path, "picture.png", b"\x89PNG\r\n\x1a\n\0\0")
    put(tmp_path, ".hidden", b"hidden")
    put(tmp_path, "empty.txt", b"")
    async with serving(tmp_path, scan=False) as server:
        response = await server.get("/text")
        listed = json.loads(response.body)["files"]
        assert {file["name"] for file in listed} == {*NAMES, "empty.txt"}
        for file in listed:
            assert set(file) == {"name", "length", "modified", "url"}
            assert file["length"] == (tmp_path / file["name"]).stat().st_size
            assert file["url"].isascii()
            fetched = await server.get(file["url"])
            assert fetched.body == (tmp_path / file["name"]).read_bytes()
            # The listing's date and the file's own header are the same second.
            assert file["modified"][:19] == time.strftime(
                "%Y-%m-%dT%H:%M:%S", time.gmtime((tmp_path / file["name"]).stat().st_mtime)
            )
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "name",
    [
        "missing.txt",
        "../outside.txt",
        "folder/../../outside.txt",
        "folder/../inside.txt",
        "/etc/passwd",
        "//etc/passwd",
        "..",
        ".",
        "folder",
        "folder/",
        "folder//inside.txt",
        ".hidden",
        "folder/.hidden",
        "nul\0.txt",
        "back\\slash.txt",
        "..\\outside.txt",
        "link_out.txt",
        "link_to_folder_out/outside.txt",
        "x" * 300,
        "x/" * 3000 + "y",
        "sound.mp3",
        "binary",
        "fifo",
    ],
)
@pytest.mark.gen_test
async def test_what_is_no_text_of_the_library(tmp_path: Path, name: str) -> None:
    """It is the same 404 whether it leads out, is hidden, is something else, or is not there at all."""
    root = tmp_path / "library"
    put(root, "folder/inside.txt", b"inside")
    put(root, "folder/.hidden", b"hidden")
    put(root, ".hidden", b"hidden")
    put(root, "sound.mp3", b"text by its bytes")
    put(root, "binary", bytes(range(256)))
    put(tmp_path, "outside.txt", b"outside")
    (root / "link_out.txt").symlink_to(tmp_path / "outside.txt")
    (root / "link_to_folder_out").symlink_to(tmp_path)
    os.mkfifo(root / "fifo")
    async with serving(root, scan=False) as server:
        responses = [await server.get(f"/text?file_name={quote(name, safe='')}")]
        if name[:1] not in "./":
            responses.append(await server.get(f"/text/{quote(name)}"))
    for response in responses:
        problem = json.loads(response.body)
        del problem["instance"]
        assert problem == {
            "type": "about:blank",
            "title": "Not Found",
            "status": 404,
            "detail": "There is nothing here by this name.",
        }


@pytest.mark.gen_test
async def test_a_file_that_may_not_be_read(tmp_path: Path, expect_log: ExpectLog) -> None:
    """It is missing for the client; the operator finds it in the log."""
    expect_log("millrace.files", 30, "cannot read 'secret.txt': permission denied")
    root = tmp_path / "library"
    put(root, "secret.txt", b"secret").chmod(0)
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)
    async with serving(root, scan=False) as server:
        with as_nobody():
            response = await server.get("/text/secret.txt")
    assert response.status == 404


# --- whole ---


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "mark"])
@pytest.mark.gen_test
async def test_utf8_is_sent_byte_for_byte(tmp_path: Path, mark: bytes) -> None:
    """Mark, line ends and all."""
    put(tmp_path, "song", mark + SONG.encode())
    async with serving(tmp_path, scan=False) as server:
        response = await server.get("/text/song")
        head = await server.get("/text/song", "HEAD")
    assert response.body == mark + SONG.encode()
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert response.headers["Vary"] == "Accept, Accept-Encoding"
    for name in ("Content-Length", "ETag", "Last-Modified", "Accept-Ranges", "Content-Type", "Vary"):
        assert head.headers[name] == response.headers[name]


@pytest.mark.parametrize("query", ["", "?encoding=cp949", "?encoding=MS949"])
@pytest.mark.gen_test
async def test_another_encoding_becomes_utf8(tmp_path: Path, query: str) -> None:
    """Known or found out; it has no length, no ranges, and a weak entity tag that still saves a transfer."""
    song = "가을 밤에 듣는 노래 한 곡, 다시 부르는 이름 하나\n" * 40
    put(tmp_path, "song", song.encode("cp949"))
    async with serving(tmp_path, scan=False) as server:
        response = await server.get(f"/text/song{query}", range="bytes=0-4")
        etag = response.headers["ETag"]
        unchanged = await server.get(f"/text/song{query}", if_none_match=etag)
    assert (response.status, response.body.decode()) == (200, song)
    assert etag.startswith('W/"')
    assert "Accept-Ranges" not in response.headers
    assert "Content-Length" not in response.headers
    assert response.headers["Cache-Control"] == "no-cache"
    assert (unchanged.status, unchanged.headers["Vary"]) == (304, "Accept, Accept-Encoding")


@pytest.mark.slow
@pytest.mark.gen_test
async def test_pace(tmp_path: Path) -> None:
    """A pause after every line, each line on its way before it; no ranges."""
    put(tmp_path, "song", b"one\ntwo\nthree")
    async with (
        serving(tmp_path, scan=False) as server,
        server.connect(request("/text/song?pace=0.2", range="bytes=0-1", connection="close")) as client,
    ):
        began = time.monotonic()
        await client.until(b"one\n")
        assert time.monotonic() - began < 0.15
        assert b"two" not in client.received
        await client.until(b"two\n")
        assert time.monotonic() - began > 0.2
        received, _ = await client.rest()
    assert received.startswith(b"HTTP/1.1 200 ")
    assert b"Accept-Ranges" not in received


# --- events ---


@pytest.mark.parametrize(
    ("query", "accept", "is_events"),
    [
        ("", "text/event-stream", True),
        ("?format=sse", "*/*", True),
        ("?format=text", "text/event-stream", False),
        ("", "text/plain, text/event-stream;q=0.5", False),
        ("", "text/html", False),
        ("", "text/event-stream, */*", True),
    ],
)
@pytest.mark.gen_test
async def test_events_or_text(tmp_path: Path, query: str, accept: str, is_events: bool) -> None:
    """As Accept says, unless the address says it."""
    put(tmp_path, "song", SONG.encode())
    async with serving(tmp_path, scan=False) as server:
        response = await server.get(f"/text/song{query}", accept=accept)
        head = await server.get(f"/text/song{query}", "HEAD", accept=accept)
    wanted = "text/event-stream" if is_events else "text/plain; charset=utf-8"
    assert response.headers["Content-Type"] == head.headers["Content-Type"] == wanted
    assert response.headers["Vary"] == ("Accept" if is_events else "Accept, Accept-Encoding")
    assert response.headers["Cache-Control"] == ("no-store" if is_events else "no-cache")
    assert (response.body == SONG.encode()) != is_events


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "mark"])
@pytest.mark.gen_test
async def test_lines_as_events(tmp_path: Path, mark: bytes) -> None:
    """One a line, its id the offset behind it; at the end the length."""
    content = mark + SONG.encode()
    put(tmp_path, "song", content)
    async with serving(tmp_path, scan=False) as server:
        response = await server.get("/text/song?format=sse")
    *lines, end = events(response.body)
    assert [line["data"] for line in lines] == ["첫 줄", "second line 🎵", "", "마지막"]
    offsets = [int(line["id"]) for line in lines]
    assert offsets[-1] == len(content)
    assert all(content[offset - 1 : offset] == b"\n" for offset in offsets[:-1])
    assert (end["event"], json.loads(end["data"])) == ("end", {"length": len(content)})


@pytest.mark.parametrize("encoding", ["utf-8", "cp949"])
@pytest.mark.parametrize("how", ["header", "query", "both"])
@pytest.mark.gen_test
async def test_events_are_resumed(tmp_path: Path, how: str, encoding: str) -> None:
    """Behind any line, without loss or doubling; the header is newer than the address it comes with."""
    song = "".join(f"{number}번째 줄은 여기에 있고 노래는 이어진다\n" for number in range(30))
    put(tmp_path, "song", song.encode(encoding))
    async with serving(tmp_path, scan=False) as server:
        whole = events((await server.get("/text/song?format=sse")).body)
        for seen in (0, 1, 14, 28):
            last = whole[seen]["id"]
            query = {"header": "", "query": f"&last_event_id={last}", "both": "&last_event_id=0"}[how]
            headers = {} if how == "query" else {"last_event_id": last}
            rest = await server.get(f"/text/song?format=sse{query}", **headers)
            assert events(rest.body) == whole[seen + 1 :]


@pytest.mark.parametrize("last", [len(SONG.encode()), len(SONG.encode()) + 1, 2**63 - 1])
@pytest.mark.gen_test
async def test_who_has_it_all_gets_no_content(tmp_path: Path, last: int) -> None:
    """204: an EventSource stops reconnecting."""
    put(tmp_path, "song", SONG.encode())
    async with serving(tmp_path, scan=False) as server:
        response = await server.get("/text/song?format=sse", last_event_id=str(last))
        again = await server.get("/text/song?format=text", last_event_id=str(last))
    assert (response.status, response.body) == (204, b"")
    assert again.status == 200


@pytest.mark.gen_test
async def test_a_reader_leaves_a_paced_text(tmp_path: Path, access_log: AccessLog) -> None:
    """Its file is closed at once, although the pause is a minute."""
    path = put(tmp_path, "song", SONG.encode())

    def is_open() -> bool:
        return path in [
            link.readlink() for link in list(Path("/proc/self/fd").iterdir()) if link.is_symlink()
        ]

    async with (
        serving(tmp_path, scan=False) as server,
        server.connect(request("/text/song?format=sse&pace=60")) as client,
    ):
        await client.until("첫 줄".encode())
        assert is_open()
        client.close()
        await eventually(lambda: not is_open(), 1)
    assert access_log.endings[0][0] == "disconnected"


@pytest.mark.gen_test
async def test_who_asks_at_the_same_time_shares_one_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list opens every file: thirty at once would be thirty times the work, on the threads of everyone."""
    (tmp_path / "a.txt").write_bytes(b"words")
    made: list[Path] = []
    finish = threading.Event()

    def slow(root: Path) -> Iterator[TextFile]:
        made.append(root)
        finish.wait(5)
        return text_files(root)

    monkeypatch.setattr("handlers.text.text_files", slow)
    async with serving(tmp_path, scan=False) as server:
        asked = [asyncio.ensure_future(server.get("/text")) for _ in range(5)]
        await eventually(lambda: made)
        await asyncio.sleep(0.1)
        finish.set()
        answers = {(await answer).body for answer in asked}
        assert len(made) == 1
        assert len(answers) == 1
        assert b"a.txt" in (await server.get("/text")).body
        assert len(made) == 2
