"""Which rooms may import which, without cycles; the framework names no method, corpus or preset."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT

from erc_bench.settings.presets import presets
from erc_bench.settings.registry import corpus_names, corpus_source, method_names

PACKS = {"methods": "erc_bench.methods", "datamodules": "erc_bench.datamodules"}


def modules() -> dict[str, Path]:
    """All modules of the project by dotted name, including packs and benchmarks."""
    found = {}
    for top, package in {"erc_bench": "erc_bench", "benchmarks": "benchmarks", **PACKS}.items():
        for path in (ROOT / top).rglob("*.py"):
            parts = path.relative_to(ROOT / top).with_suffix("").parts
            name = ".".join([package, *(part for part in parts if part != "__init__")])
            found[name] = path
    return found


MODULES = modules()


def imported(name: str) -> Iterator[str]:
    """The project's modules that a module imports: at its top, in a function, or for types."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            wanted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(part for part in (above, node.module) if part)
            wanted = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in wanted:
            while target and target not in MODULES:
                target = target.rpartition(".")[0]
            if target and target != name:
                yield target


IMPORTS = {name: set(imported(name)) for name in MODULES}


def room(name: str) -> str:
    """The room of a module: a folder or file of ``erc_bench``, or a pack."""
    parts = name.split(".")
    return parts[0] if len(parts) == 1 or parts[0] != "erc_bench" else parts[1]


def arrows() -> dict[str, set[str]]:
    """The rooms that each room imports."""
    found: dict[str, set[str]] = {}
    for name, targets in IMPORTS.items():
        found.setdefault(room(name), set()).update(map(room, targets))
    return {name: targets - {name} for name, targets in found.items()}


def test_modules_have_no_import_cycle() -> None:
    # graphlib names the cycle in its error.
    assert set(TopologicalSorter(IMPORTS).static_order()) == set(MODULES)


def test_rooms_have_no_import_cycle() -> None:
    rooms = arrows()
    assert set(TopologicalSorter(rooms).static_order()) == set(rooms)


def reduced(rooms: dict[str, set[str]]) -> set[tuple[str, str]]:
    """The arrows that other arrows do not imply."""
    below: dict[str, set[str]] = {}
    for name in TopologicalSorter(rooms).static_order():
        below[name] = set().union(rooms[name], *(below[target] for target in rooms[name]))
    return {
        (name, target)
        for name, targets in rooms.items()
        for target in targets
        if not any(target in below[other] for other in targets)
    }


def test_the_diagram_in_contributing_matches_the_imports() -> None:
    """The diagram has exactly the arrows that other arrows do not imply."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawn = re.search(r"```mermaid\n(.*?)```", text, re.DOTALL)
    assert drawn
    arrows_drawn = set(re.findall(r"^ *(\w+) --> (\w+)$", drawn[1], re.MULTILINE))
    rooms = {name: targets for name, targets in arrows().items() if name != "erc_bench"}
    wanted = reduced({name: targets - {"erc_bench"} for name, targets in rooms.items()})
    assert sorted(wanted - arrows_drawn) == []
    assert sorted(arrows_drawn - wanted) == []


def test_the_framework_imports_no_pack_and_packs_no_room_above_them() -> None:
    above = {"api", "cli", "execution", "inference", "leaderboard", "records", "tracking"}
    for name, targets in arrows().items():
        if name not in (*PACKS, "benchmarks"):
            assert not targets & set(PACKS), name
    for pack in PACKS:
        assert not arrows()[pack] & above, pack


def literals(path: Path) -> Iterator[tuple[int, str]]:
    """The strings in a file's code, without docstrings, each with its line number."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documents = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if text and id(node) not in documents:
            yield node.lineno, node.value


KEYS = {"paper"}
"""Preset names that the framework also uses as keys: ``paper`` of a method or a published row."""


@pytest.fixture(scope="module")
def names() -> set[str]:
    """Methods, corpora, presets, labels and published encoders."""
    labels = {label for name in corpus_names() for label in corpus_source(name).labels.names}
    encoders = set(re.findall(r"encoder: (\S+/\S+)", "\n".join(experiments())))
    return {*method_names(), *corpus_names(), *presets(), *labels, *encoders} - KEYS


def experiments() -> list[str]:
    return [path.read_text(encoding="utf-8") for path in (ROOT / "experiments").glob("*.yaml")]


def test_the_framework_names_no_method_corpus_preset_label_or_encoder(names: set[str]) -> None:
    known = [
        f"{path.relative_to(ROOT)}:{line}: {text!r}"
        for path in (ROOT / "erc_bench").rglob("*.py")
        for line, text in literals(path)
        if text in names
    ]
    assert known == []
