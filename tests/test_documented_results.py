"""The tables and picture of README.md and docs are what ``python -m docs.tables`` writes."""

from __future__ import annotations

import re
import shlex
import subprocess

import pytest

from docs import tables
from erc_bench.cli import app, tune
from erc_bench.cli.run import experiments
from erc_bench.records.store import read_record, record_files
from erc_bench.settings.experiment import resolve
from erc_bench.settings.space import Study


@pytest.fixture(autouse=True, scope="module")
def only_committed_records() -> None:
    """Skip these tests if ./leaderboard has other records, which would make other tables."""
    command = ["git", "-C", str(tables.BOARD), "ls-files", "--others", "--modified", "records"]
    try:
        own = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("git does not say which records are the project's")
    if own:
        pytest.skip("./leaderboard has other records than the project's")


def test_the_tables_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.main(["--check"]) == 0, f"run `python -m docs.tables`: {capsys.readouterr().out}"


def test_every_table_has_its_place() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in tables.PAGES)
    assert sorted(re.findall("<!-- table: (.+?) -->", pages)) == sorted(tables.TABLES)


@pytest.mark.slow
def test_every_run_that_is_missing_has_its_hours() -> None:
    head, _, *rows = tables.not_run().splitlines()
    assert head.endswith("| hours |")
    assert len(rows) == len(tables.NOT_RUN)


def test_a_stale_table_is_found_and_written(tmp_path, monkeypatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Before\n\n<!-- table: commands -->\nold\n<!-- end of table -->\n\nAfter\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(tables, "PAGES", [page])
    monkeypatch.setattr(tables, "PICTURE", tmp_path / "picture.svg")
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    assert (tables.main(["--check"]), "old" in page.read_text(encoding="utf-8")) == (1, True)
    assert (tables.main([]), "old" in page.read_text(encoding="utf-8")) == (0, False)
    assert tables.main(["--check"]) == 0
    assert page.read_text(encoding="utf-8").startswith("Before\n\n<!-- table: commands -->\n")
    assert page.read_text(encoding="utf-8").endswith("<!-- end of table -->\n\nAfter\n")


def test_the_commands_make_every_record() -> None:
    """Compares method, corpus, settings and seed; nothing is run."""
    planned = set()
    for command in tables.commands():
        what, given, _ = app.parse_args(shlex.split(command)[1:])
        given.apply_defaults()
        names = ("method", "dataset", "preset", "variant", "seed", "seeds")
        wanted = {name: given.arguments[name] for name in names if name in given.arguments}
        for each in experiments(*given.arguments["overrides"], **wanted):
            told = "" if what is not tune.tune else searched(**given.arguments)
            settings = each.hash if not told else ""
            planned.add((each.method, each.dataset, settings, told, each.seed))
    records = [read_record(path) for path in record_files(tables.BOARD)]
    made = set()
    for r in records:
        told = searched(r.tuned.trials, r.tuned.sampler_seed) if r.tuned else ""
        made.add((r.method, r.dataset, r.config_hash if not told else "", told, r.seed))
    assert made == planned


def searched(trials: int, sampler_seed: int, **_: object) -> str:
    """A text that identifies a search for a method's settings, in a command or a record."""
    return f"tuned in {trials} trials, sampler's seed {sampler_seed}"


def test_every_tuned_record_has_the_settings_that_its_trial_drew() -> None:
    """The space, the sampler's seed and the trial's number in a record give its settings."""
    records = [read_record(path) for path in record_files(tables.BOARD)]
    for record in (r for r in records if r.tuned):
        search = record.tuned
        fixed = [text for text in record.overrides if text.partition("=")[0] not in search.space]
        base = resolve(record.method, record.dataset, preset=record.preset, overrides=fixed)
        study = Study(base, search.space, search.sampler_seed)
        assert study.trial(search.chosen).hash == record.config_hash
    assert records
