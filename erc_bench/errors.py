"""Errors that a user can cause, and the words that help them on."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Numbers of the errors of a place that is full."""


class ErcBenchError(Exception):
    """Something a user can mend: one paragraph that says what, where and what to do.

    The command line prints the message without a traceback and exits with status 2.
    """


def explain(error: Exception, where: str = "--debug shows where") -> str:
    """One paragraph about an error: its own, if it is one that the user can mend."""
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
    """The known name that is most like another one; None where none is like it."""
    near = difflib.get_close_matches(name[:100].lower(), known, n=1, cutoff=0.5)
    return near[0] if near else None


def quoted(value: object, length: int = 60) -> str:
    """A value from a file as an error shows it: in quotes, and not longer than a line."""
    text = repr(value)
    return text if len(text) <= length else f"{text[: length - 1]}… ({len(text):,} characters)"


def listed(names: Iterable[object], most: int = 12) -> str:
    """``"id, label, … (521 in all)"``; ``"nothing"`` where there is none."""
    all_names = [str(name) for name in names]
    cut = [name if len(name) <= 40 else f"{name[:39]}…" for name in all_names[:most]]
    more = f", … ({len(all_names):,} in all)" if len(all_names) > most else ""
    return (", ".join(cut) or "nothing") + more


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``" Did you mean 'eacl'?"`` and the list of what there is, to end an error message with."""
    known = sorted(known)
    near = nearest(name, known)
    hint = f" Did you mean {near!r}?" if near else ""
    return f"{hint} There is: {listed(known, 40)}."
