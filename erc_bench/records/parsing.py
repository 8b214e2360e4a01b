"""From the JSON of a record to its types.

:func:`parse_record` turns the bytes of a file into a :class:`Record`, or raises a
:class:`RecordError` that names the file and the field. So a :class:`Record` that was read has the
right types and has passed the checks of :func:`erc_bench.records.faults.faults`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from erc_bench.errors import ErcBenchError
from erc_bench.records.faults import faults
from erc_bench.records.schema import SCHEMA, Part, Record, Summary, Unscored, Untested, fields_of

REQUIRED = (
    "schema",
    "method",
    "dataset",
    "config_hash",
    "seed",
    "labels",
    "metrics",
    "predictions",
)

REMEDY = (
    "To replace it, repeat its run with --force; if the predictions were made elsewhere, score "
    "them again with --force."
)

K = TypeVar("K", bound=Part)
R = TypeVar("R", Record, Unscored, Untested)
F = TypeVar("F", Record, Unscored, Untested, Summary)


class RecordError(ErcBenchError):
    """Raised when a file is not a record, or is a damaged one."""


def damaged(path: Path, fault: str) -> RecordError:
    """The error for a damaged record; ``fault`` names the field and what is wrong with it."""
    return RecordError(f"{path} is a damaged record: {fault}. {REMEDY}")


def parse_record(contents: bytes, path: Path) -> Record:
    """Parse a record from the contents of its file.

    Args:
        contents: the bytes.
        path: the file's name in errors.

    Raises:
        RecordError: the contents are not JSON, not a record, of a newer schema, or something in
            them does not fit; the field is named.
    """
    return _parse(contents, Record, path)


def parse_unscored(contents: bytes, path: Path) -> Unscored:
    """Parse a record whose metrics may be wrong in any way; otherwise like :func:`parse_record`."""
    return _parse(contents, Unscored, path)


def parse_untested(contents: bytes, path: Path) -> Untested:
    """Parse an untested record; otherwise like :func:`parse_record`."""
    return _parse(contents, Untested, path)


def parse_summary(contents: bytes, path: Path) -> Summary:
    """Parse a record without checking its predictions; otherwise like :func:`parse_record`."""
    _top(contents, path)
    return _without_faults(_decoded(contents, Summary, path), path)


def _parse(contents: bytes, kind: type[R], path: Path) -> R:
    own = _top(contents, path)
    record = _decoded(contents, kind, path)
    _remember(record, own, path)
    return _without_faults(record, path)


def _without_faults(record: F, path: Path) -> F:
    for fault in faults(record):
        raise damaged(path, fault)
    return record


def _top(contents: bytes, path: Path) -> dict[str, msgspec.Raw]:
    """The undecoded values of a record by name, after a check that its schema is known here."""
    kind = dict[str, msgspec.Raw] if contents.lstrip()[:1] == b"{" else Any
    top = _decoded(contents, kind, path)
    missing = [key for key in REQUIRED if not isinstance(top, dict) or key not in top]
    if missing:
        raise RecordError(f"{path} is not a record: it lacks {', '.join(missing)}.")
    schema = _decoded(top["schema"], Any, path)
    if type(schema) is not int or schema < 1:
        raise RecordError(f"{path} is not a record: its schema is {schema!r}.")
    if schema > SCHEMA:
        raise RecordError(
            f"{path} has schema {schema}; this version reads up to {SCHEMA}. Upgrade erc-bench."
        )
    return top


def _decoded(contents: bytes | msgspec.Raw, kind: Any, path: Path, place: str = "$") -> Any:
    """Decode the JSON at a place of a file as a type. None of our own code runs while decoding, so
    every error is about the file."""
    try:
        return _decoder(kind).decode(contents)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at ")
        where = place + where.strip("`").removeprefix("$")
        if what.startswith("Object missing required field"):
            where, what = f"{where}.{what.split('`')[1]}", "it is not there"
        raise damaged(path, f"{where}: {what}") from error
    except (ValueError, RecursionError) as error:
        raise RecordError(
            f"{path} is not a readable record: {_unreadable(bytes(contents), error)}"
        ) from error


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def _unreadable(contents: bytes, error: Exception) -> str:
    if contents[:2] in (b"\xff\xfe", b"\xfe\xff") or contents[1:2] == b"\0":
        return "it is UTF-16 text, and a record is UTF-8. Save it as that."
    if contents[:3] == b"\xef\xbb\xbf":
        return "it begins with a byte-order mark. Save it as UTF-8 without one."
    return f"{error if contents.strip() else 'it is empty'}. {REMEDY}"


def _remember(part: Part, own: Mapping[str, msgspec.Raw], path: Path, place: str = "$") -> None:
    """Set ``extra`` and ``keys`` of a part, and of all parts in it, from its JSON."""
    fields = fields_of(type(part))
    extra = {
        name: _decoded(raw, Any, path, f"{place}.{name}")
        for name, raw in own.items()
        if name not in fields
    }
    msgspec.structs.force_setattr(part, "extra", extra)
    msgspec.structs.force_setattr(part, "keys", tuple(own))
    for name in own.keys() & fields.keys():
        value, where = getattr(part, name), f"{place}.{name}"
        if isinstance(value, Part):
            _remember(value, _raw(own[name], path), path, where)
        elif name == "per_class":
            of_class = _raw(own[name], path)
            for label, each in value.items():
                _remember(each, _raw(of_class[label], path), path, f"{where}.{label}")


def _raw(contents: bytes | msgspec.Raw, path: Path) -> dict[str, msgspec.Raw]:
    """The undecoded values of a JSON object by name."""
    return _decoded(contents, dict[str, msgspec.Raw], path)


def typed(values: Mapping[str, Any], kind: type[K]) -> K:
    """Make a part of a record from plain data; unknown names go to its ``extra``.

    Raises:
        ValueError: the data do not fit, or hold NaN.
    """
    contents = json.dumps(values, allow_nan=False).encode()
    part = msgspec.json.decode(contents, type=kind)
    name = Path(kind.__name__)
    _remember(part, _raw(contents, name), name)
    return part
