"""The configuration: layers, types, ranges, and errors that name the nearest key."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from places import committed_records

from erc_bench.errors import ErcBenchError
from erc_bench.method.config import MethodConfig, added_later
from erc_bench.settings.experiment import Experiment, method_sheet, resolve
from erc_bench.settings.methods import method_entry
from erc_bench.settings.presets import presets
from erc_bench.settings.registry import corpus_names, method_class, method_names


@pytest.mark.parametrize("method", method_names())
@pytest.mark.parametrize("preset", presets())
def test_every_method_resolves_on_every_corpus(method: str, preset: str) -> None:
    hashes = [resolve(method, name, preset=preset).hash for name in corpus_names()]
    assert all(len(digits) == 12 for digits in hashes)
    assert method_sheet(method)["context"] in ("past", "full")


@pytest.mark.parametrize("method", method_names())
def test_every_method_has_all_facts_of_the_list_of_methods(method: str) -> None:
    entry = method_entry(method)
    assert entry.title
    assert entry.family
    assert entry.trains
    assert entry.context == method_class(method).context
    assert entry.gpu_memory_gib.keys() == method_sheet(method)["presets"].keys()
    assert entry.needs_gpu in ("no, with preset small", "yes")
    assert len(entry.memory.split(" / ")) == len(entry.gpu_memory_gib) - 1  # all but smoke


def test_presets_have_more_memory_than_any_of_our_records_and_trials_took() -> None:
    peaks = {}
    for file in (*committed_records(), *committed_records(kind="tuning")):
        made = json.loads(file.read_bytes())
        peak = (made["training"] or {}).get("peak_memory_mib") or 0
        peaks[made["preset"]] = max(peaks.get(made["preset"], 0), peak / 1024)
    assert {"small", "base"} <= peaks.keys()
    assert {p: gib for p, gib in peaks.items() if gib > presets()[p].memory_gib} == {}


def test_later_layers_win() -> None:
    paper = resolve("eacl", "meld").config
    small = resolve("eacl", "meld", preset="small").config
    ours = resolve("eacl", "meld", preset="small", overrides=["batch_size=7"]).config
    assert (paper.batch_size, paper.encoder) == (64, "princeton-nlp/sup-simcse-roberta-large")
    assert small.encoder == "sentence-transformers/all-MiniLM-L6-v2"
    assert small.batch_size == 32
    assert ours.batch_size == 7
    assert ours.encoder == small.encoder


def test_the_hash_depends_only_on_the_settings() -> None:
    one = resolve("eacl", "meld")
    assert one.hash == resolve("eacl", "meld", seed=2).hash
    assert one.hash == resolve("eacl", "meld", overrides=["batch_size=64"]).hash
    assert one.hash != resolve("eacl", "meld", overrides=["evaluation.oracle=true"]).hash


def test_the_hashes_of_published_settings_never_change() -> None:
    """Runs that were finished under these hashes must stay finished.

    A setting that a method gets later must be ``added_later``. A changed default is another
    experiment and needs its own preset.
    """
    held = json.loads((Path(__file__).parent / "settings_hashes.json").read_text(encoding="utf-8"))
    now = {name: resolve(*name.split("/")[:2], preset=name.split("/")[2]).hash for name in held}
    assert now == held


@dataclass
class Group:
    """A group of settings that was added later."""

    kind: str = "plain"


@dataclass
class Later(MethodConfig):
    """The settings of a method that got two of them later."""

    momentum: float = added_later(0.9)
    group: Group = added_later(factory=Group)


def test_a_setting_added_later_changes_the_hash_only_if_it_is_set() -> None:
    def hashed(config: MethodConfig) -> str:
        return Experiment("m", "demo", "", 1, config).hash

    assert hashed(Later()) == hashed(MethodConfig())
    others = [Later(momentum=0.8), Later(group=Group("other")), Later(epochs=2)]
    assert len({hashed(config) for config in [Later(), *others]}) == 4
    assert Experiment("m", "demo", "", 1, Later()).settings["momentum"] == 0.9


def test_the_printed_configuration_is_yaml_with_every_setting() -> None:
    experiment = resolve("eacl", "demo", preset="smoke", seed=3)
    printed = yaml.safe_load(experiment.to_yaml())
    assert printed["config"] == experiment.settings
    assert printed["seed"] == 3


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["batchsize=3"], ["'batchsize'", "Did you mean 'batch_size'?"]),
        (["evaluation.orcale=true"], ["'evaluation.oracle'"]),
        (["epochs=many"], ["'epochs=many'", "takes a whole number."]),
        (["epochs=null"], ["'epochs=null'", "takes a whole number."]),
        (["temperature=warm"], ["'temperature=warm'", "takes a number."]),
        (["evaluation.oracle=maybe"], ["'evaluation.oracle'", "takes true or false."]),
        (["epochs=0"], ["epochs=0", "too small"]),
        (["temperature=0"], ["temperature"]),
        (["dropout=1.5"], ["dropout=1.5", "share"]),
        (["representation=mean"], ["representation", "mean"]),
        (["epochs"], ["'epochs'", "key=value"]),
        (
            ["evaluation=3"],
            ["'evaluation=3'", "own name: evaluation.batch_size, evaluation.oracle."],
        ),
        (["evaluation=null"], ["own name: evaluation.batch_size, evaluation.oracle."]),
        (["=3"], ["key=value"]),
        (["lr="], ["'lr='", "has no value"]),
        (["lr=${epochs}"], ["'lr=${epochs}'", "refers to another value"]),
        (["features.per_seed=true"], ["of eacl: there is no setting 'features'"]),
        (["epochs=[1"], ["epochs=[1"]),
        (["epochs={a:"], ["epochs={a:"]),
        (["lr=inf"], ["lr=inf", "finite"]),
    ],
)
def test_a_wrong_override_is_named(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(ErcBenchError) as caught:
        resolve("eacl", "meld", overrides=overrides)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["features.per_seed=1"], ["features.per_seed=true"]),
        (["features[per_seed]=True"], ["features.per_seed=true"]),
        (["lr=1e-3", "dropout=.5"], ["lr=0.001", "dropout=0.5"]),
        (["lr=1e-3", "dropout=0.5", "lr=2e-3"], ["lr=0.002", "dropout=0.5"]),
    ],
)
def test_an_override_is_kept_once_and_in_one_form(given: list[str], kept: list[str]) -> None:
    """Rows, variants and `compare` can then find runs by it, however it was written."""
    assert list(resolve("sacl-lstm", "meld", overrides=given).overrides) == kept


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ('base_url=""', 'base_url=""'),
        ('revision="0123"', 'revision="0123"'),
        ("revision='null'", 'revision="null"'),
        ('revision="true"', 'revision="true"'),
        ('revision="[a]"', 'revision="[a]"'),
        ('revision="a: b"', 'revision="a: b"'),
        ('revision="é="', 'revision="é="'),
        ('revision="v1"', "revision=v1"),
        ("revision=12", "revision=12"),
        ("revision=1e3", "revision=1000.0"),
        ("revision=true", "revision=True"),
        ('request.effort="1"', 'request.effort="1"'),
        ("request.effort=1", "request.effort=1"),
        ("prompts=[plain,question,annotator]", 'prompts=["plain", "question", "annotator"]'),
    ],
)
def test_an_override_that_is_kept_is_read_as_the_same_value(given: str, kept: str) -> None:
    """A worker of a grid resolves its run from the overrides that were kept."""
    first = resolve("prompt-lm", "demo", overrides=[given])
    assert first.overrides == (kept,)
    again = resolve("prompt-lm", "demo", overrides=first.overrides)
    assert again == first


def test_a_folder_has_one_name(tmp_path: Path) -> None:
    one, same = (
        resolve("eacl", "meld", overrides=[f"encoder={tmp_path}{end}"]) for end in ("", "/")
    )
    assert one.hash == same.hash


def test_a_wrong_preset_or_method_names_the_nearest() -> None:
    with pytest.raises(ErcBenchError, match="Did you mean 'small'"):
        resolve("eacl", "meld", preset="smal")
    with pytest.raises(ErcBenchError, match="Did you mean 'eacl'"):
        resolve("eacel", "meld")
