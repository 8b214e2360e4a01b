"""One process holds a folder: on one machine, and across machines without a working flock."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from erc_bench import leases
from erc_bench.errors import ErcBenchError
from erc_bench.files import filesystem_time, temporary_name
from erc_bench.leases import HeldError, hold, holder, is_held

ELSEWHERE = """
import errno, fcntl, os, platform, socket, sys, time
from pathlib import Path

host, mode, folder, *rest = sys.argv[1:]
socket.gethostname = platform.node = lambda: host

def flock(*_):
    # As NFS mounted with nolock, or as a filesystem that has none.
    if mode == "missing":
        raise OSError(errno.EOPNOTSUPP, "no flock here")

fcntl.flock = flock
from erc_bench import leases
leases.LEASE_SECONDS, leases.BEAT_SECONDS = 2.0, 0.2
"""
"""A process that sees another host name and no working flock, as on another machine."""

HOLDING = """
with leases.hold(Path(folder)):
    print("held", flush=True)
    time.sleep(60)
"""

TAKING = """
begun = time.monotonic()
try:
    with leases.hold(Path(folder)):
        print("held after", time.monotonic() - begun, flush=True)
except leases.HeldError as error:
    print("refused", error, flush=True)
"""

WORKING = """
for number in range(20):
    place = Path(folder) / str(number)
    place.mkdir(exist_ok=True)
    try:
        with leases.hold(place):
            if not (place / "done").exists():
                with (place / "times").open("a") as file:
                    file.write(host + chr(10))
                time.sleep(0.05)
                (place / "done").touch()
    except leases.HeldError:
        pass
"""


def elsewhere(host: str, mode: str, folder: Path, script: str) -> subprocess.Popen[str]:
    pytest.importorskip("fcntl", reason="flock is of Unix")
    return subprocess.Popen(
        [sys.executable, "-c", ELSEWHERE + script, host, mode, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.2)


def test_a_folder_is_held_by_one_process(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    with hold(tmp_path) as held:
        held.check()
        assert is_held(tmp_path)
        assert f"process {os.getpid()}" in holder(tmp_path)
        assert "since 20" in holder(tmp_path)
        with pytest.raises(HeldError, match=f"process {os.getpid()}"), hold(tmp_path):
            pass
    assert not is_held(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"lock"}


def test_flock_alone_holds_a_folder_too(tmp_path: Path) -> None:
    with FileLock(tmp_path / "lock"):
        assert is_held(tmp_path)
        with pytest.raises(HeldError), hold(tmp_path):
            pass


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["missing", "silent"])
def test_without_flock_a_lease_keeps_another_machine_out(tmp_path: Path, mode: str) -> None:
    with elsewhere("one", mode, tmp_path, HOLDING) as first:
        assert first.stdout
        assert first.stdout.readline() == "held\n"
        assert json.loads((tmp_path / "owner.json").read_text(encoding="utf-8"))["host"] == "one"
        with elsewhere("two", mode, tmp_path, TAKING) as second:
            said = second.communicate(timeout=60)[0]
            assert said.startswith("refused  (process ")
            assert " on one since " in said
        # The machine is lost: the lease is not renewed, and its process can't be checked from here.
        first.kill()
        first.wait()
        with elsewhere("two", mode, tmp_path, TAKING) as third:
            said = third.communicate(timeout=60)[0]
            assert said.startswith("held after ")
            assert float(said.split()[-1]) >= 2  # the lease's seconds


def test_repeated_checks_notice_that_a_machine_is_lost(tmp_path: Path, quickly: None) -> None:
    with elsewhere("one", "silent", tmp_path, HOLDING) as first:
        assert first.stdout
        assert first.stdout.readline() == "held\n"
        for _ in range(5):
            assert is_held(tmp_path)
            time.sleep(0.1)
        first.kill()
        first.wait()
        deadline = time.monotonic() + 20
        while is_held(tmp_path):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_process_killed_on_this_machine_frees_its_folder_at_once(tmp_path: Path) -> None:
    script = "import sys, time; from pathlib import Path; from erc_bench import leases\n"
    with subprocess.Popen(
        [sys.executable, "-c", f"{script}folder = sys.argv[1]\n{HOLDING}", str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        assert is_held(tmp_path)
        process.kill()
        process.wait()
    begun = time.monotonic()
    assert not is_held(tmp_path)
    with hold(tmp_path):
        pass
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("ask", ["take", "look"])
def test_a_lease_that_was_never_written_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    """A process was killed after it created the file and before it wrote to it."""
    monkeypatch.setattr(leases, "EMPTY_SECONDS", 0.5)
    (tmp_path / "lease").touch()
    (tmp_path / "lock").touch()
    if ask == "look":
        assert is_held(tmp_path)
        deadline = time.monotonic() + 20
        while is_held(tmp_path):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    begun = time.monotonic()
    with hold(tmp_path) as held:
        held.check()
        time.sleep(1)
        assert is_held(tmp_path)
        held.check()
    assert time.monotonic() - begun < 10
    assert not is_held(tmp_path)


@pytest.mark.slow
def test_a_process_that_was_paused_too_long_learns_that_its_lease_is_lost(
    tmp_path: Path, quickly: None
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(HeldError, match="on other"), hold(tmp_path) as held:  # noqa: PT012
            (tmp_path / "lease").unlink()
            (tmp_path / "lease").write_text(
                "filelock/2\npid=1\nhost=other\nmode=lease\nduration=2.0\ntoken=ab\n",
                encoding="utf-8",
            )
            (tmp_path / "owner.json").write_text(
                '{"host": "other", "process": 1}', encoding="utf-8"
            )
            with pytest.raises(HeldError):
                held.check()
            time.sleep(10)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "owner.json").exists()


@pytest.mark.parametrize("mode", ["missing", "silent"])
def test_two_machines_without_flock_do_no_work_twice(tmp_path: Path, mode: str) -> None:
    machines = [elsewhere(host, mode, tmp_path, WORKING) for host in ("one", "two")]
    for machine in machines:
        machine.communicate(timeout=120)
        assert machine.returncode == 0
    done = [
        (tmp_path / str(n) / "times").read_text(encoding="utf-8").splitlines() for n in range(20)
    ]
    assert all(len(by) == 1 for by in done)


def test_temporary_names_differ_by_process_and_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.node", lambda: "node/7")
    first, second = (temporary_name(tmp_path / "r.json") for _ in range(2))
    assert first != second
    assert first.parent == tmp_path
    assert "node_7" in first.name
    assert str(os.getpid()) in first.name


def test_filesystem_time_precedes_later_files(tmp_path: Path) -> None:
    now = filesystem_time(tmp_path)
    (tmp_path / "later").touch()
    assert now <= (tmp_path / "later").stat().st_mtime
    assert {path.name for path in tmp_path.iterdir()} == {"later"}


def test_a_held_error_is_an_erc_bench_error() -> None:
    assert issubclass(HeldError, ErcBenchError)
