"""The imports of light commands, and the time until a run begins to train."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_records import Method, write_records

HEAVY = {"torch", "transformers", "lightning", "torchmetrics", "datasets", "wandb"}


def imported(code: str, folder: Path) -> set[str]:
    """The heavy packages that a program in a folder has imported when it ends."""
    script = f"import sys\n{code}\nprint('heavy:', *{HEAVY} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].removeprefix("heavy:").split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the records of a few runs."""
    here = tmp_path_factory.mktemp("startup")
    write_records(here / "leaderboard", [Method("a"), Method("b", 0.3)], ["meld"], 20)
    return here


@pytest.mark.parametrize(
    "rooms",
    [
        "erc_bench",
        "erc_bench.settings.registry, erc_bench.records.store, erc_bench.datamodules.meld",
    ],
)
def test_the_light_rooms_import_nothing_heavy(rooms: str, folder: Path) -> None:
    assert imported(f"import {rooms}", folder) == set()


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["--version"],
        ["methods"],
        ["data", "list"],
        ["leaderboard"],
        ["leaderboard", "--check"],
        ["compare", "a", "b", "--dataset", "meld"],
        ["show", "a/seed1"],
    ],
)
def test_quick_commands_import_nothing_heavy(argv: list[str], folder: Path) -> None:
    code = (
        f"from erc_bench.cli import main\ntry:\n    assert main({argv!r}) == 0\n"
        "except SystemExit as end:\n    assert not end.code"
    )
    assert imported(code, folder) == set()


def cpu_seconds(code: str, folder: Path) -> float:
    """CPU seconds of a program that runs in a folder; the smallest of three measurements."""
    resource = pytest.importorskip("resource", reason="only Unix counts processor time")
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


@pytest.mark.timed
@pytest.mark.slow
def test_a_cached_run_reaches_its_first_step_quickly(tiny_encoder: str, tmp_path: Path) -> None:
    """The first step comes within twice the CPU time of the imports and of loading the encoder."""
    loading = f"import torch, transformers as t\nt.AutoModel.from_pretrained({tiny_encoder!r})"
    argv = ["run", "--method", "eacl", "--dataset", "demo", "--preset", "smoke", "--quiet"]
    settings = [f"encoder={tiny_encoder}", "precision=float32", "max_len=32"]
    until_the_first_step = (
        "import os\nfrom erc_bench.method.contract import ErcMethod\n"
        "from erc_bench.cli import main\n"
        "ErcMethod.on_train_batch_start = lambda *_: os._exit(0)\n"
        f"raise SystemExit(main({[*argv, *settings]!r}) or 'no step was made')"
    )
    # The first of three runs makes the examples, so the smallest time is that of a later run.
    assert cpu_seconds(until_the_first_step, tmp_path) < 2 * cpu_seconds(loading, tmp_path)
