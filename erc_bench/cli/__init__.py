"""The command line, which parses, calls and prints. Each group of commands has its own file."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Literal

from cyclopts import (
    App,
    CycloptsError,
    Group,
    MissingArgumentError,
    Parameter,
    UnknownCommandError,
    UnusedCliTokensError,
)

from erc_bench import __version__
from erc_bench.cli import data, encode, grid, hub, plot, predict, records, run, tune, wandb
from erc_bench.cli.common import complain
from erc_bench.errors import FULL, ErcBenchError, explain, nearest
from erc_bench.progress import console, show_warning

INTERRUPTED = 130

app = App(
    name="erc-bench",
    help="A benchmark suite for emotion recognition in conversation.",
    version=f"erc-bench {__version__}",
    version_flags="--version",
    help_format="plaintext",
    # If an option is repeated, the last value counts, as in most programs; lists grow.
    default_parameter=Parameter(negative=(), show_default=False, allow_repeating=True),
    print_error=False,
    exit_on_error=False,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
for command in (
    *(run.run, tune.tune, run.config, run.methods),
    *(records.leaderboard, records.compare, records.ablations, records.rescore, records.score),
    *(records.show, records.explain, plot.plot, predict.predict, encode.encode),
    *(grid.app, records.app, data.app, hub.app, wandb.app),
):
    app.command(command)


@app.command
def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print a shell script that completes commands, options, methods and corpora.

    Args:
        shell: The shell. Its manual says where such scripts go, for bash
            ~/.local/share/bash-completion/completions/erc-bench.
    """
    print(app.generate_completion(shell=shell), end="")


app.meta.group_parameters = Group("Every command", sort_key=1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    0: done; 1: a run failed; 2: an error that the user can fix; 130: interrupted.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        if not sys.stdout.isatty():
            sys.stdout.reconfigure(encoding="utf-8")  # files and pipes get every character
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows the rest
    words = sys.argv[1:] if argv is None else argv
    try:
        status = app.meta(words) or 0
    except CycloptsError as error:
        complain(_misuse(error))
        return 2
    if any(flag in words for flag in app.help_flags):
        try:
            run.print_settings(_named(words, "--method"))
        except ErcBenchError as error:
            complain(str(error))
            return 2
    return status


@app.meta.default
def launch(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    quiet: bool = False,
    debug: bool = False,
) -> int:
    """Run one command.

    Args:
        quiet: No progress, results only.
        debug: Show a traceback on errors.
    """
    command, given, _ = app.parse_args(_ordered(tokens))
    if command == app.help_print:
        complain(f"Which command? `{' '.join(['erc-bench', *tokens])} --help` lists them.")
        return 2
    console.quiet = quiet
    with warnings.catch_warnings():
        if not debug:
            warnings.showwarning = show_warning
        try:
            return command(*given.args, **given.kwargs) or 0
        except KeyboardInterrupt:
            onwards = "; the same command resumes it after the last finished epoch"
            complain(f"interrupted{onwards if command in (run.run, tune.tune) else ''}.")
            return INTERRUPTED
        except BrokenPipeError:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  for the interpreter's own flush
            return 1
        except Exception as error:
            if debug:
                raise
            complain(explain(error))
            if isinstance(error, OSError) and error.errno in FULL:  # perhaps of standard output
                sys.stdout = open(os.devnull, "w")  # noqa: SIM115  for the interpreter's own flush
            return 2 if isinstance(error, ErcBenchError) else 1
        finally:
            console.quiet = False


def _named(words: Sequence[str], option: str) -> list[str]:
    """The values of an option in a command line, without settings ``key=value``."""
    found, here = [], False
    for word in words:
        if word.startswith("-"):
            name, _, value = word.partition("=")
            here = name == option
            word = value
        if here and word and "=" not in word:
            found.append(word)
    return found


def _ordered(words: Sequence[str]) -> Sequence[str]:
    """Move each ``-`` (standard input) behind a ``--``, since elsewhere it counts as an option.

    So it is the last argument, also behind settings ``key=value``.
    """
    if "--" in words or "-" not in words:
        return words
    others = [word for word in words if word != "-"]
    return [*others, "--", *("-" for _ in range(len(words) - len(others)))]


def _misuse(error: CycloptsError) -> str:
    """One paragraph about a wrong command line, with a suggestion if there is a similar option."""
    command = " ".join(["erc-bench", *(error.command_chain or ())])
    unused = error.unused_tokens or []
    if isinstance(error, UnusedCliTokensError):
        return f"`{command}` takes no {' '.join(unused)!r}; `{command} --help` shows more."
    if isinstance(error, UnknownCommandError) and unused[0].startswith("-"):
        near = nearest(unused[0], [*app.help_flags, *app.version_flags, "--quiet", "--debug"])
        return f"Unknown option: {unused[0]}." + (f" Did you mean {near}?" if near else "")
    if isinstance(error, MissingArgumentError) and error.argument and not error.keyword:
        near = nearest(error.argument.name, [word for word in unused if word.startswith("-")])
        hint = f" Did you mean it by {near}?" if near else ""
        return f"`{command}` needs {error.argument.name}; `{command} --help` shows more.{hint}"
    return str(error)
