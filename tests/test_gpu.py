"""Every method on a GPU, if there is one: a grid with two runs at once, and predictions.

All other tests hide the GPU from PyTorch, because they compare results of the CPU bit for bit.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
from test_whole import TALK, erc_bench, records, run_name

from erc_bench.settings.registry import method_names

GPUS = os.environ["GPUS_OF_TESTS"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not GPUS or not shutil.which("nvidia-smi"), reason="there is no GPU"),
]

SEEN = {"CUDA_VISIBLE_DEVICES": GPUS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a grid was run on the GPU."""
    folder = tmp_path_factory.mktemp("gpu")
    grid = ("--dataset", "demo", "--seeds", "2", "--jobs", "2", "--preset", "smoke")
    erc_bench(folder, "run", "--method", "all", *grid, **SEEN)
    return folder


def test_every_record_names_the_gpu_and_how_many_runs_shared_it(folder: Path) -> None:
    found = [json.loads(path.read_text(encoding="utf-8")) for path in records(folder)]
    assert sorted(record["method"] for record in found) == sorted(method_names() * 2)
    for record in found:
        assert not record["environment"]["device"].startswith("CPU")
        assert record["environment"]["runs_at_once"] == 2
        assert record["training"]["peak_memory_mib"] > 0


@pytest.mark.parametrize("method", method_names())
def test_a_model_of_the_gpu_predicts_there_and_on_the_cpu(folder: Path, method: str) -> None:
    words = ("predict", run_name(folder, method), "--json")
    there = erc_bench(folder, *words, given=TALK, **SEEN).splitlines()
    here = erc_bench(folder, *words, given=TALK).splitlines()
    for first, second in zip(map(json.loads, there), map(json.loads, here), strict=True):
        assert first["probabilities"] == pytest.approx(second["probabilities"], abs=0.1)
