"""Audio files with the tags a test asks for: real WAV and MP3, silent."""

import wave
from pathlib import Path

import mutagen.id3
import mutagen.wave

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
FRAME = b"\xff\xfb\x90\x00" + bytes(413)  # MPEG-1 layer III, 128 kbit/s, 44.1 kHz, silent


def wav(path: Path, seconds: float = 0.1, **tags: object) -> Path:
    """A WAV file; its title, artist, album and cover in an ID3 chunk. The title makes its content its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(bytes(int(16000 * seconds)))
    tag(mutagen.wave.WAVE(path), **({"title": path.stem} | tags))
    return path


def mp3(path: Path, frames: int = 100, **tags: object) -> Path:
    """A constant-bitrate MP3 of silence."""
    path.write_bytes(FRAME * frames)
    out = mutagen.id3.ID3()
    fill(out, **tags)
    out.save(path)
    return path


def tag(file: mutagen.wave.WAVE, **tags: object) -> None:
    if file.tags is None:
        file.add_tags()
    fill(file.tags, **tags)
    file.save()


def fill(id3: mutagen.id3.ID3, cover: bytes = b"", claims: str = "image/png", **texts: object) -> None:
    frames = {"title": "TIT2", "artist": "TPE1", "album_artist": "TPE2", "album": "TALB"}
    frames |= {"number": "TRCK", "disc": "TPOS"}
    for name, text in texts.items():
        if text is not None:
            id3.add(getattr(mutagen.id3, frames[name])(encoding=1, text=[text]))
    if cover:
        id3.add(mutagen.id3.APIC(encoding=0, mime=claims, type=3, data=cover))
