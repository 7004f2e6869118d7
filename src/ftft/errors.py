"""The one exception a user is meant to read, and the nearest right spelling for a wrong word."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend: one sentence saying what is wrong, where, and what would be right.

    The command line prints it without a traceback and exits with code 2. Library code raises it for bad input
    only; a defect of ours raises an ordinary exception, so that it is never mistaken for the user's.
    """


class Diverged(UserError):
    """Training whose loss, gradient, weights or score is no finite number: the settings are to blame, so that a search of
    settings may go on with others."""


class Interrupted(Exception):
    """Training was asked to stop (Ctrl-C or SIGTERM) and has saved a checkpoint; running again resumes."""


def nearest(word: str, options: Iterable[str]) -> str | None:
    """The option spelled most like ``word``, or None where nothing is close."""
    found = difflib.get_close_matches(str(word), list(options), n=1, cutoff=0.6)
    return found[0] if found else None


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """`` Did you mean "x"?`` for the nearest option, else the options themselves; to be appended to a sentence."""
    options = list(options)
    near = nearest(word, options)
    if near is not None:
        return f'; did you mean "{near}"?'
    shown = ", ".join(str(option) for option in options[:12])
    more = f", and {len(options) - 12} more" if len(options) > 12 else ""
    return f"; there is {shown}{more}" if options else ""
