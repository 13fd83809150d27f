"""How a command ends: a user's mistake, Ctrl-C, SIGTERM, a closed pipe, a terminal that lacks a letter."""

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from ovavss.commands.options import expand_options
from ovavss.errors import DataWarning, UserError

# What asks a process to end, and can be answered.
_ENDING = (signal.SIGTERM, signal.SIGHUP)


class Terminated(KeyboardInterrupt):
    """A signal that asks the process to end: all that cleans up after Ctrl-C does so here too."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a command so that it ends as its users expect.

    A user's mistake is one printed sentence and status 2; a signal ends it as it asks; everything else keeps its
    traceback. Parameters that are dataclasses of options become options.
    """
    function = expand_options(function)

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with user_errors():
            return function(*args, **kwargs)

    return wrapped


@contextmanager
def user_errors() -> Iterator[None]:
    """Prints a UserError (with its table of keys, if it has one) and exits with 2."""
    encodable_output()
    try:
        with _ending_signals(), warnings.catch_warnings():
            warnings.simplefilter("always", DataWarning)
            show = warnings.showwarning
            warnings.showwarning = lambda message, category, *rest, **more: (
                print(f"warning: {message}", file=sys.stderr)
                if issubclass(category, DataWarning)
                else show(message, category, *rest, **more)
            )
            yield
    except UserError as error:
        report = getattr(error, "report", None)
        if report is not None:
            from rich.console import Console

            Console(stderr=True).print(report.table(rows=20))
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except Terminated as error:
        print(f"ended by {signal.Signals(error.number).name}: no unfinished file is left", file=sys.stderr)
        raise SystemExit(128 + error.number) from None
    except KeyboardInterrupt:
        print("interrupted: no unfinished file is left", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(1) from None


@contextmanager
def _ending_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP raise `Terminated`, once; a signal that the caller ignores or handles stays as it is."""
    main_process = os.getpid()

    def end(number: int, _: object) -> None:
        if os.getpid() != main_process:  # a forked worker: as if there were no handler
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        for each in taken:
            signal.signal(each, signal.SIG_IGN)  # the cleaning must not be interrupted
        raise Terminated(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [number for number in _ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def encodable_output() -> None:
    """Letters that the terminal's encoding lacks are printed as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
