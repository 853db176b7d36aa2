"""Sounds to ids and back, and sound files that are odd, broken or hostile."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whorl.codecs.audio import AudioCodec, AudioShape, fit_audio_codec, load
from whorl.codecs.audio_files import Sounds, read_sound
from whorl.codecs.audio_mel import Mel
from whorl.core.errors import DataError, RecordError, SpecError

soundfile = pytest.importorskip("soundfile", reason="needs the extra audio: soundfile")
pytest.importorskip("soxr", reason="needs the extra audio: soxr")

RATE = 8_000
WANTED = Sounds(RATE, max_seconds=4.0)


def tone(hz: float, seconds: float = 0.5, rate: int = RATE, size: float = 0.3) -> np.ndarray:
    times = np.arange(int(seconds * rate)) / rate
    return np.round(size * 32_767 * np.sin(2 * np.pi * hz * times)).astype(np.int16)


def file_of(samples: np.ndarray, rate: int = RATE, **how: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **{"format": "WAV", **how})
    return file.getvalue()


def strongest_hz(sound: np.ndarray, rate: int = RATE) -> float:
    spectrum = np.abs(np.fft.rfft(sound.astype(np.float64)))
    return float(spectrum.argmax() * rate / len(sound))


@pytest.fixture(scope="module")
def codec() -> AudioCodec:
    rng = np.random.default_rng(0)
    sounds = [tone(hz) for hz in range(200, 3_000, 100)]
    sounds += [rng.normal(0, 3_000, 4_000).astype(np.int16) for _ in range(4)]
    return fit_audio_codec(sounds, AudioShape(RATE, 40, 40, 4.0), 2, 16)


# ------------------------------------------------------------------ codec


def test_ids_are_as_many_as_the_length_says_and_decode_to_whole_frames(codec: AudioCodec) -> None:
    frame = codec.shape.frame_samples
    for count in (1, frame - 1, frame, frame + 1, 4 * RATE):
        ids = codec.encode(np.zeros(count, np.int16))
        assert len(ids) == codec.num_ids_of(count) == -(-count // 320) * 2
        assert len(codec.decode(ids)) == -(-count // 320) * 320
        assert all(0 <= i < codec.num_ids for i in ids)


def test_a_tone_comes_back_as_that_tone(codec: AudioCodec) -> None:
    for hz in (300, 800, 1_500, 2_500):
        back = codec.decode(codec.encode(tone(hz)))
        assert abs(strongest_hz(back) - hz) < 60 + hz / 16  # about a band


def test_loudness_does_not_change_the_ids(codec: AudioCodec) -> None:
    assert codec.encode(tone(700, size=0.9)) == codec.encode(tone(700, size=0.09))


def test_the_second_codebook_lowers_the_loss(codec: AudioCodec) -> None:
    sounds = [tone(hz) for hz in (250, 555, 1_234)]
    first = AudioCodec(codec.books[:1], codec.shape)
    assert 0 < codec.loss(sounds) < first.loss(sounds)


def test_the_loss_is_that_of_a_search_by_hand(codec: AudioCodec) -> None:
    sound = tone(431, seconds=0.2)
    frames = codec.frames(sound)
    missing = []
    for frame in frames:
        for book in codec.books.astype(np.float64):
            frame = frame - min(book, key=lambda centre: float(((frame - centre) ** 2).sum()))
        missing.append(frame)
    decibels = 10 * np.log10(np.e) * np.sqrt(np.mean(np.square(missing)))
    assert codec.loss([sound]) == pytest.approx(decibels)


def test_what_is_lost_is_told(codec: AudioCodec) -> None:
    found, silent = (float(word) for word in codec.told.replace(";", "").split() if "." in word)
    assert 0 < found < silent


def test_files_load_to_the_same_codec(codec: AudioCodec) -> None:
    again = load("audio", codec.files())
    assert again.files() == codec.files()
    assert again.encode(tone(600)) == codec.encode(tone(600)) and again.shape == codec.shape
    with pytest.raises(RecordError):
        load("audio", {"codebooks.safetensors": b"{}"})


def test_the_same_sounds_fit_the_same_bytes() -> None:
    sounds = [tone(hz) for hz in range(300, 2_000, 50)]
    shape = AudioShape(RATE, 20, 20)
    first, second = (fit_audio_codec(iter(sounds), shape, 1, 32).files() for _ in range(2))
    assert first == second


def test_too_little_sound_and_wrong_shapes_are_refused() -> None:
    with pytest.raises(DataError, match="too little sound"):
        fit_audio_codec([tone(300, 0.02)], AudioShape(RATE), 1, 64)
    assert fit_audio_codec([tone(300, 0.1)], AudioShape(RATE), 1, 64).num_ids == 3
    for wrong in ({"frame_ms": 15}, {"rate": 1}, {"num_bands": 1_000}):
        with pytest.raises(SpecError):
            AudioShape(**wrong)


@pytest.mark.parametrize(
    "value",
    [np.zeros(0, np.int16), np.zeros(5 * RATE, np.int16), np.zeros(9), np.zeros((4, 4), np.int16)],
    ids=["empty", "long", "floats", "stereo"],
)
def test_what_is_no_sound_of_this_codec_is_refused(codec: AudioCodec, value: np.ndarray) -> None:
    with pytest.raises(DataError, match="cannot encode"):
        codec.encode(value)


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 31), max_size=30))
def test_any_ids_make_a_sound(codec: AudioCodec, ids: list[int]) -> None:
    back = codec.decode(ids)
    assert back.dtype == np.int16 and len(back) % codec.shape.frame_samples == 0
    assert len(back) <= len(ids) * codec.shape.frame_samples


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_sound_survives_a_file_exactly_and_ids_nearly(
    codec: AudioCodec, data: st.DataObject
) -> None:
    levels = data.draw(st.lists(st.integers(-32_768, 32_767), min_size=1, max_size=900))
    sound = np.array(levels, np.int16)
    back = codec.from_bytes(codec.to_bytes(sound))
    assert len(back) == len(sound)
    assert int(np.abs(back.astype(int) - sound).max()) <= 1  # a level more or less
    assert len(codec.encode(back)) == codec.num_ids_of(len(sound))


# ------------------------------------------------------------------ mel


def test_a_tone_is_loudest_in_its_band() -> None:
    mel = Mel(RATE, 40)
    for hz in (200, 1_000, 3_000):
        loudest = mel.analyse(tone(hz)[:4_000].astype(np.float64) / 32_768).mean(axis=0).argmax()
        edges = np.linspace(*(2595 * np.log10(1 + np.array([60.0, 4_000.0]) / 700)), 42)
        assert abs(edges[loudest + 1] - 2595 * np.log10(1 + hz / 700)) <= edges[1] - edges[0]


def test_inverting_gives_bands_that_are_near() -> None:
    rng = np.random.default_rng(1)
    mel = Mel(RATE, 40)
    noise = rng.normal(0, 0.1, 8_000)
    wanted = mel.analyse(noise)
    found = mel.analyse(mel.invert(wanted))
    assert np.corrcoef(wanted.ravel(), found.ravel())[0, 1] > 0.7
    assert abs(float((found - wanted).mean())) < 0.7


# ------------------------------------------------------------------ files


@pytest.mark.parametrize(
    ("how", "within"),
    [
        ({"format": "WAV", "subtype": "PCM_16"}, 1),
        ({"format": "WAV", "subtype": "PCM_U8"}, 300),
        ({"format": "WAV", "subtype": "PCM_24"}, 1),
        ({"format": "WAV", "subtype": "FLOAT"}, 1),
        ({"format": "FLAC"}, 1),
        ({"format": "OGG", "subtype": "VORBIS"}, 3_000),
        ({"format": "MP3"}, 6_000),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_formats_are_read(how: dict[str, str], within: int) -> None:
    wanted = tone(440, 1.0)
    is_float = how.get("subtype") == "FLOAT"
    found = read_sound(file_of(wanted / 32_767 if is_float else wanted, **how), WANTED)
    assert strongest_hz(found) == pytest.approx(440, abs=4)
    if len(found) == len(wanted):
        assert np.abs(found.astype(int) - wanted).max() <= within


@pytest.mark.parametrize("rate", [4_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_other_rates_are_resampled(rate: int) -> None:
    found = read_sound(file_of(tone(440, 1.0, rate), rate), WANTED)
    assert abs(len(found) - RATE) <= 1 and strongest_hz(found) == pytest.approx(440, abs=2)


def test_channels_are_averaged() -> None:
    left = tone(440)
    stereo = np.stack([left, np.zeros_like(left)], axis=1)
    found = read_sound(file_of(stereo), WANTED)
    assert np.abs(found.astype(int) - left / 2).max() <= 1


def test_samples_beyond_full_scale_are_clipped() -> None:
    found = read_sound(file_of(np.array([0.0, 2.0, -7.0]), subtype="FLOAT"), WANTED)
    assert found.tolist() == [0, 32_767, -32_767]


def test_silence_is_read_and_encoded(codec: AudioCodec) -> None:
    silence = read_sound(file_of(np.zeros(4_000, np.int16)), WANTED)
    assert not silence.any() and len(set(codec.encode(silence)[::2])) == 1


def ten_hours() -> bytes:
    """A FLAC whose header says ten hours, of 100 bytes."""
    data = bytearray(file_of(tone(440), format="FLAC"))
    samples = 36_000 * RATE
    data[21] = (data[21] & 0xF0) | (samples >> 32)
    data[22:26] = struct.pack(">I", samples & 0xFFFF_FFFF)
    return bytes(data)


BROKEN = {
    "nothing": (b"", "no sound"),
    "text": (b"one two three" * 100, "no sound"),
    "no samples": (file_of(np.zeros(0, np.int16)), "no samples"),
    "none at 16 kHz": (file_of(np.ones(1, np.int16), 192_000), "no samples"),
    "too long": (file_of(tone(440, 5.0)), "too long"),
    "ten hours": (ten_hours(), "too long"),
    "nine channels": (file_of(np.zeros((800, 9), np.int16)), "channels"),
    "1 kHz": (file_of(tone(100, 1.0, 1_000), 1_000), "odd rate"),
    "NaN": (file_of(np.array([0.0, np.nan]), subtype="FLOAT"), "no numbers"),
    "infinity": (file_of(np.array([0.0, np.inf]), subtype="FLOAT"), "no numbers"),
    "WAV cut": (file_of(tone(440))[:-999], "cut short"),
    "Ogg cut": (file_of(tone(440, 2.0), format="OGG")[:-999], "cut short"),
    "FLAC cut": (file_of(tone(440, 2.0), format="FLAC")[:-999], "cut short|no sound"),
    "AIFF": (file_of(tone(440), format="AIFF"), "another format"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_with_what_is_wrong(name: str, tmp_path: Path) -> None:
    data, words = BROKEN[name]
    with pytest.raises(DataError, match=words):
        read_sound(data, WANTED)
    path = tmp_path / "sound.wav"
    path.write_bytes(data)
    with pytest.raises(DataError, match=words):
        read_sound(path, WANTED)


def test_a_long_file_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: object, **__: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(soundfile.SoundFile, "read", decoded)
    with pytest.raises(DataError, match=r"36,000\.0 s"):
        read_sound(ten_hours(), WANTED)
    with pytest.raises(DataError, match="too large"):
        read_sound(bytes(WANTED.max_bytes + 1), WANTED)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_files_give_a_sound_or_an_error_of_ours(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["WAV", "FLAC", "OGG", "MP3"]))
    whole = bytearray(file_of(tone(440), format=kind))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read_sound(bytes(whole), WANTED)
    except DataError:
        return
    assert found.dtype == np.int16 and 0 < len(found) <= RATE * 4
