"""The commands of docs/your-own-corpus.md work as written, with shorter trainings."""

import json
import re
import shlex
from pathlib import Path

import pytest
from conftest import ROOT

from erc_bench.cli import main
from erc_bench.inference.dialogue_files import read_dialogues

PAGE = (ROOT / "docs" / "your-own-corpus.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
            for line in block.splitlines()]  # fmt: skip


@pytest.mark.slow
def test_the_commands_lead_from_a_csv_to_a_leaderboard_of_two_methods(
    tmp_path: Path, monkeypatch, capsys, tiny_encoder
) -> None:
    monkeypatch.chdir(tmp_path)
    short = [f"encoder={tiny_encoder}", "epochs=1", "max_batches=2", "max_len=32"]
    printed = {}
    for command in COMMANDS:
        program, *words = shlex.split(command)
        assert program == "erc-bench"
        words, _, target = (list(part) for part in _redirected(words))
        words += ["--wandb", "off", "--jobs", "1", *short] if words[0] == "run" else []
        assert main(words) == 0, command
        printed[" ".join(words[:2])] = out = capsys.readouterr().out
        if target:
            Path(target[0]).write_text(out, encoding="utf-8")
    (yaml,) = re.findall(r"```yaml\n(name: mine\n.*?)```", PAGE, re.DOTALL)
    assert set(yaml.splitlines()) <= set(
        Path("mine/corpus.yaml").read_text(encoding="utf-8").splitlines()
    )
    assert "guessed, label: the column 'gold'" in printed["data new"]
    board = Path("results/README.md").read_text(encoding="utf-8")
    assert "| finetune (small" in board
    assert "| EACL (small" in board
    records = sorted(Path("results/records/mine").glob("*/*.json"))
    assert len(records) == 4
    split = json.loads(records[0].read_text(encoding="utf-8"))["predictions"]["test"]
    exported = [
        json.loads(line) for line in Path("test.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [row["id"] for row in exported if row["asked"]] == split["ids"]


def _redirected(words):
    """Split words at ``>``: those before it, ``>`` itself, and those after it."""
    at = words.index(">") if ">" in words else len(words)
    return words[:at], words[at : at + 1], words[at + 1 :]


def test_the_form_of_predictions_is_the_one_shown(tmp_path: Path) -> None:
    from erc_bench.inference.model import Answer

    given, answer = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "given.json").write_text(given, encoding="utf-8")
    (dialogue,) = read_dialogues(str(tmp_path / "given.json"))
    assert [u.speaker for u in dialogue.utterances] == ["Ann", "Bo"]
    assert Answer(**json.loads(answer)).to_json() == answer.strip()
