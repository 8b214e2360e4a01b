"""A grid on a real Ray cluster of three nodes, one of which is lost in the middle."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from erc_bench.errors import ErcBenchError
from erc_bench.execution.grid import plan, run_grid
from erc_bench.execution.job_folder import job_folders
from erc_bench.execution.resources import Resources
from erc_bench.settings.experiment import resolve

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'erc-bench[ray]'")

from erc_bench.execution.ray_cluster import Ray  # noqa: E402  needs Ray

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NEEDS = Resources(cpus=1, gpus=0, memory_gib=0.5)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # otherwise all other processes go first
    node = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 << 20}
    made = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    made.workers = [made.add_node(**node) for _ in range(2)]
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def test_all_twelve_runs_finish_although_a_node_is_lost(
    cluster, tiny_encoder: str, tmp_path: Path
) -> None:
    settings = [f"encoder={tiny_encoder}", "max_batches=2", "epochs=3", "precision=float32"]
    experiments = [
        resolve("finetune", "demo", preset="smoke", seed=seed, overrides=settings)
        for seed in range(1, 13)
    ]
    jobs, _ = plan(experiments, tmp_path, {})
    lost: list[bool] = []

    def lose_a_node() -> None:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            begun = sum(len(folder.begun()) for folder in job_folders(tmp_path))
            records = sum(job.place.record.exists() for job in jobs)
            if begun >= 3 and records >= 1:  # all nodes are at work
                cluster.remove_node(cluster.workers[0], allow_graceful=False)
                lost.append(True)
                return
            time.sleep(0.1)

    loser = threading.Thread(target=lose_a_node)
    loser.start()
    engine = Ray({"address": cluster.address})
    report = run_grid(experiments, tmp_path, executor=engine, resources=NEEDS)
    loser.join()
    assert lost
    assert report.failures == []
    assert len(report.scores["finetune", "demo"]) == 12
    assert len(list(tmp_path.glob("records/*/*/*.json"))) == 12
    for job in jobs:  # each was finished exactly once
        assert job.place.log.read_text(encoding="utf-8").count("Epoch 3/3") == 1
    assert job_folders(tmp_path) == []


def test_a_missing_cluster_and_an_unknown_option_are_errors() -> None:
    with pytest.raises(ErcBenchError, match=r"no Ray cluster at 127\.0\.0\.1:1"):
        Ray({"address": "127.0.0.1:1"})
    with pytest.raises(ErcBenchError, match="ray has no such option"):
        Ray({"adress": "auto"})
