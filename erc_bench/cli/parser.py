"""An argument parser that names the nearest command or option where one is mistyped."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from erc_bench.errors import nearest


class CommandParser(argparse.ArgumentParser):
    """As argparse's, with a hint; the parsers of its commands are such ones too.

    An option that a command does not know is an error of that command, so that the hint is among
    its own options.
    """

    commands: Any = None
    given: Sequence[str] = ()

    def add_subparsers(self, **options: Any) -> Any:
        """As argparse's."""
        self.commands = super().add_subparsers(**options)
        return self.commands

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's, but that an unknown option is an error."""
        self.given = sys.argv[1:] if args is None else list(args)
        found, rest = super().parse_known_args(args, namespace)
        if any(text.startswith("-") for text in rest):
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return found, rest

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and what was probably meant, and exit with status 2."""
        hint = "".join(f" Did you mean {near} by {text}?" for text, near in self._mistyped())
        super().error(f"{message}.{hint}" if hint else message)

    def _mistyped(self) -> Iterator[tuple[str, str]]:
        """Each option that there is not, and a command that there is not; and what is like it."""
        options = {o[2:] for a in self._actions for o in a.option_strings if o.startswith("--")}
        for text in self.given:
            name = text.partition("=")[0]
            if name.startswith("--"):
                known = any(option.startswith(name[2:]) for option in options)
                if not known and (near := nearest(name[2:], options)):
                    yield name, f"--{near}"
            elif self.commands is not None and not name.startswith("-"):
                choices = self.commands.choices
                if name not in choices and (near := nearest(name, choices)):
                    yield name, near
                return  # what follows is the command's own
