"""Writes small media files whose every frame tells its own number, and whose sound is known."""

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np

FIRST_GREY, GREY_STEP = 20, 3

Sound = Callable[[np.ndarray], np.ndarray]


def frame_number(frame: np.ndarray) -> int:
    """Number of the frame that `write` drew."""
    return round((float(frame.mean()) - FIRST_GREY) / GREY_STEP)


def tone(hertz: float) -> Sound:
    return lambda time: 0.5 * np.sin(2 * np.pi * hertz * time)


def write(
    path: Path,
    seconds: float = 2.0,
    size: tuple[int, int] = (48, 64),
    fps: int = 10,
    sounds: tuple[Sound, ...] | None = (tone(440),),
    rate: int = 16_000,
    layout: str = "mono",
    first_frame: int = 0,
    sound_seconds: float | None = None,
    audio_codec: str | None = None,
) -> Path:
    """A video of plain gray frames, one level a frame, and one sound a channel (None: no sound track)."""
    height, width = size
    options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        # yuv444p: odd sizes survive
        video = container.add_stream("libx264", rate=fps, options={"crf": "4"})
        video.width, video.height, video.pix_fmt = width, height, "yuv444p"
        audio = None
        if sounds is not None:
            audio = container.add_stream(audio_codec or ("aac" if path.suffix == ".mp4" else "pcm_s16le"), rate=rate)
            audio.layout = layout
        for number in range(round(seconds * fps)):
            level = FIRST_GREY + GREY_STEP * (number % 75)
            frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), level, np.uint8), format="rgb24")
            frame.pts = number + first_frame
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if audio is not None and sounds is not None:
            time = np.arange(round((sound_seconds or seconds) * rate)) / rate
            samples = np.stack([sound(time) for sound in sounds]).astype(np.float32)
            for start in range(0, samples.shape[1], 1024):
                part = np.ascontiguousarray(samples[:, start : start + 1024])
                sound_frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
                sound_frame.sample_rate, sound_frame.pts = rate, start
                container.mux(audio.encode(sound_frame))
            container.mux(audio.encode())
    return path


def rotate(path: Path) -> Path:
    """Ask players of an MP4 to turn its picture by 90 degrees, as a phone held upright does."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # of the first track, the picture
    one = 1 << 16
    values = (0, one, 0, -one, 0, 0, 0, 0, 1 << 30)
    data[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    path.write_bytes(data)
    return path
