"""Descriptions of a method's settings: name, kind, default, and the comment beside each.

The comments in a configuration's dataclass are the only place that describes a setting.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import itertools
import textwrap
import tokenize
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from erc_bench.method.config import default_of
from erc_bench.settings.experiment import default_settings
from erc_bench.settings.registry import method_class


@dataclass(frozen=True)
class Setting:
    """One setting."""

    name: str
    """The name in ``key=value``: ``features.lr``."""
    kind: str
    """``int``, ``float``, ``true or false``, ``text``, or the allowed words."""
    default: str
    text: str
    """One line; empty if the source has no comment."""


def method_settings(method: str) -> list[Setting]:
    """Every setting of a method. Its default is that of a run without a preset; a corpus may have
    another.

    Raises:
        ErcBenchError: there is no such method, or its YAML file is invalid.
    """
    return settings_of(method_class(method).Config, values=default_settings(method))


def settings_of(
    config: type, within: str = "", values: Mapping[str, Any] | None = None
) -> list[Setting]:
    """Every setting of a configuration class, followed by the settings of its groups.

    Args:
        config: a dataclass, such as a method's ``Config``.
        within: a prefix for the names, such as ``evaluation.`` for a group.
        values: the defaults by name, those of a group as a mapping. Without them, those of the
            class.
    """
    kinds = typing.get_type_hints(config)
    texts: dict[str, str] = {}
    for each in reversed(config.__mro__):
        if dataclasses.is_dataclass(each):
            texts |= _comments(each)
    plain, groups = [], []
    for setting in dataclasses.fields(config):
        kind = kinds[setting.name]
        default = default_of(setting) if values is None else values[setting.name]
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            of_group = None if values is None else default
            groups += settings_of(kind, f"{within}{setting.name}.", of_group)
        else:
            plain.append(
                Setting(
                    f"{within}{setting.name}",
                    _kind(kind),
                    _written(default),
                    texts.get(setting.name, ""),
                )
            )
    return plain + groups


def _kind(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(map(str, typing.get_args(kind)))
    names = {bool: "true or false", str: "text", int: "int", float: "float"}
    return names.get(kind, str(kind).replace("typing.", ""))


def _written(value: Any) -> str:
    """A value as YAML and ``key=value`` write it."""
    if isinstance(value, bool):
        return str(value).lower()
    return '""' if value == "" else str(value)


def _comments(config: type) -> dict[str, str]:
    """The comment of each field of a class, without the fields of its bases.

    The comment stands beside the field or above it, or is the first paragraph of the string below.
    """
    try:
        source = textwrap.dedent(inspect.getsource(config))
    except (OSError, TypeError):  # a class without a source file
        return {}
    found: dict[str, str] = {}
    names = set(config.__annotations__)
    above: list[str] = []
    line: list[tokenize.TokenInfo] = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            text = token.string.lstrip("# ").strip()
            if line and line[0].string in names:
                found[line[0].string] = text
            else:
                above.append(text)
        elif token.type in (tokenize.NEWLINE, tokenize.NL):
            if line:
                if above and line[0].string in names:
                    found.setdefault(line[0].string, " ".join(above))
                above = []
                line = []
        elif token.type not in (tokenize.INDENT, tokenize.DEDENT):
            line.append(token)
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    for this, below in itertools.pairwise(tree.body):
        if isinstance(this, ast.AnnAssign) and isinstance(this.target, ast.Name):
            match below:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    paragraph = inspect.cleandoc(text).split("\n\n")[0]
                    found.setdefault(this.target.id, " ".join(paragraph.replace("``", "").split()))
    return found
