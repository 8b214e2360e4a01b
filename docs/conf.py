"""Sphinx configuration of the documentation: ``make docs`` builds the site into ``build/docs``.

The pages are the Markdown files of this folder. The pages of the methods, the command line, the
settings, the glossary and the Python interface are made from their sources when the site is built.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erc_bench import __version__

if TYPE_CHECKING:
    from erc_bench.settings.description import Setting

ROOT = Path(__file__).resolve().parent.parent
MADE = ROOT / "docs" / "made"
"""Folder of the pages that are made from sources; not under version control."""
REPOSITORY = "https://github.com/erc-bench/erc-bench"

project = "erc-bench"
author = "The erc-bench maintainers"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["__pycache__"]
html_theme = "furo"
html_title = f"erc-bench {version}"
autodoc_member_order = "bysource"
autodoc_typehints = "description"


def make_pages() -> None:
    """Write the pages that are made from sources."""
    from erc_bench.cli import app
    from erc_bench.settings.registry import method_names

    shutil.rmtree(MADE, ignore_errors=True)
    (MADE / "methods").mkdir(parents=True)
    page = app.generate_docs(output_format="markdown").replace("# erc-bench\n", "# Commands\n", 1)
    page = re.sub(r"## Table of Contents.*?(?=\*\*)", "", page, flags=re.DOTALL)
    (MADE / "commands.md").write_text(page)
    (MADE / "settings.md").write_text(_settings())
    for method in method_names():
        card = ROOT / "methods" / f"{method.replace('-', '_')}.md"
        settings = f"\n## Settings\n\n{_table(method)}\n"
        (MADE / "methods" / card.name).write_text(card.read_text(encoding="utf-8") + settings)
    words = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (glossary,) = re.findall(r"## Words\n(.*?)\n## ", words, re.DOTALL)
    (MADE / "glossary.md").write_text(f"# Glossary\n{glossary}\n")


def _settings() -> str:
    from erc_bench.method.config import MethodConfig
    from erc_bench.settings.description import settings_of

    return (
        "# Settings\n\nEvery method has these settings. Give them as `key=value` or in a YAML file "
        "of `experiments/`. The page of a method lists its own settings and defaults.\n\n"
        f"{_rows(settings_of(MethodConfig))}\n"
    )


def _table(method: str) -> str:
    from erc_bench.settings.description import method_settings

    return _rows(method_settings(method))


def _rows(settings: Sequence[Setting]) -> str:
    from erc_bench.leaderboard.tables import markdown_table

    head = ("setting", "kind", "default", "what it is")
    body = [(f"`{s.name}`", s.kind, f"`{s.default}`", s.text) for s in settings]
    return markdown_table(head, body, "llll")


def _links(app: Any, page: str, source: list[str]) -> None:
    """Rewrite links between files: to the pages made from these files, or to the repository."""

    def moved(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        here = (ROOT / "docs" / page).parent
        if page.startswith("made/methods/"):
            here = ROOT / "methods"
        file = (here / target).resolve()
        if file.is_relative_to(ROOT / "docs") and file.is_file():
            return f"](/{file.relative_to(ROOT / 'docs').as_posix()}{anchor})"
        if not file.is_relative_to(ROOT) or file.parent == ROOT / "docs":
            return f"]({'../../' if page.startswith('made/methods/') else ''}{file.name}{anchor})"
        if file.parent == ROOT / "methods" and file.suffix == ".md":
            return f"](/made/methods/{file.name}{anchor})"
        return f"]({REPOSITORY}/blob/main/{file.relative_to(ROOT).as_posix()}{anchor})"

    source[0] = re.sub(r"\]\((?!\w+://|#)([^)#\s]+)(#[^)\s]*)?\)", moved, source[0])


def setup(app: Any) -> None:
    """Called by Sphinx."""
    make_pages()
    app.connect("source-read", _links)
