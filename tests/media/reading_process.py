"""Reads media files in a process of its own, which may crash or hang without harm to the test."""

import multiprocessing
import time
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

LONGEST_SECONDS = 10.0


@dataclass(frozen=True)
class Outcome:
    """What came of a file: `error` is the type and text of an exception, empty where it was read."""

    error: str = ""
    refused: bool = False
    warned: tuple[str, ...] = ()
    snippets: int = 0
    peak: float = 0.0
    finite: bool = True


def read(path: Path, silent: bool) -> Outcome:
    """All windows of a file, at most a thousand."""
    from ovavss.errors import DataWarning, UserError
    from ovavss.media.video import ReadOptions, probe, read_windows

    options = ReadOptions(on_missing_audio="silence" if silent else "error")
    snippets, peak, finite = 0, 0.0, True
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            probe(path, options)
            for window in read_windows(path, 5, options):
                snippets += window.snippets
                peak = max(peak, float(np.abs(window.waveform).max()))
                finite &= bool(np.isfinite(window.waveform).all())
        except UserError as error:
            return Outcome(str(error), refused=True)
        except BaseException as error:  # whatever it is, the test says so
            return Outcome(f"{type(error).__name__}: {error}")
    said = tuple(str(warning.message) for warning in caught if issubclass(warning.category, DataWarning))
    return Outcome("", False, said, snippets, peak, finite)


def _serve(connection: Connection) -> None:
    while True:
        connection.send(read(*connection.recv()))


class ReadingProcess:
    """Starts the process, and anew where it crashed or was ended because it took too long."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def read(self, path: Path, silent: bool) -> Outcome:
        """As the function `read`; a crash and a hang count as errors."""
        self._connection.send((path, silent))
        used = self._cpu_seconds()
        try:
            # What the machine does besides does not count: of the clock, ten times as long is allowed.
            end = time.monotonic() + 10 * LONGEST_SECONDS
            while not self._connection.poll(0.5):
                if self._cpu_seconds() - used > LONGEST_SECONDS or time.monotonic() > end:
                    self.close()
                    self._start()
                    return Outcome(f"hangs for more than {LONGEST_SECONDS} s")
            return self._connection.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            self._start()
            return Outcome(f"crashes with status {code}")

    def _cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()
