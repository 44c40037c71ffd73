"""Compose, synthesise, encode and tag the shipped samples: `python examples/compose_samples.py [FOLDER]`.

Writes five tracks with covers and one CP949 text, by default into `media/samples` of this checkout.
Needs numpy from PyPI and the program ffmpeg.
The notes, the instruments and the pictures are all in this file; nothing is sampled or downloaded.

The one thing to know: the sound is deterministic.
All chance comes from generators with fixed seeds, so the same numpy gives the same PCM,
and the same ffmpeg then gives the same files.

Reading order: notes → harmony → instruments → the mix → the five pieces → covers → files.
Time is in beats inside a score and in seconds inside a sound; pitches are MIDI numbers (69 is A4, 440 Hz).
"""

import base64
import itertools
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

try:
    import numpy as np
    from numpy.typing import NDArray
except ImportError:
    sys.exit("compose_samples.py needs numpy, which is not installed: pip install numpy")

RATE = 48_000
"""Samples a second of everything that is synthesised; ffmpeg resamples where a track says so."""

PEAK = 10 ** (-1 / 20)
"""Highest sample of a finished track: -1 dBFS."""

LOUDNESS = 10 ** (-13.5 / 20)
"""Weighted root mean square of a finished track; about -14 LUFS."""

TAIL_SECONDS = 2.5
"""What rings on after the last beat of a score."""

Sound = NDArray[np.float64]
"""Samples, mono (n,) or stereo (n, 2). Those of an instrument are cached: never write to one."""

Instrument = Callable[[int, float], Sound]
"""(pitch, seconds) → a note of that length at a peak near 1."""


# Notes and harmony

SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
ACCIDENTALS = {"": 0, "#": 1, "b": -1}
QUALITIES = {
    "": (0, 4, 7),
    "m": (0, 3, 7),
    "6": (0, 4, 7, 9),
    "m6": (0, 3, 7, 9),
    "7": (0, 4, 7, 10),
    "m7": (0, 3, 7, 10),
    "maj7": (0, 4, 7, 11),
    "add9": (0, 2, 4, 7),
    "sus4": (0, 5, 7),
    "9": (2, 4, 7, 10),  # the bass has the root of the ninth chords
    "m9": (2, 3, 7, 10),
    "maj9": (2, 4, 7, 11),
    "9sus4": (2, 5, 7, 10),
}


@dataclass(frozen=True, slots=True)
class Note:
    """A pitch, where it starts and how long it is held, in beats."""

    start: float
    length: float
    pitch: int


@dataclass(frozen=True, slots=True)
class Chord:
    """One bar of harmony: the bass note's pitch class and the voices above it, low to high."""

    bass: int
    voices: tuple[int, ...]


def melody(score: str, start: float = 0) -> list[Note]:
    """`"D5/1.5 C#5/.5 -/2"` → notes with lengths in beats; `-` rests and `|` is only for the eye."""
    notes = []
    for token in score.replace("|", " ").split():
        name, length = token.split("/")
        if name != "-":
            octave = int(name[-1])
            notes.append(Note(start, float(length), 12 * (octave + 1) + _pitch_class(name[:-1])))
        start += float(length)
    return notes


def _pitch_class(name: str) -> int:
    return SEMITONES[name[0]] + ACCIDENTALS[name[1:]]


def harmony(symbols: str, low: int = 52, high: int = 71) -> list[Chord]:
    """`"D A/C# Bm7"` → one chord a bar; each is voiced so that the voices move least from the one before."""
    chords: list[Chord] = []
    before: tuple[int, ...] = (low + 5, low + 9, low + 14)
    for symbol in symbols.split():
        upper, _, bass = symbol.partition("/")
        match = re.fullmatch(r"([A-G][#b]?)(.*)", upper)
        assert match is not None, symbol
        root = _pitch_class(match[1])
        places = [
            [pitch for pitch in range(low, high + 1) if (pitch - root - step) % 12 == 0]
            for step in QUALITIES[match[2]]
        ]
        candidates = [tuple(sorted(voices)) for voices in itertools.product(*places)]
        before = min(candidates, key=partial(_movement, before))
        chords.append(Chord(_pitch_class(bass) if bass else root % 12, before))
    return chords


def _movement(before: tuple[int, ...], after: tuple[int, ...]) -> float:
    """Semitones that the voices move, each to its nearest; wide gaps and close seconds cost too."""
    moved = sum(min(abs(voice - old) for old in before) for voice in after)
    left = sum(min(abs(voice - old) for voice in after) for old in before)
    gaps = [upper - lower for lower, upper in itertools.pairwise(after)]
    rough = 5 * sum(gap == 1 for gap in gaps) + (3 if gaps[0] < 3 else 0)
    return moved + left + rough + 2 * sum(gap > 7 for gap in gaps)


def arpeggio(chords: Sequence[Chord], start: float, beats: float, pattern: str) -> list[Note]:
    """A broken chord a bar: each step of the pattern is a voice's number, `b` the bass, `.` nothing.

    Voices above the top one are the lowest ones an octave up. Every note rings to the end of its bar.
    """
    notes = []
    step = beats / len(pattern)
    for bar, chord in enumerate(chords):
        for place, mark in enumerate(pattern):
            if mark == ".":
                continue
            if mark == "b":
                pitch = 40 + (chord.bass - 4) % 12
            else:
                octave, voice = divmod(int(mark), len(chord.voices))
                pitch = chord.voices[voice] + 12 * octave
            notes.append(Note(start + bar * beats + place * step, beats - place * step, pitch))
    return notes


def bass_line(chords: Sequence[Chord], start: float, beats: float, score: str) -> list[Note]:
    """The same figure for each bar: `"b/1.5 f/.5"` is the bass note and the chord's note near its fifth.

    `o` is the bass note's octave and `-` a rest; lengths are in beats.
    """
    notes = []
    for bar, chord in enumerate(chords):
        place = start + bar * beats
        low = 28 + (chord.bass - 4) % 12
        sounding = {voice % 12 for voice in chord.voices}
        # Over an inverted chord the plain fifth is a wrong note: C# under A major would get G#.
        fifth = next(step for step in (7, 8, 5, 9, 4) if (low + step) % 12 in sounding)
        for token in score.split():
            mark, length = token.split("/")
            if mark != "-":
                notes.append(Note(place, float(length), low + {"b": 0, "f": fifth, "o": 12}[mark]))
            place += float(length)
    return notes


def held(chords: Sequence[Chord], start: float, beats: float) -> list[Note]:
    """Every voice held for its bar."""
    return [Note(start + n * beats, beats, pitch) for n, chord in enumerate(chords) for pitch in chord.voices]


def transposed(notes: Iterable[Note], semitones: int) -> list[Note]:
    """The same notes, higher or (negative) lower."""
    return [Note(note.start, note.length, note.pitch + semitones) for note in notes]


# Instruments


def _hertz(pitch: int) -> float:
    return float(440 * 2 ** ((pitch - 69) / 12))


def _times(seconds: float) -> Sound:
    return np.arange(int(seconds * RATE)) / RATE


def _shaped(sound: Sound, attack: float, release: float) -> Sound:
    """The sound with a soft start and end (seconds), so that nothing clicks."""
    rise = np.minimum(1, np.arange(len(sound)) / (attack * RATE))
    fall = np.minimum(1, np.arange(len(sound))[::-1] / (release * RATE))
    return np.asarray(sound * np.sin(rise * np.pi / 2) * np.sin(fall * np.pi / 2) ** 2)


def _noise(seed: int, seconds: float, low: float, high: float) -> Sound:
    """Noise between two frequencies (Hz, soft slopes) at a peak of 1."""
    noise = np.random.default_rng(seed).standard_normal(int(seconds * RATE))
    spectrum = np.fft.rfft(noise)
    hertz = np.fft.rfftfreq(len(noise), 1 / RATE) + 1e-9
    spectrum /= (1 + (low / hertz) ** 4) * (1 + (hertz / high) ** 4)
    noise = np.fft.irfft(spectrum, len(noise))
    return np.asarray(noise / np.abs(noise).max())


@cache
def string(pitch: int, seconds: float, ring: float = 1.3, sway: float = 0.0) -> Sound:
    """A plucked string by its modes: every harmonic a sine that decays, the higher the sooner.

    `ring` is the decay (seconds) of the A below middle C; `sway` the depth (seconds) of a late vibrato.
    """
    time = _times(seconds)
    fundamental = _hertz(pitch)
    late = np.clip((time - 0.25) / 0.4, 0, 1)
    warped = time + sway * late * np.sin(2 * np.pi * 5.2 * time)
    sound = np.zeros_like(time)
    for mode in range(1, min(32, int(9000 / fundamental)) + 1):
        strength = np.sin(np.pi * mode * 0.21) / mode**1.25  # plucked at a fifth of its length
        stiff = mode * np.sqrt(1 + 0.00008 * mode**2)
        decay = ring * (220 / fundamental) ** 0.45 / (1 + 0.10 * (mode - 1) + 0.012 * mode**2)
        sound += strength * np.exp(-time / decay) * np.sin(2 * np.pi * fundamental * stiff * warped)
    touch = _noise(pitch, 0.03, 900, 5000) * np.exp(-_times(0.03) / 0.005)
    sound[: len(touch)] += 0.08 * touch[: len(sound)]
    return _shaped(sound, 0.0015, 0.08)


long_string = partial(string, ring=2.1)
swaying_string = partial(string, ring=1.5, sway=0.00016)


@cache
def electric_piano(pitch: int, seconds: float) -> Sound:
    """Frequency modulation: a warm body, and a tine that is gone soon."""
    time = _times(seconds)
    angle = 2 * np.pi * _hertz(pitch) * time
    body = np.sin(angle + (0.25 + 1.0 * np.exp(-time / 0.5)) * np.sin(angle))
    tine = 0.16 * np.exp(-time / 0.18) * np.sin(angle + 0.7 * np.exp(-time / 0.1) * np.sin(9 * angle))
    decay = 1.5 * (262 / _hertz(pitch)) ** 0.35
    return _shaped((body + tine) * np.exp(-time / decay), 0.004, 0.09)


@cache
def music_box(pitch: int, seconds: float) -> Sound:
    """A struck bar: the partials of a free bar, which are not harmonics."""
    time = _times(max(seconds, 1.6))
    sound = np.zeros_like(time)
    for ratio, strength, decay in (
        (1, 1.0, 0.8),
        (2.756, 0.22, 0.3),
        (5.404, 0.10, 0.12),
        (8.933, 0.03, 0.05),
    ):
        sound += strength * np.exp(-time / decay) * np.sin(2 * np.pi * _hertz(pitch) * ratio * time)
    return _shaped(sound, 0.001, 0.2)


@cache
def flute(pitch: int, seconds: float) -> Sound:
    """A few harmonics with breath, and a vibrato that comes late."""
    time = _times(seconds + 0.06)
    late = np.clip((time - 0.2) / 0.5, 0, 1)
    angle = 2 * np.pi * _hertz(pitch) * (time + 0.00013 * late * np.sin(2 * np.pi * 4.9 * time))
    tone = sum(level * np.sin(n * angle) for n, level in ((1, 1.0), (2, 0.28), (3, 0.13), (4, 0.03)))
    breath = 0.035 * _noise(pitch, len(time) / RATE + 0.001, 1200, 6000)[: len(time)]
    swell = 0.82 + 0.18 * np.sin(np.pi * np.clip(time / max(seconds, 0.4), 0, 1))
    return _shaped((tone + breath) * swell * 0.8, 0.05, 0.11)


@cache
def pad(pitch: int, seconds: float) -> Sound:
    """Slow, soft strings: six detuned voices, three on each side."""
    time = _times(seconds + 0.9)
    sides = []
    for detunes in ((-0.0022, 0.0004, 0.0029), (-0.0031, -0.0005, 0.0019)):
        side = np.zeros_like(time)
        for number, detune in enumerate(detunes):
            angle = 2 * np.pi * _hertz(pitch) * (1 + detune) * time + 2.1 * number
            for harmonic in range(1, 9):
                side += np.sin(harmonic * angle) / harmonic**1.9 / 3
        sides.append(_shaped(side, 0.7, 1.0))
    return np.stack(sides, axis=1)


@cache
def bass(pitch: int, seconds: float) -> Sound:
    """A round bass: four harmonics, so that small loudspeakers have something to play."""
    time = _times(seconds)
    angle = 2 * np.pi * _hertz(pitch) * time
    sound = np.zeros_like(time)
    for harmonic, level, decay in ((1, 0.8, 1.6), (2, 0.34, 0.7), (3, 0.14, 0.35), (4, 0.06, 0.2)):
        sound += level * np.exp(-time / decay) * np.sin(harmonic * angle)
    return _shaped(sound, 0.006, 0.07)


@cache
def kick() -> Sound:
    """A soft bass drum: a sine that falls from 130 to 48 Hz."""
    time = _times(0.4)
    angle = 2 * np.pi * (48 * time - 82 * 0.03 * np.exp(-time / 0.03))
    return _shaped(np.sin(angle) * np.exp(-time / 0.11), 0.002, 0.05)


@cache
def brush() -> Sound:
    """A brush on a snare drum."""
    time = _times(0.28)
    return _shaped(
        _noise(7, 0.28, 500, 6500) * (np.exp(-time / 0.05) + 0.25 * np.exp(-time / 0.14)), 0.004, 0.05
    )


@cache
def hat() -> Sound:
    """A closed hi-hat."""
    return _shaped(_noise(11, 0.09, 6500, 13000) * np.exp(-_times(0.09) / 0.022), 0.001, 0.02)


@cache
def shaker() -> Sound:
    """Grains in a gourd: they swell, then stop."""
    time = _times(0.13)
    return _shaped(_noise(13, 0.13, 4000, 9000) * np.exp(-(((time - 0.035) / 0.025) ** 2)), 0.01, 0.03)


@cache
def skin() -> Sound:
    """The high side of a drum, struck with a thin stick."""
    time = _times(0.2)
    ring = np.sin(2 * np.pi * 412 * time) + 0.5 * np.sin(2 * np.pi * 655 * time)
    return _shaped(
        0.6 * ring * np.exp(-time / 0.035) + 0.4 * _noise(17, 0.2, 1500, 6000) * np.exp(-time / 0.012),
        0.001,
        0.03,
    )


@cache
def drop() -> Sound:
    """A drop that falls into water: a short sine that rises."""
    time = _times(0.22)
    angle = 2 * np.pi * (620 * time + 2600 * time**2)
    return _shaped(np.sin(angle) * np.exp(-time / 0.045), 0.003, 0.04)


# The mix


class Mix:
    """Where the notes of a piece are added up: a dry sum, and what goes to the reverb.

    Args:
        beats: length of the score; `TAIL_SECONDS` are added.
        tempo: beats a minute.
        swing: how much later than half a beat the second half begins, in beats.
        slow_from: the beat from which the piece slows down to its end.
        dynamics: (beat, level) in rising order; every note's strength follows the line through them.
        seed: of the small unevenness in time and touch that a player has.
    """

    def __init__(
        self,
        beats: float,
        tempo: float,
        *,
        slow_from: float,
        dynamics: Sequence[tuple[float, float]],
        seed: int,
        swing: float = 0.0,
    ) -> None:
        self._beat_seconds = 60 / tempo
        self._swing = swing
        self._slow_from = slow_from
        self._dynamics = np.array(dynamics).T
        self._player = np.random.default_rng(seed)
        frames = int((self.seconds(beats) + TAIL_SECONDS) * RATE)
        self._dry = np.zeros((frames, 2))
        self._wet = np.zeros((frames, 2))

    def seconds(self, beat: float) -> float:
        """When a beat is."""
        whole, part = divmod(beat, 1)
        swung = part * (1 + 2 * self._swing) if part < 0.5 else 1 - (1 - part) * (1 - 2 * self._swing)
        slowed = 0.022 * max(0.0, beat - self._slow_from) ** 2
        return float((whole + swung + slowed) * self._beat_seconds)

    def _level(self, beat: float) -> float:
        return float(np.interp(beat, *self._dynamics)) * (1 + 0.06 * self._player.standard_normal())

    def play(
        self,
        instrument: Instrument,
        notes: Iterable[Note],
        gain: float,
        *,
        pan: float = 0.0,
        reverb: float = 0.25,
    ) -> None:
        """Add notes; whole beats are touched a little harder. `pan` from -1 (left) to 1; `gain` 1 is full."""
        for note in notes:
            length = round(self.seconds(note.start + note.length) - self.seconds(note.start) + 0.04, 3)
            touch = self._level(note.start) * (1.0 if note.start % 1 == 0 else 0.86)
            late = abs(0.004 * self._player.standard_normal())
            self._add(
                instrument(note.pitch, length), self.seconds(note.start) + late, gain * touch, pan, reverb
            )

    def drum(
        self,
        sound: Sound,
        pattern: str,
        bars: tuple[float, int, float],
        gain: float,
        *,
        pan: float = 0.0,
        reverb: float = 0.12,
    ) -> None:
        """Add a rhythm: digits 1–9 are strengths, `.` is a rest. `bars`: first beat, number, beats a bar."""
        start, number, beats = bars
        for bar, (place, mark) in itertools.product(range(number), enumerate(pattern)):
            if mark != ".":
                beat = start + bar * beats + place * beats / len(pattern)
                touch = int(mark) / 9 * self._level(beat)
                self._add(sound, self.seconds(beat), gain * touch, pan, reverb)

    def _add(self, sound: Sound, at: float, gain: float, pan: float, reverb: float) -> None:
        start = int(at * RATE)
        sound = sound[: len(self._dry) - start]
        sides = np.array([np.cos((pan + 1) * np.pi / 4), np.sin((pan + 1) * np.pi / 4)]) * gain
        stereo = (sound if sound.ndim == 2 else sound[:, None]) * sides
        self._dry[start : start + len(sound)] += stereo
        self._wet[start : start + len(sound)] += reverb * stereo

    def finished(self) -> NDArray[np.int16]:
        """The piece in its room, at the common loudness, faded at its very end; 16 bits, stereo."""
        mix = self._dry + _room(self._wet)
        mix *= _shaped(np.ones(len(mix)), 0.005, 2.0)[:, None]
        mix *= LOUDNESS / _loudness(mix)
        mix *= _limiting(mix)[:, None]
        mix *= min(1, PEAK / np.abs(mix).max())
        return np.round(mix * 32767).astype(np.int16)


def _convolved(sound: Sound, response: Sound) -> Sound:
    length = 1 << (len(sound) + len(response)).bit_length()
    product = np.fft.rfft(sound, length) * np.fft.rfft(response, length)
    return np.fft.irfft(product, length)[: len(sound)]


def _room(sound: Sound) -> Sound:
    """What a room of wood and stone gives back: noise in three bands, the higher the shorter."""
    sides = []
    for side in (0, 1):
        response = np.zeros(int(2.4 * RATE))
        time = _times(2.4)
        for band, (low, high, decay) in enumerate(((120, 700, 0.42), (700, 3000, 0.36), (3000, 9000, 0.2))):
            response += _noise(100 + 10 * side + band, 2.4, low, high)[: len(time)] * np.exp(-time / decay)
        response *= np.clip((time - 0.018) / 0.01, 0, 1)  # the walls are some metres away
        response /= np.sqrt(np.sum(response**2))
        sides.append(_convolved(sound[:, side], response))
    return np.stack(sides, axis=1)


def _loudness(mix: Sound) -> float:
    """Root mean square as the ear weighs it (ITU-R BS.1770, roughly); silence is left out."""
    hertz = np.fft.rfftfreq(len(mix), 1 / RATE)[:, None] + 1e-9
    weight = (1 + 0.58 * hertz**2 / (hertz**2 + 1500**2)) / (1 + (60 / hertz) ** 2)
    power = np.sum(np.fft.irfft(np.fft.rfft(mix, axis=0) * weight, len(mix), axis=0) ** 2, axis=1)
    blocks = power[: len(power) // 19_200 * 19_200].reshape(-1, 19_200).mean(axis=1)
    return float(np.sqrt(blocks[blocks > 0.05 * blocks.max()].mean()))


def _limiting(mix: Sound) -> Sound:
    """A gain for each sample that keeps peaks under `PEAK`; it looks 30 ms ahead so that it never clicks."""
    step = RATE // 200
    high = np.abs(mix).max(axis=1)
    blocks = np.pad(high, (0, -len(high) % step)).reshape(-1, step).max(axis=1)
    gains = np.minimum(1, PEAK / np.maximum(blocks, 1e-9))
    ahead = np.lib.stride_tricks.sliding_window_view(np.pad(gains, 6, constant_values=1), 13).min(axis=1)
    smooth = np.convolve(np.pad(ahead, 4, mode="edge"), np.hanning(11)[1:-1] / np.hanning(11).sum(), "valid")
    return np.interp(np.arange(len(mix)), np.arange(len(smooth)) * step + step / 2, smooth)


# The pieces


def opening_the_sluice() -> NDArray[np.int16]:
    """D major, 4/4, 100 beats a minute: intro, A, B, A', and a close by way of the minor subdominant."""
    line = ((0, 0.55), (16, 0.75), (44, 0.85), (64, 1.0), (80, 0.85), (104, 1.0), (114, 0.8), (124, 0.6))
    mix = Mix(128, 100, slow_from=118, dynamics=line, seed=1)
    intro = harmony("D G/D D Asus4")
    first = harmony("D A/C# Bm7 G D/F# Em7 Asus4 A")
    second = harmony("Bm F#m7 G D/F# Em7 A7 Bm7 A")
    again = harmony("D A/C# Bm7 G D/F# Em7 A7 D G/D Gm/D D")
    close = harmony("D", low=57)
    tune = melody(
        "F#5/1.5 E5/.5 D5/1 A4/1 | E5/1.5 D5/.5 C#5/1 A4/1 | D5/1.5 C#5/.5 B4/1 D5/1 | B4/2 -/1 A4/.5 B4/.5 |"
        "D5/1 F#5/1 A5/1.5 F#5/.5 | G5/1.5 F#5/.5 E5/1 B4/1 | D5/1.5 E5/.5 D5/2 | C#5/1 E5/2 -/1",
        start=16,
    )
    middle = melody(
        "F#5/1 B5/1.5 A5/.5 F#5/1 | A5/1 C#6/1.5 B5/.5 A5/1 | B5/1.5 A5/.5 G5/1 D5/1 |"
        "A5/2 F#5/1 E5/.5 F#5/.5 | G5/1 F#5/.5 E5/.5 B4/1 E5/1 | E5/.5 F#5/.5 G5/1 E5/1 C#5/1 |"
        "D5/1.5 E5/.5 F#5/1 A5/1 | E5/3 -/1",
        start=48,
    )
    varied = melody(
        "F#5/.5 G5/.5 F#5/.5 E5/.5 D5/1 A4/1 | E5/.5 F#5/.5 E5/.5 D5/.5 C#5/1 A4/1 |"
        "D5/.5 E5/.5 D5/.5 C#5/.5 B4/1 F#5/1 | G5/1.5 F#5/.5 D5/1 B4/1 | D5/1 F#5/1 A5/1.5 B5/.5 |"
        "G5/1 F#5/.5 G5/.5 E5/1 B4/1 | C#5/1 E5/1 G5/1 E5/.5 C#5/.5 | D5/3 -/1 |"
        "D5/1 B4/1 G5/2 | Bb4/2 G4/2 | A4/1 D5/1 F#5/1 A5/1 | D6/4",
        start=80,
    )
    mix.play(string, arpeggio(intro + first[:4], 0, 4, "b0213213"), 0.5, pan=-0.3)
    mix.play(string, arpeggio(first[4:] + second, 32, 4, "b0214213"), 0.46, pan=-0.3)
    mix.play(string, arpeggio(again, 80, 4, "b0213424"), 0.46, pan=-0.3)
    mix.play(long_string, arpeggio(close, 124, 4, "b012345."), 0.42, pan=-0.3, reverb=0.4)
    mix.play(long_string, tune, 0.62, pan=0.25, reverb=0.35)
    mix.play(flute, middle, 0.36, pan=0.15, reverb=0.45)
    mix.play(long_string, varied, 0.6, pan=0.25, reverb=0.35)
    mix.play(flute, varied[:-5], 0.16, pan=0.1, reverb=0.5)
    mix.play(pad, held(second + again, 48, 4), 0.05, reverb=0.5)
    mix.play(pad, held(close, 124, 4), 0.05, reverb=0.6)
    mix.play(bass, bass_line(first, 16, 4, "b/1.5 -/.5 b/1 f/1"), 0.42, reverb=0.05)
    mix.play(bass, bass_line(second + again, 48, 4, "b/1.5 b/.5 f/1 o/1"), 0.42, reverb=0.05)
    mix.play(bass, bass_line(close, 124, 4, "b/4"), 0.4, reverb=0.05)
    mix.drum(shaker(), "37573757", (32, 4, 4), 0.16, pan=0.4)
    mix.drum(shaker(), "3757375737573757", (48, 18, 4), 0.15, pan=0.4)
    mix.drum(kick(), "9.....5.9.......", (48, 18, 4), 0.55)
    mix.drum(brush(), "....7.......7..3", (48, 18, 4), 0.26, pan=-0.15)
    return mix.finished()


def water_before_sunrise() -> NDArray[np.int16]:
    """G major on five notes, 12/8 (beats are eighths), 66 dotted quarters a minute: strings, flute, drums."""
    line = ((0, 0.5), (24, 0.7), (70, 0.85), (96, 1.0), (120, 0.85), (156, 1.0), (168, 0.75), (180, 0.55))
    mix = Mix(192, 198, slow_from=176, dynamics=line, seed=2)
    intro = harmony("G Em")
    first = harmony("G Em7 Cadd9 D")
    second = harmony("Em Cadd9 G Dsus4")
    again = harmony("G Em7 Cadd9 D")
    close = harmony("Cadd9 G")
    tune = melody(
        "D5/3 E5/2 D5/1 B4/3 A4/2 B4/1 | G4/3 A4/2 B4/1 E5/4 D5/2 |"
        "E5/2 G5/1 E5/2 D5/1 E5/3 D5/2 B4/1 | A4/6 -/2 A4/1 B4/2 D5/1",
        start=24,
    )
    middle = melody(
        "E5/3 G5/3 A5/4 G5/2 | E5/2 D5/1 E5/3 G5/5 -/1 | B5/3 A5/2 G5/1 D5/3 E5/2 G5/1 | A5/6 -/3 A5/2 G5/1",
        start=72,
    )
    varied = melody(
        "D5/2 E5/1 G5/2 E5/1 D5/1 B4/1 D5/1 A4/2 B4/1 | G4/2 A4/1 B4/2 D5/1 E5/2 G5/1 E5/1 D5/1 B4/1 |"
        "E5/2 G5/1 A5/2 G5/1 E5/3 D5/2 B4/1 | A4/3 B4/2 A4/1 D5/5 -/1 | E5/3 D5/2 B4/1 A4/3 B4/3 | G4/12",
        start=120,
    )
    answer = melody("-/6 B5/3 D6/3 | -/6 G5/3 B5/3 | -/6 G5/3 E5/3 | -/6 A5/3 -/3", start=120)
    mix.play(string, arpeggio(intro, 0, 12, "b.01.20.12.1"), 0.44, pan=0.25, reverb=0.3)
    mix.play(string, arpeggio(first, 24, 12, "b.01.2b.01.2"), 0.36, pan=0.25, reverb=0.3)
    mix.play(string, arpeggio(second, 72, 12, "b.01.23.21.2"), 0.38, pan=0.25, reverb=0.3)
    mix.play(string, arpeggio(again + close[:1], 120, 12, "b.01.2b.01.2"), 0.36, pan=0.25, reverb=0.3)
    mix.play(long_string, arpeggio(close[1:], 180, 12, "b.0.1.2.3.4."), 0.38, pan=0.25, reverb=0.45)
    mix.play(swaying_string, tune + varied, 0.72, pan=-0.2, reverb=0.4)
    mix.play(flute, middle, 0.42, pan=0.1, reverb=0.55)
    mix.play(flute, answer, 0.18, pan=0.2, reverb=0.6)
    mix.play(swaying_string, transposed(middle, -12), 0.4, pan=-0.2, reverb=0.4)
    mix.play(pad, held(intro, 0, 12) + held(second, 72, 12) + held(close[1:], 180, 12), 0.055, reverb=0.6)
    mix.play(pad, held(again + close[:1], 120, 12), 0.035, reverb=0.6)
    mix.play(
        bass, bass_line(first + second + again + close[:1], 24, 12, "b/5 f/1 o/3 f/3"), 0.34, reverb=0.05
    )
    mix.drum(kick(), "9.....6.....", (24, 4, 12), 0.5)
    mix.drum(skin(), "5..3.57..35.", (48, 2, 12), 0.2, pan=0.3, reverb=0.3)
    mix.drum(kick(), "9....36..4..", (72, 9, 12), 0.55)
    mix.drum(skin(), "5..3.57..3.5", (72, 9, 12), 0.24, pan=0.3, reverb=0.3)
    mix.drum(shaker(), "..5..5..5..7", (72, 9, 12), 0.14, pan=-0.4)
    mix.drum(drop(), "7...........", (0, 2, 12), 0.1, pan=-0.5, reverb=0.9)
    return mix.finished()


def stone_and_moss() -> NDArray[np.int16]:
    """A minor, 3/4, 92 beats a minute, sparse: a harp, a music box, drops; the last chord is major."""
    line = ((0, 0.5), (6, 0.7), (17, 0.75), (27, 1.0), (30, 0.75), (40, 1.0), (45, 0.7), (48, 0.6))
    mix = Mix(51, 92, slow_from=42, dynamics=line, seed=3)
    intro = harmony("Am Am")
    first = harmony("Am Em/G F E7")
    second = harmony("Dm7 G7 Cmaj7 Fmaj7")
    again = harmony("Am Em/G Dm/F E7")
    close = harmony("Am Dm6 A")
    tune = melody(
        "A4/1 C5/1 E5/1 | E5/1.5 D5/.5 B4/1 | C5/1.5 D5/.5 C5/.5 A4/.5 | B4/2 -/1 |"
        "F5/1 A5/1 G5/.5 F5/.5 | D5/1 G5/1 F5/.5 D5/.5 | E5/1 G5/1 B5/1 | A5/1.5 G5/.5 E5/.5 C5/.5 |"
        "A4/.5 B4/.5 C5/1 E5/1 | G5/1 E5/.5 D5/.5 B4/1 | D5/1 F5/1 A5/1 | G#5/1.5 B5/.5 E5/1 |"
        "A5/1 E5/1 C5/1 | F5/1.5 E5/.5 D5/1 | C#5/3",
        start=6,
    )
    echo = transposed([note for note in tune if 18 <= note.start < 30 or note.start >= 48], 12)
    mix.play(long_string, arpeggio(intro, 0, 3, "b01210"), 0.5, pan=-0.25, reverb=0.4)
    mix.play(long_string, arpeggio(first, 6, 3, "b.12.1"), 0.44, pan=-0.25, reverb=0.4)
    mix.play(long_string, arpeggio(second + again, 18, 3, "b01321"), 0.44, pan=-0.25, reverb=0.4)
    mix.play(long_string, arpeggio(close[:2], 42, 3, "b.12.1"), 0.44, pan=-0.25, reverb=0.4)
    mix.play(long_string, arpeggio(close[2:], 48, 3, "b01234"), 0.42, pan=-0.25, reverb=0.5)
    mix.play(long_string, tune, 0.66, pan=0.1, reverb=0.45)
    mix.play(music_box, echo, 0.13, pan=0.4, reverb=0.6)
    mix.play(bass, bass_line(first + second + again + close[:2], 6, 3, "b/2 f/1"), 0.3, reverb=0.1)
    mix.play(bass, bass_line(close[2:], 48, 3, "b/3"), 0.3, reverb=0.1)
    mix.drum(kick(), "7..", (18, 8, 3), 0.3, reverb=0.3)
    mix.drum(brush(), "..3.3.", (18, 8, 3), 0.16, pan=0.2, reverb=0.3)
    mix.drum(drop(), "7....4", (0, 2, 3), 0.1, pan=0.5, reverb=0.8)
    mix.drum(drop(), "....5.", (6, 12, 3), 0.06, pan=0.5, reverb=0.8)
    return mix.finished()


def lanterns_downstream() -> NDArray[np.int16]:
    """E flat major, 4/4 with a swing, 80 beats a minute: electric piano, bells, bass and a small drum kit."""
    line = ((0, 0.6), (8, 0.75), (38, 0.9), (50, 1.0), (56, 0.85), (70, 1.0), (74, 0.8), (80, 0.6))
    mix = Mix(84, 80, swing=0.1, slow_from=74, dynamics=line, seed=4)
    intro = harmony("Abmaj7 Bb9sus4", low=51)
    first = harmony("Fm9 Bb9 Ebmaj7 Cm7 Fm9 Bb9 Ebmaj9 Eb9", low=51)
    second = harmony("Abmaj7 Gm7 Fm9 Bb9sus4", low=51)
    again = harmony("Fm9 Bb9 Ebmaj7 Cm7", low=51)
    close = harmony("Abmaj7 Abm6 Ebmaj9", low=51)
    tune = melody(
        "-/.5 C5/.5 Eb5/.5 G5/1.5 F5/.5 Eb5/.5 | D5/1.5 F5/.5 Ab5/1 G5/1 | G5/1 F5/.5 Eb5/.5 Bb4/2 |"
        "-/.5 Bb4/.5 C5/.5 Eb5/.5 G5/1 F5/.5 Eb5/.5 | F5/1 G5/.5 Ab5/1 G5/.5 Eb5/1 |"
        "F5/1.5 D5/.5 Bb4/1 C5/.5 D5/.5 | Eb5/2.5 F5/.5 G5/.5 Bb5/.5 | Bb5/1.5 G5/.5 F5/1 Db5/1",
        start=8,
    )
    middle = melody(
        "C5/1 Eb5/.5 G5/1.5 Eb5/1 | D5/1 F5/.5 Bb5/1.5 F5/1 | Ab5/1 G5/.5 F5/.5 Eb5/1 C5/1 |"
        "Bb4/.5 C5/.5 Eb5/1 F5/2",
        start=40,
    )
    varied = melody(
        "-/.5 C5/.5 Eb5/.5 G5/1 Ab5/.5 G5/.5 Eb5/.5 | D5/1 F5/.5 Ab5/.5 C6/1 Bb5/1 |"
        "G5/1 Bb5/1 F5/.5 Eb5/.5 D5/1 | Eb5/1 C5/.5 Bb4/.5 G4/1 -/1 |"
        "C5/1 Eb5/1 G5/2 | F5/1 Eb5/.5 B4/1.5 Ab4/1 | Bb4/1 D5/1 G5/2",
        start=56,
    )
    comping = first + second + again
    mix.play(electric_piano, held(intro, 0, 4), 0.15, pan=-0.2, reverb=0.35)
    mix.play(electric_piano, arpeggio(intro, 0, 4, "..0123.."), 0.16, pan=-0.2, reverb=0.35)
    for beat, length in ((0, 1.4), (1.5, 0.8), (2.5, 1.4)):
        stabs = [Note(n.start + beat, length, n.pitch) for n in held(comping, 8, 4)]
        mix.play(electric_piano, stabs, 0.15, pan=-0.2, reverb=0.25)
    mix.play(electric_piano, held(close, 72, 4), 0.16, pan=-0.2, reverb=0.35)
    mix.play(electric_piano, tune + varied, 0.36, pan=0.15, reverb=0.35)
    mix.play(music_box, middle, 0.26, pan=0.3, reverb=0.5)
    mix.play(flute, middle, 0.13, pan=0.2, reverb=0.5)
    mix.play(music_box, transposed(varied[-3:], 12), 0.1, pan=0.4, reverb=0.7)
    mix.play(pad, held(second + again + close, 40, 4), 0.035, reverb=0.5)
    mix.play(bass, bass_line(comping, 8, 4, "b/1.5 b/.5 f/.5 -/.5 o/.5 f/.5"), 0.4, reverb=0.03)
    mix.play(bass, bass_line(close, 72, 4, "b/4"), 0.36, reverb=0.03)
    mix.drum(kick(), "9..4.9..", (8, 16, 4), 0.6, reverb=0.05)
    mix.drum(brush(), "..8...8.", (8, 16, 4), 0.34, pan=0.05, reverb=0.25)
    mix.drum(hat(), "64546454", (8, 16, 4), 0.11, pan=-0.35)
    mix.drum(shaker(), ".5.7.5.7", (40, 8, 4), 0.12, pan=0.5)
    mix.drum(drop(), "6.....3.", (0, 2, 4), 0.08, pan=-0.5, reverb=0.9)
    return mix.finished()


def turning_wheel() -> NDArray[np.int16]:
    """G major, 4/4, 112 beats a minute, and short, as a radio says who it is: guitar, music box, flute."""
    line = ((0, 0.7), (8, 0.85), (24, 1.0), (36, 0.9), (40, 0.6))
    mix = Mix(40, 112, slow_from=34, dynamics=line, seed=5)
    intro = harmony("G Cadd9")
    first = harmony("G D/F# Em7 Cadd9")
    close = harmony("Am7 D7 Cadd9 G")
    tune = melody(
        "D5/1 G5/.5 A5/.5 B5/1 A5/1 | F#5/1 A5/.5 G5/.5 F#5/1 D5/1 | E5/1 G5/.5 A5/.5 B5/1 D6/1 |"
        "C6/1 B5/.5 A5/.5 G5/2 | A5/1 C6/.5 B5/.5 A5/1 E5/1 | F#5/1 A5/.5 C6/.5 B5/1 A5/1 |"
        "G5/1 E5/.5 G5/.5 D5/2 | G5/4",
        start=8,
    )
    mix.play(string, arpeggio(intro + first, 0, 4, "b.0121.2"), 0.46, pan=-0.25, reverb=0.3)
    mix.play(string, arpeggio(close, 24, 4, "b.0123.1"), 0.46, pan=-0.25, reverb=0.3)
    mix.play(music_box, tune, 0.4, pan=0.25, reverb=0.45)
    mix.play(flute, [note for note in tune if note.start >= 24], 0.2, pan=0.1, reverb=0.5)
    mix.play(bass, bass_line(first + close, 8, 4, "b/2 f/1 o/1"), 0.36, reverb=0.05)
    mix.drum(kick(), "9...6...", (8, 7, 4), 0.5, reverb=0.05)
    mix.drum(brush(), "..6...6.", (8, 7, 4), 0.26, pan=0.1, reverb=0.25)
    mix.drum(drop(), "7...4...", (0, 2, 4), 0.1, pan=0.5, reverb=0.9)
    return mix.finished()


# Covers

Canvas = NDArray[np.float64]
"""Red, green and blue from 0 to 255, (side, side, 3)."""

COVER_SIDE = 300
"""Pixels; pictures are painted at twice that and scaled down, which smooths their edges."""


def _grid() -> tuple[Sound, Sound]:
    """x to the right and y upwards, both from -1 to 1."""
    line = np.linspace(-1, 1, 2 * COVER_SIDE)
    across, down = np.meshgrid(line, line)
    return across, -down


def _sky(top: str, bottom: str) -> Canvas:
    ramp = np.linspace(0, 1, 2 * COVER_SIDE)[:, None, None]
    rows = _colour(top) * (1 - ramp) + _colour(bottom) * ramp
    return np.broadcast_to(rows, (2 * COVER_SIDE, 2 * COVER_SIDE, 3)).copy()


def _colour(code: str) -> Sound:
    return np.array([int(code[place : place + 2], 16) for place in (0, 2, 4)], dtype=np.float64)


def _paint(canvas: Canvas, where: NDArray[np.bool_], code: str, opacity: float = 1.0) -> None:
    canvas[where] = canvas[where] * (1 - opacity) + _colour(code) * opacity


def _waves(canvas: Canvas, level: float, codes: Sequence[str]) -> None:
    """Layers of water from a level down, each a little lower than the one behind it."""
    x, y = _grid()
    for layer, code in enumerate(codes):
        crest = level - 0.17 * layer + 0.045 * np.sin(5.1 * x + 1.9 * layer) + 0.02 * np.sin(11.3 * x - layer)
        _paint(canvas, y < crest, code)


def dawn_cover() -> Canvas:
    """A sun rising over the river."""
    canvas = _sky("2b3a67", "ffb88a")
    x, y = _grid()
    for radius, opacity in ((0.78, 0.12), (0.62, 0.16), (0.46, 1.0)):
        _paint(canvas, np.hypot(x, y + 0.02) < radius, "ffe3b0", opacity)
    _waves(canvas, -0.08, ("e07a5f", "b85c5c", "7d4a63", "4a3a5e", "2b2b4a"))
    return canvas


def wheel_cover() -> Canvas:
    """A mill wheel in green water."""
    canvas = _sky("e7f2dc", "9fd0b5")
    x, y = _grid()
    radius, angle = np.hypot(x, y), np.arctan2(y, x) + 0.13
    spoke = np.abs(np.sin(4 * angle)) * radius < 0.1
    paddle = (np.abs(np.sin(8 * angle)) * radius < 0.16) & (radius > 0.6) & (radius < 0.8)
    rim = (np.abs(radius - 0.62) < 0.045) | (np.abs(radius - 0.34) < 0.025) | (radius < 0.11)
    _paint(canvas, paddle, "7a5236")
    _paint(canvas, rim | (spoke & (radius < 0.62)), "5b3a29")
    _waves(canvas, -0.42, ("4fa58a", "2f7f73", "1f5d5c"))
    return canvas


def ripples_cover() -> Canvas:
    """Two stones have fallen into a pond: rings that cross."""
    canvas = _sky("cfd6d2", "6f7d78")
    x, y = _grid()
    for (east, north, size), code in zip(
        ((-0.35, 0.25, 0.9), (0.42, -0.3, 1.1)), ("3d4a46", "f3f1e4"), strict=True
    ):
        radius = np.hypot(x - east, y - north)
        for ring in range(1, 7):
            _paint(canvas, np.abs(radius - size * ring / 6) < 0.022 - 0.002 * ring, code, 1 - 0.12 * ring)
        _paint(canvas, radius < 0.05, code)
    _paint(canvas, (x / 1.2) ** 2 + ((y + 1.05) / 0.38) ** 2 < 1, "5d7a45")
    return canvas


def lanterns_cover() -> Canvas:
    """Lanterns on a river at night, and their light on the water."""
    canvas = _sky("0c1033", "3b2a6b")
    x, y = _grid()
    _waves(canvas, -0.05, ("231f54", "1b1a47", "14143a", "0e0f2d"))
    for east, north, size in (
        (-0.58, 0.02, 0.17),
        (-0.08, -0.18, 0.21),
        (0.5, -0.02, 0.15),
        (0.34, 0.5, 0.05),
    ):
        radius = np.hypot(x - east, (y - north) / 1.25)
        for glow, opacity in ((1.9, 0.14), (1.45, 0.2), (1.0, 1.0)):
            _paint(canvas, radius < size * glow, "ffb347", opacity)
        _paint(canvas, radius < size * 0.55, "ffe9b8")
        below = (north - size * 1.5 - y) / size
        streak = (np.abs(x - east) < size * (0.8 - 0.16 * below)) & (np.sin(9 * below) > -0.2)
        _paint(canvas, streak & (below > 0) & (below < 4) & (size > 0.1), "ff9f45", 0.55)
    return canvas


def png(canvas: Canvas) -> bytes:
    """The picture as a PNG of 8 bits a channel; every row is stored as its difference from the one above."""
    small = canvas.reshape(COVER_SIDE, 2, COVER_SIDE, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    rows = small.reshape(COVER_SIDE, -1)
    above = np.vstack([np.zeros_like(rows[:1]), rows[:-1]])
    filtered = np.hstack([np.full((COVER_SIDE, 1), 2, np.uint8), rows - above])  # filter type 2: Up
    header = struct.pack(">IIBBBBB", COVER_SIDE, COVER_SIDE, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(filtered.tobytes(), 9)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


# Files

MP3 = "-c:a libmp3lame -b:a 128k -ar 44100 -id3v2_version 3"
OPUS = "-c:a libopus -b:a 80k"
FLAC = "-c:a flac -compression_level 12 -ar 32000 -sample_fmt s16"
M4A = "-c:a aac -b:a 112k -ar 44100 -movflags +faststart"


@dataclass(frozen=True, slots=True)
class Track:
    """One file: its name, title, how it sounds and looks, how ffmpeg encodes it, and its album if any."""

    name: str
    title: str
    compose: Callable[[], NDArray[np.int16]]
    cover: Callable[[], Canvas]
    encoding: str
    album: str = "First Light"


TRACKS = (
    Track("01 Opening the Sluice.mp3", "Opening the Sluice", opening_the_sluice, dawn_cover, MP3),
    Track("02 Water before Sunrise.opus", "해 뜨기 전 물소리", water_before_sunrise, wheel_cover, OPUS),
    Track("03 Stone and Moss.flac", "Stone and Moss", stone_and_moss, ripples_cover, FLAC),
    Track("04 Lanterns Downstream.m4a", "Lanterns Downstream", lanterns_downstream, lanterns_cover, M4A),
    Track("05 Turning Wheel.mp3", "Turning Wheel", turning_wheel, wheel_cover, MP3, album=""),
)


def write(track: Track, number: int, folder: Path) -> Path:
    """Compose, paint, encode and tag one track; neither ffmpeg's version nor the time gets into the file."""
    path = folder / track.name
    cover = png(track.cover())
    tags = {"title": track.title, "artist": "Millrace"}
    if track.album:
        total = str(sum(other.album == track.album for other in TRACKS))
        one_field = path.suffix in (".mp3", ".m4a")  # Vorbis comments have a field for the total
        tags |= {
            "album": track.album,
            "date": "2026",
            "track": f"{number}/{total}" if one_field else str(number),
        }
        tags |= {} if one_field else {"tracktotal": total}
    with tempfile.TemporaryDirectory() as scratch:
        picture = Path(scratch) / "cover.png"
        picture.write_bytes(cover)
        command = ["ffmpeg", "-v", "error", "-f", "s16le", "-ar", str(RATE), "-ac", "2", "-i", "pipe:0"]
        if path.suffix == ".opus":
            tags["METADATA_BLOCK_PICTURE"] = _picture_block(cover)
        else:
            command += ["-i", str(picture), "-map", "0:a", "-map", "1:v", "-c:v", "copy"]
            command += ["-disposition:v", "attached_pic", "-metadata:s:v", "comment=Cover (front)"]
        command += [*track.encoding.split(), "-fflags", "+bitexact", "-flags:a", "+bitexact"]
        for name, value in tags.items():
            command += ["-metadata", f"{name}={value}"]
        try:
            samples = track.compose().tobytes()
            subprocess.run([*command, "-y", str(path)], input=samples, check=True, stderr=subprocess.PIPE)
        except subprocess.CalledProcessError as error:
            sys.exit(f"ffmpeg could not write {path}: {error.stderr.decode(errors='replace').strip()}")
    return path


def _picture_block(cover: bytes) -> str:
    """A front cover as an Ogg comment: FLAC's PICTURE block (RFC 9639 §8.8) in base64."""
    kind = b"image/png"
    block = struct.pack(">II", 3, len(kind)) + kind + struct.pack(">I", 0)
    block += struct.pack(">IIIII", COVER_SIDE, COVER_SIDE, 24, 0, len(cover)) + cover
    return base64.b64encode(block).decode("ascii")


CP949_NAME = "korean_cp949.txt"
CP949_TEXT = """\
물레방아 마을의 활자장이

산이 두 겹으로 접히는 골짜기에 오래된 물레방아가 하나 있었다.
마을 사람들은 가을이면 그곳에서 쌀과 메밀을 찧었고, 겨울이면 물길을 막아 두고 쉬었다.
그 방앗간 이 층에는 늙은 활자장이가 살았다.
그는 아래층의 바퀴가 도는 힘을 가죽띠로 끌어 올려 작은 인쇄기를 돌렸다.
물이 많은 날에는 하루에 백 장을 찍었고, 가문 날에는 손으로 열 장을 찍었다.
그래서 마을의 소식지는 비가 온 다음 날에 가장 두꺼웠다.

활자장이에게는 활자 서랍이 이천삼백오십 칸 있었다.
자주 쓰는 글자는 손이 닿는 곳에, 드물게 쓰는 글자는 사다리 위에 두었다.
그는 그 서랍이면 세상의 말을 모두 적을 수 있다고 믿었다.
그러던 어느 봄날, 아랫마을에 국숫집을 낸 젊은이가 차림표를 부탁하러 왔다.
맨 윗줄에는 똠얌이라고 적혀 있었다.
활자장이는 서랍을 하나하나 열어 보았지만 똠이라는 글자는 어디에도 없었다.
젊은이는 괜찮다고, 빈칸으로 두면 손님들이 알아서 읽을 거라고 말했다.
하지만 활자장이는 빈칸이 있는 종이를 한 번도 내보낸 적이 없었다.

그날 밤 그는 등불을 켜고 새 활자를 깎았다.
똠을 깎고 나니 문득 다른 글자들도 걱정이 되었다.
아이들이 웃을 때 적는 햏이 없었고, 장난감 나팔 소리를 적을 펲도 없었다.
방망이가 젖은 빨래를 치는 소리 뙇도 없었고, 문틈으로 바람이 드는 소리 쓔도 보이지 않았다.
그는 소리가 있는데 글자가 없는 것은 물이 있는데 물길이 없는 것과 같다고 생각했다.
그래서 날마다 일을 마친 뒤에 서너 글자씩 더 깎았다.
여름이 지나고 단풍이 들고 첫눈이 내릴 때까지 서랍은 조금씩 늘어났다.

이듬해 봄, 서랍은 일만 천백칠십이 칸이 되었다.
한글로 적을 수 있는 소리라면 이제 하나도 빠짐이 없었다.
어떤 칸은 아마 백 년이 지나도 열리지 않을 것이었다.
그래도 활자장이는 가끔 그 칸들을 열어 먼지를 털고 기름을 발랐다.
언제 누가 어떤 말을 들고 문을 두드릴지 아무도 모르기 때문이었다.
물은 어디로 갈지 묻지 않고 흘러오지만, 물길은 미리 파 두어야 한다.
아래층에서는 오늘도 바퀴가 돌고, 위층에서는 종이가 한 장씩 쌓인다.
"""
"""Some of its syllables (똠, 펲, 햏, …) are in CP949 but not among the 2,350 of EUC-KR."""


def main(arguments: list[str]) -> None:
    """Write everything into the folder named, or into `media/samples` of this checkout."""
    if len(arguments) > 1 or any(argument.startswith("-") for argument in arguments):
        sys.exit("usage: python examples/compose_samples.py [FOLDER]")
    if shutil.which("ffmpeg") is None:
        sys.exit("compose_samples.py needs ffmpeg, which is not on the PATH: apt install ffmpeg")
    folder = Path(arguments[0]) if arguments else Path(__file__).resolve().parent.parent / "media" / "samples"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CP949_NAME).write_bytes(CP949_TEXT.encode("cp949"))
    except OSError as error:
        sys.exit(f"compose_samples.py cannot write into {folder}: {error.strerror}")
    for number, track in enumerate(TRACKS, 1):
        path = write(track, number, folder)
        sys.stdout.write(f"{path}: {path.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main(sys.argv[1:])
