"""A cache of computed results beside the records."""

from __future__ import annotations

import contextlib
import hashlib
import json
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from erc_bench.files import replacing, temporary_name


class Cache:
    """JSON values by digest in ``<root>/.cache``, which git ignores.

    A key is a digest over everything that a value depends on, including the code that computes it.
    So nothing in the cache can be stale. A value that can't be read is computed again. If the
    folder can't be written to, this only costs time.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / ".cache"
        self.used: set[str] = set()
        self.ready = False

    @cached_property
    def code(self) -> str:
        """Digest of the code whose results are kept, and of the versions of its libraries."""
        here = Path(__file__).parent
        files = [
            *here.glob("*.py"),
            *(here.parent / "records").glob("*.py"),
            *(here.parent / "evaluation").glob("*.py"),
            here.parent / "corpus" / "conversation.py",
        ]
        contents = b"".join(hashlib.sha256(p.read_bytes()).digest() for p in sorted(files))
        contents += " ".join(map(version, ("numpy", "msgspec", "scipy"))).encode()
        return hashlib.sha256(contents).hexdigest()

    def key(self, *parts: Any) -> str:
        """Return the key of plain data."""
        text = json.dumps([self.code, *parts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def read(self, key: str) -> Any:
        """Return the value of a key, or None."""
        self.used.add(key)
        try:
            return msgspec.json.decode((self.folder / f"{key}.json").read_bytes())
        except (OSError, ValueError, RecursionError):
            return None

    def write(self, key: str, value: Any) -> None:
        """Keep a value."""
        self.used.add(key)
        path = self.folder / f"{key}.json"
        text = json.dumps(value, separators=(",", ":"))
        with contextlib.suppress(OSError):
            if not self.ready:
                self.folder.mkdir(parents=True, exist_ok=True)
                (self.folder / ".gitignore").write_text("*\n")
                self.ready = True
            with replacing(path, temporary_name(path)) as file:
                file.write(text.encode())

    def prune(self) -> None:
        """Remove the values that were neither read nor written since this object was made."""
        for path in self.folder.glob("*.json"):
            if path.stem not in self.used:
                with contextlib.suppress(OSError):
                    path.unlink()
