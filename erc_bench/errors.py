"""Errors that a user can cause, and the words that help them on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ErcBenchError(Exception):
    """Something a user can mend: one paragraph that says what, where and what to do.

    The command line prints the message without a traceback and exits with status 2.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``" Did you mean 'eacl'?"`` and the list of what there is, to end an error message with."""
    known = sorted(known)
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{hint} There is: {', '.join(known) or 'nothing'}."
