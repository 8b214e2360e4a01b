"""Exclusive use of a folder, among the processes of one machine or of many that share a filesystem.

Two locks are held at once: a ``flock`` and a lease. A ``flock`` is released as soon as its process
ends, however it ends. But some filesystems have none, and on NFS mounted with ``nolock`` other
machines do not see it.

A lease is a file that its holder touches every :data:`BEAT_SECONDS`. Another machine may take it
over once it has not changed for :data:`LEASE_SECONDS`. That machine measures the time with its own
stopwatch, so no two clocks are compared. On the holder's own machine, a process that has ended is
noticed at once.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import json
import os
import platform
import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, SoftFileLease, Timeout

from erc_bench.errors import ErcBenchError
from erc_bench.progress import say

LEASE_SECONDS = 180.0
"""How long a lease holds without being renewed. NFS may show a file's time a minute late."""

BEAT_SECONDS = 20.0
"""How often a lease is renewed."""

LOCK_SECONDS = 0.2
"""How long to wait for a lock. :func:`is_held` keeps it for less."""

EMPTY_SECONDS = 5.0
"""How long a lease may be empty. A process that is alive writes it right after creating it."""

WITHOUT_FLOCK = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK})
"""The ``errno`` values of a filesystem without ``flock``."""


class HeldError(ErcBenchError):
    """Raised when another process holds the folder. The message says which, if that is known."""


class Hold:
    """A folder that this process holds, until it is released or the lease is lost."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lost = False
        self.lease = _lease(folder, self._on_loss)

    def check(self) -> None:
        """Check that the lease is still this process's.

        Raises:
            HeldError: another process took it over, as this one was stopped for too long.
        """
        owner = self.lease.owner
        if self.lost or owner is None or owner.token != self.lease.token:
            raise HeldError(holder(self.folder))

    def _on_loss(self, _: Any) -> None:
        """Interrupt the main thread. The lease's own thread calls this."""
        self.lost = True
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(signal.getsignal(number)):
                _thread.interrupt_main(number)
                return


@contextlib.contextmanager
def hold(folder: Path, *, patient: bool = False) -> Iterator[Hold]:
    """Hold a folder.

    If a process on another machine holds it, this waits until that process turns out to be alive,
    which takes a minute or so, or until its lease has run out.

    Args:
        folder: the folder; it must exist.
        patient: wait for the process that holds it, however long, and tell the user.

    Raises:
        HeldError: another process holds it, or took it over in the meantime.
        OSError: the folder can't be written to.
    """
    with _flock(folder, patient):
        held = Hold(folder)
        _take(held.lease, patient)
        owner = folder / "owner.json"
        try:
            with contextlib.suppress(OSError):
                owner.write_text(json.dumps(this_process()))
            try:
                yield held
            except KeyboardInterrupt:
                if held.lost:
                    raise HeldError(holder(folder)) from None
                raise
        finally:
            if not held.lost:
                with contextlib.suppress(OSError):
                    owner.unlink(missing_ok=True)
            held.lease.release()


_watched: dict[Path, SoftFileLease] = {}
"""The leases that were found held. Each object remembers how long its lease has not changed."""


def is_held(folder: Path) -> bool:
    """Whether another process holds a folder now. Cheap, and meant to be called repeatedly."""
    leased = (folder / "lease").exists()
    if not leased and not (folder / "lock").exists():
        return False
    try:
        with _flock(folder, False, seconds=0):
            if leased:
                _remove_empty(folder / "lease")
                with _watched.setdefault(folder, _lease(folder)).acquire(timeout=0):
                    del _watched[folder]
            return False
    except (HeldError, Timeout):
        return True
    except OSError:
        return False  # whoever tries to hold the folder reports this error


def holder(folder: Path) -> str:
    """The process that holds a folder, as ``" (process … on …)"``; empty if it is not known."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        owner = json.loads((folder / "owner.json").read_text())
        since = f" since {owner['since']}" if "since" in owner else ""
        return f" (process {owner['process']} on {owner['host']}{since})"
    return ""


def this_process() -> dict[str, Any]:
    """What tells others about this process: ``host``, ``process``, and ``since``, which is now."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"host": platform.node(), "process": os.getpid(), "since": now}


def _lease(folder: Path, on_loss: Callable[[Any], None] | None = None) -> SoftFileLease:
    return SoftFileLease(
        folder / "lease",
        lease_duration=LEASE_SECONDS,
        heartbeat_interval=BEAT_SECONDS,
        on_compromise=on_loss,
        thread_local=False,
    )


@contextlib.contextmanager
def _flock(folder: Path, patient: bool, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the ``flock`` of a folder, if its filesystem has one."""
    lock = FileLock(folder / "lock", thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire(timeout=seconds, poll_interval=0.02)
    except Timeout:
        if not patient:
            raise HeldError(holder(folder)) from None
        say(f"Another run uses {folder}{holder(folder)}; waiting for it.")
        lock.acquire()
    except NotImplementedError:
        pass
    except OSError as error:
        if error.errno not in WITHOUT_FLOCK:
            raise
    try:
        yield
    finally:
        lock.release()


def _take(lease: SoftFileLease, patient: bool) -> None:
    """Acquire a lease; take it over if a process on another machine no longer renews it.

    Raises:
        HeldError: the process that holds it is alive.
    """
    folder = Path(lease.lock_file).parent
    with contextlib.suppress(Timeout):
        lease.acquire(timeout=LOCK_SECONDS, poll_interval=0.02)
        return
    say(
        f"Another process holds {folder}{holder(folder)}. Waiting up to {LEASE_SECONDS:.0f} s for "
        "a sign of it; without one, this process takes over."
    )
    seen = _touched(lease)
    while True:
        _remove_empty(Path(lease.lock_file))
        with contextlib.suppress(Timeout):
            lease.acquire(timeout=1, poll_interval=0.5)
            return
        if not patient and _touched(lease) not in (seen, None):
            raise HeldError(holder(folder))


_empty: dict[Path, tuple[tuple[int, int], float]] = {}
"""The leases that were found empty: inode and time of the file, and when it was first seen."""


def _remove_empty(lease: Path) -> None:
    """Remove a lease that has been empty for :data:`EMPTY_SECONDS`.

    Its process was killed after creating and before writing it. ``filelock`` would treat it as
    held for ever.
    """
    with contextlib.suppress(OSError):
        file, now = lease.stat(), time.monotonic()
        mark = file.st_ino, file.st_mtime_ns
        known, since = _empty.get(lease, (None, now))
        if file.st_size:
            _empty.pop(lease, None)
        elif known != mark:
            _empty[lease] = mark, now
        elif now - since >= EMPTY_SECONDS:
            lease.unlink()
            del _empty[lease]


def _touched(lease: SoftFileLease) -> int | None:
    """When a lease was last renewed, by the filesystem's clock; None if there is no lease."""
    with contextlib.suppress(OSError):
        return os.stat(lease.lock_file).st_mtime_ns
    return None
