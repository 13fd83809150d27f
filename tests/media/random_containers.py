"""Recipes of small media files of every kind that PyAV writes, what they hold, and damage to them."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from hypothesis import strategies as st

# Pixel format of each picture codec; sample rates of each sound codec, where not all go.
PIXELS = {
    "libx264": "yuv420p", "mpeg4": "yuv420p", "mpeg2video": "yuv420p", "mpeg1video": "yuv420p", "mjpeg": "yuvj420p",
    "png": "rgb24", "libvpx": "yuv420p", "libvpx-vp9": "yuv420p", "ffv1": "yuv444p", "flv": "yuv420p", "gif": "bgr8",
    "rawvideo": "yuv420p", "huffyuv": "yuv422p", "msmpeg4v2": "yuv420p", "wmv2": "yuv420p", "qtrle": "rgb24",
}  # fmt: skip
RATES = {
    "libopus": (8000, 16000, 48000), "libmp3lame": (16000, 22050, 44100, 48000), "mp2": (16000, 32000, 48000),
    "ac3": (32000, 44100, 48000), "wmav2": (16000, 44100), "aac": (8000, 16000, 44100, 96000), "g722": (16000,),
}  # fmt: skip
ANY_RATE = (8000, 11025, 16000, 44100, 96000)
CONTAINERS = {
    "mp4": (("libx264", "mpeg4", "mjpeg", "libvpx-vp9"), ("aac", "libmp3lame", "ac3", "alac", "flac")),
    "mov": (("libx264", "mjpeg", "png", "qtrle"), ("aac", "pcm_s16le", "pcm_f32le", "pcm_s24le", "pcm_s16be")),
    "mkv": (("libx264", "ffv1", "huffyuv", "mjpeg", "mpeg2video"), ("flac", "pcm_f32le", "vorbis", "wavpack", "mp2")),
    "webm": (("libvpx", "libvpx-vp9"), ("libopus", "vorbis")),
    "avi": (("mpeg4", "rawvideo", "mjpeg", "msmpeg4v2"), ("libmp3lame", "pcm_s16le", "pcm_u8", "adpcm_ms", "ac3")),
    "ts": (("libx264", "mpeg2video", "mpeg4"), ("aac", "ac3", "mp2", "libopus")),
    "flv": (("flv", "libx264"), ("aac", "libmp3lame")),
    "wmv": (("wmv2", "msmpeg4v2"), ("wmav2",)),
    "mpg": (("mpeg1video", "mpeg2video"), ("mp2", "ac3")),
    "nut": (("ffv1", "libx264", "png"), ("pcm_s16le", "vorbis", "g722", "pcm_mulaw")),
    "3gp": (("libx264", "mpeg4"), ("aac",)),
    "gif": (("gif",), ()),
    "wav": ((), ("pcm_s16le", "pcm_f32le", "pcm_mulaw", "adpcm_ima_wav")),
    "ogg": ((), ("libopus", "flac")),
}  # fmt: skip
LAYOUTS = {1: "mono", 2: "stereo", 4: "quad", 6: "5.1", 8: "7.1"}


@dataclass(frozen=True)
class Recipe:
    """What a file holds; times in seconds, `sound_gap` and `picture_gap` are pauses half way."""

    container: str
    video_codec: str | None
    size: tuple[int, int]
    frame_rate: Fraction
    frames: int
    picture_start: float
    picture_gap: float
    audio_codec: str | None
    sample_rate: int
    channels: int
    sound_seconds: float
    sound_start: float
    sound_gap: float

    @property
    def shared_seconds(self) -> float:
        """For how long the file holds both picture and sound, as far as there are no pauses."""
        if self.video_codec is None or self.audio_codec is None:
            return 0.0
        picture_end = self.picture_start + float(self.frames / self.frame_rate)
        return min(picture_end, self.sound_start + self.sound_seconds) - max(self.picture_start, self.sound_start)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Any file; two in three begin at 0 without pauses."""
    container = draw(st.sampled_from(sorted(CONTAINERS)))
    videos, audios = CONTAINERS[container]
    video = draw(st.sampled_from(videos)) if videos and (not audios or draw(st.integers(0, 19))) else None
    audio = draw(st.sampled_from(audios)) if audios and (video is None or draw(st.integers(0, 9))) else None
    even = PIXELS.get(video or "", "").startswith("yuv4") or video == "libx264"
    sides = st.integers(8, 70).map(lambda side: side * 2) if even else st.integers(16, 140)
    common = (Fraction(25), Fraction(30), Fraction(30000, 1001), Fraction(24000, 1001))
    rate = draw(st.sampled_from(common if container == "mpg" else (*common, Fraction(1), Fraction(5), Fraction(120))))
    odd = draw(st.integers(0, 2)) == 0 and container not in ("avi", "gif", "wav", "mpg")
    times = st.sampled_from((0.0, 0.3, 2.0, 70.0, 5000.0)) if odd else st.just(0.0)
    most = {"libmp3lame": 2, "mp2": 2, "wmav2": 2, "g722": 1, "adpcm_ms": 2, "adpcm_ima_wav": 2, "ac3": 6, "flac": 2}
    return Recipe(
        container,
        video,
        (draw(sides), draw(sides)),
        rate,
        draw(st.integers(1, min(40, int(3 * rate)))),
        draw(times),
        draw(times),
        audio,
        draw(st.sampled_from(RATES.get(audio or "", ANY_RATE))),
        2 if audio == "vorbis" else draw(st.sampled_from([n for n in LAYOUTS if n <= most.get(audio or "", 8)])),
        draw(st.floats(0.05, 3.0)),
        draw(times),
        draw(times),
    )


def write(path: Path, recipe: Recipe) -> bool:
    """Whether the encoders and the container take what the recipe asks for."""
    options = {"strict": "experimental", "max_interleave_delta": "0"}
    try:
        with av.open(str(path), "w", format=_FORMATS.get(recipe.container), options=options) as container:
            packets = _pictures(container, recipe) if recipe.video_codec else []
            packets += _sounds(container, recipe) if recipe.audio_codec else []
            for packet in sorted(packets, key=lambda packet: float(packet.dts * packet.time_base)):
                container.mux(packet)
    except (FFmpegError, ValueError, OverflowError):
        return False
    return True


_FORMATS = {"mkv": "matroska", "ts": "mpegts", "wmv": "asf", "mpg": "mpeg"}


def _pictures(container: av.container.OutputContainer, recipe: Recipe) -> list[av.Packet]:
    stream = container.add_stream(recipe.video_codec, rate=recipe.frame_rate)
    stream.width, stream.height = recipe.size
    stream.pix_fmt = PIXELS[recipe.video_codec or ""]
    fast = {"libx264": {"preset": "ultrafast"}, "libvpx": {"deadline": "realtime"}}
    stream.options = fast.get((recipe.video_codec or "").removesuffix("-vp9"), {})
    pixels = np.random.default_rng(0).integers(0, 255, (*recipe.size[::-1], 3), dtype=np.uint8)
    packets = []
    for number in range(recipe.frames):
        frame = av.VideoFrame.from_ndarray(np.roll(pixels, number, 1), format="rgb24").reformat(format=stream.pix_fmt)
        frame.pts, frame.time_base = number, 1 / recipe.frame_rate
        packets += stream.encode(frame)
    packets += stream.encode()
    return _moved(packets, recipe.picture_start, recipe.picture_gap, recipe.frames / recipe.frame_rate / 2)


def _sounds(container: av.container.OutputContainer, recipe: Recipe) -> list[av.Packet]:
    layout, rate = LAYOUTS[recipe.channels], recipe.sample_rate
    stream = container.add_stream(recipe.audio_codec, rate=rate, layout=layout)
    if recipe.audio_codec == "wmav2":
        stream.bit_rate = 64_000
    step = stream.codec_context.frame_size or 1024
    wave = 0.5 * np.sin(2 * np.pi * 440 / rate * np.arange(max(step, round(recipe.sound_seconds * rate))))
    samples = wave.astype(np.float32).repeat(recipe.channels)
    packets = []
    for start in range(0, len(wave), step):
        part = samples[None, start * recipe.channels : (start + step) * recipe.channels]
        frame = av.AudioFrame.from_ndarray(part, format="flt", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        packets += stream.encode(frame)
    packets += stream.encode()
    return _moved(packets, recipe.sound_start, recipe.sound_gap, recipe.sound_seconds / 2)


def _moved(packets: list[av.Packet], start: float, gap: float, middle: float | Fraction) -> list[av.Packet]:
    packets = [packet for packet in packets if packet.dts is not None and packet.pts is not None]
    for packet in packets:
        late = float(packet.dts * packet.time_base) >= middle
        ticks = round((start + gap * late) / packet.time_base)
        packet.dts, packet.pts = packet.dts + ticks, packet.pts + ticks
    return packets


@dataclass(frozen=True)
class Damage:
    """What happens to a file's bytes: places are fractions of its length."""

    kind: str
    place: float
    length: float
    seed: int

    def apply(self, data: bytes) -> bytes:
        start = int(self.place * len(data))
        stop = min(len(data), start + max(1, int(self.length * len(data))))
        noise = np.random.default_rng(self.seed)
        if self.kind == "cut":
            return data[:start]
        if self.kind == "lose":
            return data[:start] + data[stop:]
        if self.kind == "zero":
            return data[:start] + bytes(stop - start) + data[stop:]
        if self.kind == "noise":
            return data[:start] + noise.bytes(stop - start) + data[stop:]
        if self.kind == "repeat":
            return data[:stop] + data[start:]
        changed = np.frombuffer(data, np.uint8).copy()  # "bits": single ones, all over the file or in its header
        places = noise.integers(0, max(1, stop if self.length < 0.05 else len(data)), 20)
        changed[places] ^= (1 << noise.integers(0, 8, 20)).astype(np.uint8)
        return changed.tobytes()


damages = st.builds(
    Damage,
    st.sampled_from(("bits", "cut", "lose", "noise", "repeat", "zero")),
    st.one_of(st.floats(0, 1), st.floats(0, 0.05)),
    st.floats(0, 0.3),
    st.integers(0, 1000),
)
