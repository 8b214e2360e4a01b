"""The error that a user can fix, and helpers for its messages."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The ``errno`` values of a write for which there is no room."""


class ErcBenchError(Exception):
    """An error that a user can fix.

    The message is one paragraph: what is wrong, where, and what to do. The command line prints it
    without a traceback and exits with status 2.
    """


class SettingsError(ErcBenchError):
    """Raised while a method runs, if its settings do not fit the data.

    In a search, a trial that drew such settings has failed.
    """


def explain(error: Exception, where: str = "--debug shows where") -> str:
    """One paragraph about an error; for an :class:`ErcBenchError`, its own message."""
    if isinstance(error, ErcBenchError):
        return str(error)
    if isinstance(error, OSError) and error.errno in FULL:
        return f"{error.filename or 'the output'} can't be written: {error.strerror}. Make room."
    reason = " ".join(str(error).split())
    return (
        f"failed with {type(error).__name__}: {reason}. This is a defect of erc-bench, or of the "
        f"package that brings the method, and not of your files. Please report it ({where})."
    )


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most similar to ``name``; None if none is similar."""
    near = difflib.get_close_matches(name[:100].lower(), known, n=1, cutoff=0.5)
    return near[0] if near else None


def quoted(value: object, length: int = 60) -> str:
    """A value from a file for an error message: in quotes, and cut to fit on a line."""
    text = repr(value)
    return text if len(text) <= length else f"{text[: length - 1]}… ({len(text):,} characters)"


def listed(names: Iterable[object], most: int = 12) -> str:
    """Names as one text: ``"id, label, … (521 in all)"``, or ``"nothing"`` if there are none."""
    all_names = [str(name) for name in names]
    cut = [name if len(name) <= 40 else f"{name[:39]}…" for name in all_names[:most]]
    more = f", … ({len(all_names):,} in all)" if len(all_names) > most else ""
    return (", ".join(cut) or "nothing") + more


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message: ``" Did you mean 'eacl'?"`` and the list of known names."""
    known = sorted(known)
    near = nearest(name, known)
    hint = f" Did you mean {near!r}?" if near else ""
    return f"{hint} Known: {listed(known, 40)}."
