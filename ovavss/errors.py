"""What a user's mistake raises, and what is said of data that were repaired."""

import warnings


class UserError(Exception):
    """A mistake in the user's input.

    The message is one sentence that names the file or the field and says what to do. The command line prints it
    without a traceback and exits with status 2.
    """


class DataWarning(RuntimeWarning):
    """Something in the user's data was wrong and was repaired or passed over; the sentence says what and where."""


def warn(sentence: str) -> None:
    """Says a `DataWarning`; the command line prints it on standard error."""
    warnings.warn(sentence, DataWarning, stacklevel=3)
