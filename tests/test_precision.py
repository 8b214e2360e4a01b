"""The precision ``auto``: it is measured once and is the same for all runs on a machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fitting import fitted

from erc_bench.methods.finetune import Finetune, FinetuneConfig
from erc_bench.records.parsing import typed
from erc_bench.records.schema import Environment, to_json
from erc_bench.training import precision
from erc_bench.training.environment import device_name
from erc_bench.training.precision import (
    CLEARLY_FASTER,
    bfloat16_speedup,
    choose_precision,
    measure,
    measured_for_all,
    trainer_precision,
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache, and nothing measured yet in this process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bfloat16_speedup.cache_clear()
    yield tmp_path / "erc-bench" / "precision"
    bfloat16_speedup.cache_clear()


def timing(monkeypatch: pytest.MonkeyPatch, float32: float, bfloat16: float) -> list[int]:
    """Let the measurement give these times; return a list that grows with each measurement."""
    calls: list[int] = []

    def found() -> precision.Times:
        calls.append(1)
        return {"float32": float32, "bfloat16": bfloat16}

    monkeypatch.setattr(precision, "measure", found)
    return calls


@pytest.mark.parametrize(
    ("float32", "bfloat16", "chosen"),
    [
        (10.0, 18.4, "float32"),  # avx512_bf16 without AMX: 155 and 84 GFLOP/s
        (10.0, 5.0, "bfloat16"),
        (12.0, 10.0, "bfloat16"),
        (11.9, 10.0, "float32"),
    ],
)
def test_bfloat16_is_chosen_only_if_it_is_clearly_faster(
    float32: float, bfloat16: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    timing(monkeypatch, float32, bfloat16)
    found = choose_precision("auto")
    assert found.chosen == chosen
    assert (float32 / bfloat16 >= CLEARLY_FASTER) == (chosen == "bfloat16")
    assert found.measured() == {"bfloat16_speedup": round(float32 / bfloat16, 2)}
    assert found.sentence().startswith(f"Precision: {chosen}, ")
    assert f"measured to be {float32 / bfloat16:.2f} times" in found.sentence()
    assert device_name() in found.sentence()


@pytest.mark.parametrize(
    ("wanted", "name"),
    [("float32", "32-true"), ("bfloat16", "bf16-mixed"), ("float16", "16-mixed")],
)
def test_a_named_precision_is_used_without_measuring(
    wanted: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = timing(monkeypatch, 1, 1)
    assert trainer_precision(wanted) == name
    assert choose_precision(wanted).measured() == {}
    assert calls == []


@pytest.mark.parametrize(("native", "chosen"), [(True, "bfloat16"), (False, "float16")])
def test_a_gpu_is_asked_and_not_measured(
    native: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = timing(monkeypatch, 1, 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: native)
    assert choose_precision("auto").chosen == chosen
    assert calls == []


def test_the_precision_is_measured_once_for_a_machine(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = timing(monkeypatch, 2, 1)
    first = choose_precision("auto")
    bfloat16_speedup.cache_clear()  # another process
    timing(monkeypatch, 1, 2)
    assert choose_precision("auto") == first
    assert len(calls) == 1
    assert [path.suffix for path in folder.iterdir()] == [".json"]


def test_the_first_of_several_processes_decides_for_all(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slower_than_another() -> precision.Times:
        path = precision._cache_file()
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"float32": 2, "bfloat16": 1}), encoding="utf-8")
        return {"float32": 1, "bfloat16": 2}

    monkeypatch.setattr(precision, "measure", slower_than_another)
    assert choose_precision("auto").chosen == "bfloat16"
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        "{",
        "[]",
        "[1, 2]",
        "null",
        "\udcff",
        '{"float32": 1}',
        '{"float32": 1, "bfloat16": 0}',
        '{"float32": "x", "bfloat16": 1}',
        '{"float32": NaN, "bfloat16": 1}',
        '{"float32": -1, "bfloat16": 1}',
        '{"float32": Infinity, "bfloat16": 1}',
    ],
)
def test_damaged_figures_are_measured_anew(damaged: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = precision._cache_file()
    path.parent.mkdir(parents=True)
    path.write_bytes(damaged.encode("utf-8", "surrogateescape"))
    calls = timing(monkeypatch, 2, 1)
    assert bfloat16_speedup() == 2
    bfloat16_speedup.cache_clear()
    assert bfloat16_speedup() == 2
    assert len(calls) == 1


def test_a_cache_that_cannot_be_written_only_costs_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.parent.write_text("a file where the folder would be", encoding="utf-8")
    calls = timing(monkeypatch, 2, 1)
    assert choose_precision("auto").chosen == "bfloat16"
    bfloat16_speedup.cache_clear()
    assert choose_precision("auto").chosen == "bfloat16"
    assert len(calls) == 2


def test_a_file_system_without_links(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", no_link)
    calls = timing(monkeypatch, 2, 1)
    assert bfloat16_speedup() == 2
    bfloat16_speedup.cache_clear()
    assert bfloat16_speedup() == 2
    assert len(calls) == 1
    assert len(list(folder.iterdir())) == 1


def another_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_processor", lambda: "another")


def another_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "9.9")


def another_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.__config__, "show", lambda: "another")


def another_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")


def another_way_to_multiply(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")


def another_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "__file__", __file__)


@pytest.mark.parametrize(
    "change",
    [
        another_processor,
        another_pytorch,
        another_build,
        another_instruction_set,
        another_way_to_multiply,
        another_measurement,
    ],
)
def test_figures_of_another_environment_are_not_used(
    change, monkeypatch: pytest.MonkeyPatch
) -> None:
    timing(monkeypatch, 2, 1)
    assert bfloat16_speedup() == 2
    bfloat16_speedup.cache_clear()
    change(monkeypatch)
    timing(monkeypatch, 1, 3)
    assert bfloat16_speedup() == pytest.approx(1 / 3)


def test_a_measurement_keeps_random_state_threads_and_gradient_mode() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    with torch.no_grad():
        times = measure()
        assert not torch.is_grad_enabled()
    assert times.keys() == {"float32", "bfloat16"}
    assert all(0 < seconds < 60 for seconds in times.values())
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.rand(3), expected)


def test_a_grid_measures_once_for_all_its_processes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.parent.write_text(
        "a file where the folder would be", encoding="utf-8"
    )  # nothing can be kept
    calls = timing(monkeypatch, 2, 1)
    with measured_for_all({"auto", "float32"}):
        bfloat16_speedup.cache_clear()  # another process
        timing(monkeypatch, 1, 2)
        assert choose_precision("auto").chosen == "bfloat16"
    assert calls == [1]
    bfloat16_speedup.cache_clear()
    with measured_for_all({"float32"}):
        assert choose_precision("auto").chosen == "float32"


@pytest.mark.parametrize("wanted", ["auto", "float32"])
def test_the_measurement_is_printed_first_and_recorded(
    wanted: str, small_demo, tiny_encoder: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    timing(monkeypatch, 1.25, 1)
    config = FinetuneConfig(encoder=tiny_encoder, epochs=1, max_batches=1, precision=wanted)
    trained = fitted(Finetune, config, small_demo, tmp_path / "run")
    lines = capsys.readouterr().err.splitlines()
    environment = typed(trained.log.environment, Environment)
    if wanted == "auto":
        epochs = [line.startswith("Epoch 1/1 ") for line in lines].index(True)
        assert choose_precision("auto").sentence() in lines[:epochs]
        assert (environment.bfloat16_speedup, environment.precision) == (1.25, "bf16-mixed")
    else:
        assert not any("Precision" in line for line in lines)
        assert "bfloat16_speedup" not in to_json(environment)


def test_records_without_the_measured_speedup_are_read() -> None:
    before = typed({"precision": "32-true", "device": "CPU"}, Environment)
    assert before.bfloat16_speedup is None
    assert to_json(before) == {"precision": "32-true", "device": "CPU"}
