"""An installed wheel works outside a checkout."""

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the checkout with the tools at hand (no network)."""
    folder = tmp_path_factory.mktemp("dist")
    # A copy is built: a build leaves folders in the tree, and packs those of earlier builds.
    checkout = folder / "checkout"
    unwanted = shutil.ignore_patterns(".*", "build", "*.egg-info", "runs", "__pycache__")
    shutil.copytree(ROOT, checkout, ignore=unwanted)
    shutil.rmtree(checkout / "leaderboard" / "records")
    command = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    done = subprocess.run(
        [sys.executable, *command, "--wheel-dir", str(folder), str(checkout)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("erc_bench-*.whl")
    return built


def test_the_wheel_holds_every_room_and_nothing_else_of_the_checkout(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"erc_bench"}
    for wanted in (
        "erc_bench/methods/eacl.py",
        "erc_bench/datamodules/meld.py",
        "erc_bench/experiments/eacl.yaml",
        "erc_bench/published/published.yaml",
    ):
        assert wanted in names


@pytest.mark.slow
def test_an_installed_wheel_runs_in_an_empty_folder(
    wheel: Path, tiny_encoder: str, tmp_path: Path
) -> None:
    """The environment is clean, with the wheel and the dependencies of this interpreter."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    purelib = next((home / "lib").glob("python*")) / "site-packages"
    dependencies = [p for p in sys.path if p.endswith("site-packages")]
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target"]
    subprocess.run([*install, str(purelib), str(wheel)], check=True, capture_output=True)
    # A .pth file adds the dependencies, but not the editable checkout in the same folders.
    (purelib / "dependencies.pth").write_text("\n".join(dependencies) + "\n", encoding="utf-8")
    empty = tmp_path / "empty"
    empty.mkdir()
    program = "import sys, erc_bench.cli as c; print(c.__file__); sys.exit(c.main(sys.argv[1:]))"
    settings = ["max_batches=2", "max_len=32", "precision=float32", f"encoder={tiny_encoder}"]
    argv = ["run", "--method", "eacl", "--dataset", "demo", "--preset", "smoke", *settings]
    done = subprocess.run(
        [str(python), "-c", program, *argv], cwd=empty, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith(str(purelib))
    assert "weighted-F1" in done.stdout
    assert [p.name for p in empty.iterdir()] == ["leaderboard"]
    assert len(list(empty.glob("leaderboard/records/demo/eacl/*.json"))) == 1
