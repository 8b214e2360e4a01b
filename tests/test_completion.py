"""The shells' completion of command lines."""

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from erc_bench.cli import main
from erc_bench.settings.registry import corpus_names, method_names


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_there_is_a_script_for_each_shell(
    shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "--leaderboard-dir" in script
    if not shutil.which(shell):
        pytest.skip(f"there is no {shell} to check the script")
    (tmp_path / "script").write_text(script, encoding="utf-8")
    checked = [shell, "-n", str(tmp_path / "script")]
    subprocess.run(checked, check=True, capture_output=True)


def test_bash_completes_commands_methods_and_corpora(tmp_path: Path) -> None:
    if not shutil.which("bash"):
        pytest.skip("there is no bash")
    command = tmp_path / "erc-bench"
    command.write_text(
        f'#!/bin/sh\nexec {sys.executable} -m erc_bench.cli "$@"\n', encoding="utf-8"
    )
    command.chmod(0o755)
    script = subprocess.run([command, "completion", "bash"], capture_output=True, text=True).stdout

    def completed(*words: str) -> list[str]:
        line = " ".join(f"'{word}'" for word in words)
        asked = (
            f"{script}\nPATH={tmp_path}:$PATH\nCOMP_WORDS=({line})\n"
            f"COMP_CWORD={len(words) - 1}\n_erc_bench\nprintf '%s\\n' \"${{COMPREPLY[@]}}\""
        )
        done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
        return [word.strip() for word in done.stdout.splitlines()]

    assert completed("erc-bench", "lead") == ["leaderboard"]
    assert "--no-test" in completed("erc-bench", "run", "--no")
    if int(version("cyclopts").partition(".")[0]) < 5:
        pytest.skip("cyclopts before version 5, on Python 3.10, completes no values")
    assert set(completed("erc-bench", "run", "--method", "")) >= set(method_names())
    near = [name for name in corpus_names() if name.startswith("emo")]
    assert completed("erc-bench", "compare", "a", "b", "--dataset", "emo") == near
