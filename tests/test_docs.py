"""What the documentation shows, run as a reader would."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT


@pytest.mark.slow
def test_the_tour_of_the_python_interface_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "using.md").read_text(encoding="utf-8")
    (tour,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", tour], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    score, *answers = done.stdout.splitlines()
    assert 0 < float(score) < 100
    assert len(answers) > 4
    assert "finetune" in done.stdout


def test_links_between_pages_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    for page in [*pages, *(ROOT / "methods").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name}: {link}"
