"""/audio through a real server, with tracks made here and catalogued by a real scan."""

import json
import sqlite3
import unicodedata
import wave
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, urlsplit

import mutagen.id3
import mutagen.wave
import pytest

from tests.conftest import AccessLog, ExpectLog
from tests.handlers.test_text import as_nobody
from tests.serving import Server, serving

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8


def put_track(path: Path, title: str = "", artist: str = "", album: str = "", cover: bytes = b"") -> bytes:
    """A tenth of a second of WAV with these tags; its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(str(path).encode().ljust(1600, b"\0"))
    tags = mutagen.wave.WAVE(path)
    tags.add_tags()
    for frame, text in (("TIT2", title), ("TPE1", artist), ("TALB", album)):
        if text:
            tags.tags.add(getattr(mutagen.id3, frame)(encoding=3, text=[text]))
    if cover:
        tags.tags.add(mutagen.id3.APIC(encoding=0, mime="image/png", type=3, data=cover))
    tags.save()
    return path.read_bytes()


async def titles(server: Server, target: str) -> list[str]:
    """Of the tracks on a page of the catalogue."""
    return [track["title"] for track in json.loads((await server.get(target)).body)["tracks"]]


@pytest.mark.gen_test
async def test_a_track(tmp_path: Path) -> None:
    """Its facts in the list and by themselves, its bytes under both of its addresses."""
    content = put_track(tmp_path / "앨범" / "01 노래.wav", "밤 편지", "가수", "앨범", PNG)
    async with serving(tmp_path) as server:
        listed = await server.get("/audio")
        [facts] = json.loads(listed.body)["tracks"]
        alone = await server.get(f"{facts['url']}.json")
        by_path, by_query = await server.get(facts["url"]), await server.get("/audio?track_id=1&unknown=x")
        head = await server.get(facts["url"], "HEAD")
        download = await server.get(f"{facts['url']}?download=1")
    assert facts["duration_seconds"] == pytest.approx(0.1)
    assert {name: value for name, value in facts.items() if name != "duration_seconds"} == {
        "id": 1,
        "title": "밤 편지",
        "artist": "가수",
        "album": "앨범",
        "track_number": None,
        "media_type": "audio/wav",
        "length": len(content),
        "url": "/audio/1",
        "cover_url": "/audio/1/cover",
    }
    assert json.loads(listed.body)["next"] is None
    assert "Link" not in listed.headers
    assert json.loads(alone.body) == facts
    for response in (listed, alone):
        assert (response.headers["Content-Type"], response.headers["Cache-Control"]) == (
            "application/json",
            "no-store",
        )
    assert by_path.body == by_query.body == content
    assert by_path.headers["ETag"] == by_query.headers["ETag"] == head.headers["ETag"]
    assert (head.headers["Content-Length"], head.body) == (str(len(content)), b"")
    assert by_path.headers["Content-Type"] == "audio/wav"
    assert quote("01 노래.wav") in download.headers["Content-Disposition"]


@pytest.mark.gen_test
async def test_pages(tmp_path: Path) -> None:
    """`next` and Link lead through all tracks once, with the search they began with."""
    for number in range(7):
        put_track(tmp_path / f"{number}.wav", f"노래 {number}", "a & b=c")
    put_track(tmp_path / "other.wav", "다른 것")
    async with serving(tmp_path) as server:
        seen, target = [], f"/audio?limit=3&q={quote(unicodedata.normalize('NFD', '노래'))}"
        while target:
            response = await server.get(target)
            page = json.loads(response.body)
            assert 0 < len(page["tracks"]) <= 3
            seen += [track["title"] for track in page["tracks"]]
            link = response.headers.get("Link")
            assert link == (f'<{page["next"]}>; rel="next"' if page["next"] else None)
            target = page["next"]
            assert target is None or (target.isascii() and urlsplit(target).path == "/audio")
        assert seen == [f"노래 {number}" for number in range(7)]
        everything = json.loads((await server.get("/audio?limit=8")).body)
        assert (len(everything["tracks"]), everything["next"]) == (8, None)
        assert len(await titles(server, "/audio?limit=500")) == 8
        assert len(await titles(server, "/audio?limit=1")) == 1
        assert await titles(server, "/audio?after=999999") in ([], everything["tracks"])
        unsearched = json.loads((await server.get("/audio?limit=2")).body)
        assert "q=" not in unsearched["next"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("밤", ["밤 편지"]),
        (unicodedata.normalize("NFD", "편지"), ["밤 편지"]),
        ("STRASSE", ["Straße"]),
        ("two one", ["One Two"]),
        ("ONE", ["One Two"]),
        ("%", []),
        ("_", []),
        ("밤 one", []),
        ("\0", None),
        ("", None),
    ],
)
@pytest.mark.gen_test
async def test_search(tmp_path: Path, query: str, found: list[str] | None) -> None:
    """Title, artist and album, any case and any normal form, nothing in it a wild card."""
    put_track(tmp_path / "1.wav", "밤 편지", "가수")
    put_track(tmp_path / "2.wav", "One Two")
    put_track(tmp_path / "3.wav", "Straße")
    async with serving(tmp_path) as server:
        response = await server.get(f"/audio?q={quote(query)}")
        assert response.status == 200
        if found is not None:
            assert [track["title"] for track in json.loads(response.body)["tracks"]] == found


@pytest.mark.gen_test
async def test_a_cover(tmp_path: Path) -> None:
    """As a picture, with ranges and conditions, and an entity tag that is not the track's."""
    put_track(tmp_path / "1.wav", cover=PNG)
    async with serving(tmp_path) as server:
        whole = await server.get("/audio/1/cover")
        part = await server.get("/audio/1/cover", range="bytes=8-15")
        unchanged = await server.get("/audio/1/cover", if_none_match=whole.headers["ETag"])
        head = await server.get("/audio/1/cover", "HEAD")
        track = await server.get("/audio/1", "HEAD")
    assert (whole.headers["Content-Type"], whole.body) == ("image/png", PNG)
    assert (part.status, part.body, part.headers["Content-Range"]) == (
        206,
        PNG[8:16],
        f"bytes 8-15/{len(PNG)}",
    )
    assert (unchanged.status, unchanged.body) == (304, b"")
    assert head.headers["Content-Length"] == str(len(PNG))
    assert whole.headers["ETag"] != track.headers["ETag"]


@pytest.mark.gen_test
async def test_what_is_not_there(tmp_path: Path) -> None:
    """No such track, no picture in it, no file any more: 404; an unknown flag on a known track is 400."""
    put_track(tmp_path / "1.wav")
    put_track(tmp_path / "2.wav", cover=PNG)
    async with serving(tmp_path) as server:
        for target in (
            "/audio/0",
            "/audio/3",
            "/audio/3.json",
            "/audio/99999999999999999999999",
            "/audio?track_id=9223372036854775807",
            "/audio/1/cover",
        ):
            assert (await server.get(target)).status == 404, target
        assert (await server.get("/audio/1?download=2")).status == 400
        saved = await server.get("/audio/2/cover?download=1")
        assert 'filename="cover-2"' in saved.headers["Content-Disposition"]
        assert json.loads((await server.get("/audio/1.json")).body)["cover_url"] is None
        (tmp_path / "2.wav").unlink()
        assert (await server.get("/audio/2")).status == 404
        assert (await server.get("/audio/2/cover")).status == 404
        assert (await server.get("/audio/2.json")).status == 200
        await server.resources.scanner.start()
        assert (await server.get("/audio/2.json")).status == 404


@pytest.mark.gen_test
async def test_a_track_that_may_not_be_read(
    tmp_path: Path, expect_log: ExpectLog, access_log: AccessLog
) -> None:
    """404, and a line for the operator."""
    expect_log("millrace.files", 30, "cannot read '1.wav': permission denied")
    root = tmp_path / "library"
    put_track(root / "1.wav")
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)
    async with serving(root) as server:
        assert len(await titles(server, "/audio")) == 1  # the database is open now
        (root / "1.wav").chmod(0)
        (tmp_path / "library.sqlite3").chmod(0o666)
        with as_nobody():
            response = await server.get("/audio/1")
    assert response.status == 404
    assert access_log.endings[-1] == ("complete", len(response.body))


@pytest.mark.gen_test
async def test_a_database_that_fails(tmp_path: Path, expect_log: ExpectLog) -> None:
    """An outside failure: 502, nothing of the cause to the client."""
    expect_log("millrace", 30, "CatalogueError")
    put_track(tmp_path / "1.wav")
    async with serving(tmp_path) as server:
        with closing(sqlite3.connect(f"{tmp_path}.sqlite3")) as database:
            database.execute("DROP TABLE tracks")
        response = await server.get("/audio")
    assert response.status == 502
    assert b"sqlite" not in response.body
