"""The commands and the code in the documentation work as a reader would run them."""

import dataclasses
import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from erc_bench.cli import app, records, run, tune
from erc_bench.cli.run import experiments
from erc_bench.leaderboard import build
from erc_bench.methods.language_models import Prompt, Turn
from erc_bench.methods.lora_lm import LoraLMConfig
from erc_bench.methods.prompt_lm import PromptLMConfig
from erc_bench.settings import space
from erc_bench.settings.experiment import method_sheet, resolve, variants
from erc_bench.settings.registry import method_names
from erc_bench.settings.space import space_of


def test_the_readme_is_short_and_its_commands_are_valid() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    words = re.sub(r"<!-- table.*?<!-- end of table -->", "", page, flags=re.DOTALL).split()
    assert len(words) <= 450
    found = commands("../README.md")
    assert {each[0] for each in found} == {
        *("predict", "explain", "data", "run", "compare", "leaderboard")
    }
    for each in found:
        command, given, _ = app.parse_args(each)
        if command is run.run:
            asked = {name: given.arguments[name] for name in ("method", "dataset", "preset")}
            assert experiments(**asked)


@pytest.mark.slow
def test_the_python_of_the_readme_runs(tmp_path: Path) -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", lines], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    score, labels, *_ = done.stdout.splitlines()
    assert 0 < float(score) < 100
    assert labels.count(",") > 3


@pytest.mark.slow
def test_the_tour_of_the_python_interface_runs(tmp_path: Path) -> None:
    """All blocks of the page, one after another, as cells of a notebook."""
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    cells = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(cells) == 5
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(cells)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    turns, score, *answers = done.stdout.splitlines()
    assert turns.startswith("[(")
    assert 0 < float(score) < 100
    assert len(answers) > 4
    assert "finetune" in done.stdout
    assert "dag-erc" in done.stdout
    assert (tmp_path / "demo.safetensors").is_file()


def test_the_commands_about_vectors_are_valid() -> None:
    found = commands("vectors-and-hub.md")
    assert {words[0] for words in found} >= {"encode", "run"}
    for words in found:
        command, given, _ = app.parse_args(words)
        if command is run.run:
            asked = {name: given.arguments[name] for name in ("method", "dataset")}
            (experiment,) = experiments(**asked)
            assert experiment.settings["features"]["path"] == "meld.safetensors"


def commands(page: str) -> list[list[str]]:
    """The command lines of a page, each as its words without ``erc-bench``."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    lines = re.findall(r"^    (erc-bench .+)$", text, re.MULTILINE)
    return [shlex.split(line, comments=True)[1:] for line in lines]


def test_the_commands_about_tuning_are_valid() -> None:
    """Their options and values exist; nothing is trained."""
    found = commands("tuning.md")
    assert {words[0] for words in found} == {"tune", "compare", "run", "ablations"}
    for words in found:
        command, given, _ = app.parse_args(words)
        if command in (run.run, tune.tune):
            names = ("method", "dataset", "preset", "variant", "seeds")
            asked = {name: given.arguments[name] for name in names if name in given.arguments}
            assert experiments(**asked)


def test_the_commands_about_pictures_are_valid() -> None:
    found = commands("pictures.md")
    assert len(found) > 5
    for words in found:
        command, given, _ = app.parse_args(words)
        wanted = {"site"} if command is records.leaderboard else {"what", "file"}
        assert wanted <= set(given.arguments)


def test_every_command_on_a_page_is_valid() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "methods").glob("*.md")]
    found = []
    for page in pages:
        if page.parent.name == "made":  # by sphinx, from the help texts
            continue
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        # A line with a full stop is a sentence.
        found += re.findall(r"^(?:    )?(erc-bench .*[^.\n])$", text, re.MULTILINE)
    assert len(found) > 60
    for line in found:
        app.parse_args(shlex.split(line.partition(" > ")[0], comments=True)[1:])


def test_the_spaces_and_variants_that_are_shown_are_right(monkeypatch) -> None:
    page = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8")
    shown: dict = {"title": ""}
    for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL):
        shown |= yaml.safe_load(block)
    base = resolve("eacl", "meld")
    monkeypatch.setattr(space, "method_sheet", lambda method: shown)
    assert list(space_of(base)) == ["encoder_lr", "dropout", "stage2_epochs"]
    monkeypatch.undo()
    for name, entry in shown["variants"].items():
        assert method_sheet("eacl")["variants"][name] == entry
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (`[\w-]+`: .*) \|$", page, re.MULTILINE))
    described = {method: re.findall(r"`([\w-]+)`:", text) for method, text in rows.items()}
    assert described == {m: list(variants(m)) for m in method_names() if variants(m)}


@pytest.mark.slow
def test_the_tour_of_tuning_runs(tiny_encoder: str, tmp_path: Path) -> None:
    """Run the page's first two commands, made smaller; the board then shows what the page says."""
    for words in commands("tuning.md")[:2]:
        smaller = [*words, f"encoder={tiny_encoder}", "max_batches=2", "--wandb", "off"]
        smaller[smaller.index("--trials") + 1] = "3"
        done = subprocess.run(
            [sys.executable, "-m", "erc_bench.cli", *smaller],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert "over 5 seeds" in done.stdout
    build(tmp_path / "mine")
    board = (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")
    assert "each row tuned: random search, 3 trials" in board
    assert "E best of 2" in board


def test_the_commands_for_several_devices_are_valid() -> None:
    page = (ROOT / "docs" / "several-devices.md").read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"```bash\n(.*?)```", page, re.DOTALL)).replace("\\\n", " ")
    begin = re.compile(
        r"^(?:srun .*?|torchrun .*? -m )?(?:erc-bench|erc_bench\.cli) ", re.MULTILINE
    )
    asked = [line[found.end() :] for line in blocks.splitlines() if (found := begin.match(line))]
    assert len(asked) == len(blocks.splitlines()) == 6
    for command in asked:
        function, given, _ = app.parse_args(shlex.split(command))
        assert function is run.run
        arguments = dict(given.arguments)
        experiments(*arguments.pop("overrides", ()), method=arguments["method"], dataset=["meld"])


PAGE = ROOT / "docs" / "language-models.md"


def test_settings_on_the_page_of_language_models_exist() -> None:
    """Every command on the page resolves, and every setting that it names exists."""
    page = PAGE.read_text(encoding="utf-8")
    found = commands("language-models.md")
    assert len(found) >= 5
    for command in found:
        words = [word.replace("mine.jinja", "annotator") for word in command]
        options = dict(itertools.pairwise(words))
        settings = [w for w in words if "=" in w]
        resolve(
            options["--method"],
            options["--dataset"],
            preset=options.get("--preset"),
            overrides=settings,
        )
    known = {f.name for kind in (PromptLMConfig, LoraLMConfig) for f in dataclasses.fields(kind)}
    named = set(re.findall(r"`(?:request\.)?(\w+)(?:=\w+)?`", page))
    words = {"system", "user", "answer"}
    words |= {"past", "target", "turns", "labels", "label", "name", "text"}
    assert named - known - words - {"lm", "smoke", "NAME"} == set()


def test_the_prompt_on_the_page_of_language_models_can_be_filled_in() -> None:
    (source,) = re.findall(r"```jinja\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    prompt = Prompt("page", source)
    asked = prompt.user([Turn("Ann", "Hi."), Turn("Bob", "Hm?")], ("joy", "anger"))["content"]
    assert asked == 'Ann: Hi.\nWhat does Bob feel when saying "Hm?"?\njoy, anger?'
    assert prompt.answer("joy") == "joy"


@pytest.mark.slow
def test_the_smoke_commands_on_the_page_of_language_models_run(tmp_path: Path) -> None:
    found = [c for c in commands("language-models.md") if c[0] == "run" and "smoke" in c]
    assert len(found) == 2
    for command in found:
        words = [sys.executable, "-m", "erc_bench.cli", *command]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "weighted-F1" in done.stdout


def test_links_between_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    pages += (ROOT / "docs" / "notes").glob("*.md")
    for page in [*pages, *(ROOT / "methods").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name}: {link}"
