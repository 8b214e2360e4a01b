"""The tutorial's code is taken out of the page, installed and run as a reader would."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).parent.parent / "docs" / "adding-a-method.md"
FILE = re.compile(r"^`([\w./-]+)`\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def call(*command: str, folder: Path, path: Path | None = None) -> str:
    """Return the output of a command, which must succeed; ``path`` is on its module path."""
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of the tutorial's package, and the folder in which it is installed."""
    for tool in ("pip", "setuptools"):
        if find_spec(tool) is None:
            pytest.skip(f"{tool} is not installed, and this test may not fetch it")
    folder, installed = tmp_path_factory.mktemp("package"), tmp_path_factory.mktemp("installed")
    for name, text in FILE.findall(TUTORIAL.read_text(encoding="utf-8")):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    offline = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation")
    call("pip", "install", *offline, "--target", str(installed), ".", folder=folder)
    return folder, installed


def test_the_files_are_those_of_the_page(package):
    page = TUTORIAL.read_text(encoding="utf-8")
    tree = re.search(r"```\nerc-bag-of-words/\n(.*?)```", page, re.DOTALL)[1]
    drawn = {line.strip() for line in tree.splitlines()} - {"erc_bag_of_words/"}
    assert drawn == {Path(name).name for name, _ in FILE.findall(page)}
    for link in re.findall(r"\]\((\.\.[^)]+)\)", page):
        assert (TUTORIAL.parent / link).exists(), link


@pytest.mark.slow
def test_the_method_is_found_and_run_through_its_entry_point(package, tmp_path):
    _, installed = package
    run = ("erc_bench.cli", "run", "--method", "bag-of-words", "--dataset", "demo", "--quiet")
    printed = call(*run, folder=tmp_path, path=installed)
    assert "bag-of-words on demo, seed 1" in printed
    (path,) = (tmp_path / "leaderboard" / "records").glob("*/*/*.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["context"] == "past"
    assert record["encoder"] == {"name": "", "digest": ""}
    test = record["metrics"]["test"]
    support = [figures["support"] for figures in test["per_class"].values()]
    assert test["accuracy"] > 100 * max(support) / sum(support) + 20


@pytest.mark.slow
def test_the_test_of_the_tutorial_passes(package, tmp_path):
    folder, installed = package
    test = ("pytest", "-q", "-p", "no:cacheprovider", str(folder))
    assert "1 passed" in call(*test, folder=tmp_path, path=installed)
