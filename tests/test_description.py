"""The descriptions of a method's settings."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

import pytest
import yaml

from erc_bench.cli import main
from erc_bench.settings.description import Setting, method_settings, settings_of
from erc_bench.settings.experiment import flat, method_sheet, resolve
from erc_bench.settings.registry import method_class, method_names


@dataclass
class Group:
    inner: bool = False
    """Of a group.

    Measured once."""


@dataclass
class Base:
    rate: float = 0.5  # of the base
    # said above,
    # on two lines
    kind: Literal["a", "b"] = "a"
    bare: str = ""


@dataclass
class Derived(Base):
    rate: float = 0.25
    group: Group = field(default_factory=Group)
    count: int = 3  # how many  # and more


def test_a_setting_is_described_by_the_comment_beside_or_above_it() -> None:
    assert settings_of(Derived) == [
        Setting("rate", "float", "0.25", "of the base"),
        Setting("kind", "a, b", "a", "said above, on two lines"),
        Setting("bare", "text", '""', ""),
        Setting("count", "int", "3", "how many  # and more"),
        Setting("group.inner", "true or false", "false", "Of a group."),
    ]


@pytest.mark.parametrize("method", method_names())
def test_every_setting_of_every_method_is_described(method: str) -> None:
    config = method_class(method).Config
    described = settings_of(config)
    assert [each.name for each in described if not each.text] == []
    names = {each.name.partition(".")[0] for each in described}
    assert names == {each.name for each in dataclasses.fields(config)}


@pytest.mark.parametrize("method", method_names())
def test_the_default_shown_is_that_of_a_run_without_a_preset(method: str) -> None:
    corpus = "meld-sentiment"  # no method has settings of its own for it
    assert corpus not in (method_sheet(method).get("corpora") or {})
    run = flat(resolve(method, corpus).settings)
    for each in method_settings(method):
        value = run.get(each.name, "{}") or '""'
        if not each.name.startswith("prompt_digest"):  # computed from the prompts
            assert yaml.safe_load(each.default) == yaml.safe_load(value), each.name


def test_help_shows_a_default_that_the_method_s_file_sets(capsys) -> None:
    assert method_class("sacl-lstm").Config().evaluation.batch_size == 64
    assert main(["run", "--method", "sacl-lstm", "--help"]) == 0
    (line,) = (x for x in capsys.readouterr().out.splitlines() if "evaluation.batch_size" in x)
    assert line.split()[1] == "16"


def test_help_for_a_method_shows_its_settings(capsys) -> None:
    assert main(["run", "--method", "eacl", "finetune", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--seeds" in shown
    for method in ("eacl", "finetune"):
        assert f"Settings of {method}" in shown
    assert "stage2_epochs" in shown
    assert "evaluation.oracle" in shown


def test_help_for_an_unknown_method_is_an_error(capsys) -> None:
    assert main(["config", "--method", "eaclx", "--help"]) == 2
    assert "no method 'eaclx'" in capsys.readouterr().err
