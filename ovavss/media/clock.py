"""Time stamps that go on where they leap: recordings that were joined, resumed, or whose clock was set."""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ovavss.errors import DataWarning

# Seconds. A hole of this length that no other stream fills is no pause in the recording, but a leap of its clock.
_LEAP = 30.0
_BACKWARD = 1.0
_MPEG_PERIOD = 2**33 / 90_000
# How closely a stream that leaps has to fit a correction that another one needed, to take over the same.
_FIT = 1.0


class _Track:
    """Where one stream is, in corrected seconds."""

    def __init__(self) -> None:
        self.shift = 0.0
        self.time: float | None = None
        self.step = 0.0
        self.end = 0.0


class Clock:
    """Corrects the time stamps of packets, which have to come in the order of the file.

    A stream may well pause for minutes, as a slide show does; it leaps where the file holds nothing else meanwhile. The
    streams that leap together are shifted together, so that picture and sound stay in step.
    """

    def __init__(self, path: Path, streams: Iterable[Any]) -> None:
        self._path = path
        self._tracks = {stream.index: _Track() for stream in streams if stream is not None}
        self._wraps = any(s.container.format.name in ("mpeg", "mpegts") for s in streams if s is not None)
        self._shifts = [0.0]
        self._leaps: list[tuple[float, float]] = []
        self._start: float | None = None
        self.end = 0.0
        """Seconds at which the last packet of any stream ends, as the file has it."""

    def correct(self, packet: Any) -> None:
        """Shifts the packet's time stamps, where those of its stream have leapt."""
        stamp = packet.dts if packet.dts is not None else packet.pts
        if stamp is None or not packet.time_base:
            return
        base, duration = float(packet.time_base), packet.duration or 0
        if packet.pts is not None and abs(packet.pts - stamp) * base > _LEAP:
            packet.pts = stamp  # no decoder holds frames back for so long
        self.end = max(self.end, (max(stamp, stamp if packet.pts is None else packet.pts) + duration) * base)
        track = self._tracks.get(packet.stream_index)
        if track is None:
            return
        others = [other.time for other in self._tracks.values() if other is not track and other.time is not None]
        if self._has_leapt(track, stamp * base + track.shift, others):
            self._shift(track, stamp * base, others)
        time = stamp * base + track.shift
        step = duration * base if track.time is None else time - track.time
        if 0 < step < _BACKWARD:
            track.step = step
        self._start = time if self._start is None else self._start
        track.time, track.end = time, time + duration * base
        ticks = round(track.shift / base)
        packet.dts = packet.dts + ticks if packet.dts is not None else None
        packet.pts = packet.pts + ticks if packet.pts is not None else None

    def original(self, stream: Any, time: float) -> float:
        """A corrected time of the stream's last packets as the file has it."""
        return time - self._tracks[stream.index].shift

    def warn(self) -> None:
        """One line on the seconds that were passed over, if any."""
        if not self._leaps:
            return
        at, total = self._leaps[0][0], sum(seconds for _, seconds in self._leaps)
        times = (
            f"{len(self._leaps)} times, by {total:.0f} s in all, first" if len(self._leaps) > 1 else f"{total:.0f} s"
        )
        warnings.warn(
            f"{self._path}: the time stamps leap forward {times} at {max(at, 0):.1f} s; "
            "reading goes on there, without the gap",
            DataWarning,
            stacklevel=2,
        )

    def _has_leapt(self, track: _Track, time: float, others: list[float]) -> bool:
        if track.time is None:
            return bool(others) and abs(time - max(others)) > _LEAP
        if time < track.time - _BACKWARD:
            return True
        # Where there is one stream alone, a picture that the file says to be shown for long is believed.
        gap = time - (track.time if others else max(track.time, track.end))
        return gap > _LEAP and (not others or time - max(others) > gap / 2)

    def _shift(self, track: _Track, raw: float, others: list[float]) -> None:
        # Streams that begin far apart begin together.
        expected = track.time + track.step if track.time is not None else self._start or 0.0
        for shift in reversed(self._shifts):
            if abs(raw + shift - expected) < _FIT:
                track.shift = shift
                return
        skipped = raw + track.shift - expected
        if self._wraps and skipped > _MPEG_PERIOD / 2:  # FFmpeg takes a leap backward for a clock that wrapped
            skipped -= _MPEG_PERIOD
        if skipped > _LEAP or track.time is None:
            self._leaps.append((expected - (self._start or 0.0), abs(skipped)))
        track.shift = expected - raw
        self._shifts.append(track.shift)
