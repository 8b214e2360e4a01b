"""``erc-bench hub push``: put a finished run into a repository on the Hugging Face hub.

The repository is a store with one run (:mod:`erc_bench.records.fetching`), with a model card and
``config.json`` beside it::

    README.md, config.json
    records/<corpus>/<method>/<run>.json
    runs/<corpus>/<method>/<run>/model.safetensors
    runs/<corpus>/<method>/<run>/encoder/    # fine-tuned for its utterance vectors, if any

No text of a corpus is in it: records hold ids, classes and counts.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from safetensors import SafetensorError

from erc_bench.corpus.conversation import Metric
from erc_bench.corpus.source import CorpusSource
from erc_bench.encoders.locating import download_bars
from erc_bench.errors import ErcBenchError, listed
from erc_bench.files import sha256_of
from erc_bench.progress import say
from erc_bench.records.corpora import find_corpus
from erc_bench.records.fetching import ENCODER, ENCODER_ENDS, RECORDS, SCHEME, WEIGHTS, explain_hub
from erc_bench.records.place import check_model, model_file
from erc_bench.records.schema import Environment, Metrics, ModelFile, Record
from erc_bench.records.store import read_record, run_name, write_record
from erc_bench.settings.experiment import flat, stored_config
from erc_bench.settings.registry import method_class

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD = "README.md"


@dataclass(frozen=True)
class Pushed:
    """A run on the hub."""

    url: str
    private: bool


def push(path: Path, repo: str, root: Path, *, public: bool = False) -> Pushed:
    """Put a finished run on the hub, in a repository of its own.

    The repository is private by default: weights may reveal what they were trained on, and not
    every corpus allows them to be given away. An earlier push of the same run is replaced.

    Args:
        path: the file of the run's record.
        repo: ``user/name``.
        root: folder of the records, which say where a user's own corpora are.
        public: whether everybody may read the repository.

    Raises:
        ErcBenchError: there is no token, the run has no weights, or the repository holds something
            else or is public without ``public``.
    """
    record = read_record(path)
    weights = model_file(path, record)
    if not (record.trains and method_class(record.method).trains):
        raise ErcBenchError(
            f"{record.method!r} trains nothing: the run {run_name(path)} has no weights of its "
            "own, and what it keeps may hold texts of the corpus. Share its settings instead."
        )
    check_model(path, record, weights)
    source = _source(record, root)
    named = flat(record.config)
    here = (named.get("encoder"), named.get("features.path"))
    for own in (name for name in here if name and Path(name).expanduser().exists()):
        say(
            f"Note: the run reads {own} on this machine. The pushed record names that path, and "
            "whoever loads the run needs the same files there."
        )
    api = _api(repo)
    _check_repository(api, repo, path, record, public)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        try:
            _fill(folder, path, record, weights)
            (folder / CARD).write_text(model_card(record, repo, source), encoding="utf-8")
        except (OSError, SafetensorError) as error:
            raise ErcBenchError(
                f"The files to push can't be written to {folder}: {error}. Make room, or "
                "name another folder for temporary files with TMPDIR."
            ) from error
        say(f"Uploading {run_name(path)} to {repo} …")
        try:
            api.create_repo(repo, private=not public, exist_ok=True)
            private = bool(api.model_info(repo).private)
            if private or public:
                message = f"erc-bench: {run_name(path)}"
                with download_bars():
                    api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
        except Exception as error:
            explain_hub(error, repo)
    if not (private or public):
        raise ErcBenchError(
            f"The hub made {repo} public, though a private repository was asked for; nothing was "
            "uploaded. Delete it there, and see whether your account may have private ones."
        )
    return Pushed(f"{api.endpoint}/{repo}", private)


def _api(repo: str) -> HfApi:
    """The hub's client; the user must have a token."""
    from huggingface_hub import HfApi, get_token

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise ErcBenchError(f"{repo!r} is no name of a repository on the hub: it is user/name.")
    api = HfApi()
    if not (api.token or get_token()):
        raise ErcBenchError(
            "There is no token for the Hugging Face hub. Make one that may write at "
            "https://huggingface.co/settings/tokens, and log in with it (`hf auth login`) or set "
            "HF_TOKEN."
        )
    return api


def _check_repository(api: HfApi, repo: str, path: Path, record: Record, public: bool) -> None:
    """Check that a run may be pushed to a repository, which need not exist yet.

    Raises:
        ErcBenchError: it holds something else, or is public although ``public`` is false.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        info = api.model_info(repo)
    except RepositoryNotFoundError:
        return
    except Exception as error:
        explain_hub(error, repo)
    files = {each.rfilename for each in info.siblings or ()} - {".gitattributes"}
    records = [file for file in files if Path(file).match(RECORDS[0])]
    own = f"records/{record.dataset}/{record.method}/{path.name}"
    if files and records != [own]:
        held = f"the run {run_name(Path(records[0]))}" if records else f"{listed(sorted(files), 4)}"
        raise ErcBenchError(
            f"The repository {repo} is there and holds {held}. A repository holds one run of "
            "erc-bench: give another name, or delete that one on the hub."
        )
    if not info.private and not public:
        raise ErcBenchError(
            f"The repository {repo} is public, and a run is pushed privately by default. Add "
            "--public, choose another name, or make the repository private."
        )
    if info.private and public:
        say(f"{repo} stays private. Change that on its page on the hub.")


def _source(record: Record, root: Path) -> CorpusSource | None:
    """The source of a record's corpus; None if the corpus is not known here."""
    try:
        return find_corpus(record.dataset, root)
    except ErcBenchError:
        return None


# --- what is in the repository


def _fill(folder: Path, path: Path, record: Record, weights: Path) -> None:
    """Write the record, the weights and everything else that the model needs to a folder."""
    from safetensors.torch import save_file

    from erc_bench.training.checkpoints import read_checkpoint

    place = Path(record.dataset) / record.method
    run = folder / "runs" / place / path.stem
    run.mkdir(parents=True)
    state = read_checkpoint(weights)["state_dict"]
    # Tensors that share memory are written separately.
    apart = {name: value.detach().clone().contiguous() for name, value in state.items()}
    save_file(apart, run / WEIGHTS, {"format": "pt"})
    _copy_encoder(weights.parent / ENCODER, run / ENCODER, path, record, state)
    model = ModelFile(file=WEIGHTS, sha256=sha256_of(run / WEIGHTS))
    write_record(
        folder / "records" / place / path.name, msgspec.structs.replace(record, model=model)
    )
    config = {
        "library_name": "erc-bench",
        "erc_bench": version("erc-bench"),
        "run": run_name(path),
        "method": record.method,
        "dataset": record.dataset,
        "labels": record.labels,
        "seed": record.seed,
        "settings": record.config,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def _copy_encoder(
    folder: Path, target: Path, path: Path, record: Record, state: Mapping[str, Any]
) -> None:
    """Copy the encoder that was fine-tuned for a run's utterance vectors, if there is one.

    It lies beside the run's weights if they came from the hub, else in the cache.
    """
    from erc_bench.vectors import VectorMethod, VectorMethodConfig, encoder_folder

    config = stored_config(record.method, record.config, f"{path}, config")
    if not (
        issubclass(method_class(record.method), VectorMethod)
        and isinstance(config, VectorMethodConfig)
        and config.features.epochs
        and not config.features.path
    ):
        return
    if not folder.is_dir():
        folder = encoder_folder(bytes(state["encoder_key"].tolist()))
    if not folder.is_dir():
        raise ErcBenchError(
            f"The encoder that was fine-tuned for the vectors of {run_name(path)} is not here: "
            f"there is no {folder}. Push from the machine of the training, copy that folder from "
            "it, or repeat the run with --force."
        )

    def others(_: str, names: list[str]) -> list[str]:
        return [name for name in names if not name.endswith(ENCODER_ENDS)]

    shutil.copytree(folder, target, ignore=others)


def model_card(record: Record, repo: str, source: CorpusSource | None) -> str:
    """The model card of a run, which the hub shows; its figures are in ``model-index``."""
    import yaml

    judged, dev = record.judged_by, record.metrics.dev
    figures = _figures(record.metrics.test, judged)
    on_dev = _figures(dev, judged) if dev is not None else {}
    title = f"{record.method} on {record.dataset}, seed {record.seed}"
    result = {
        "task": {"type": "text-classification", "name": "Emotion recognition in conversation"},
        "dataset": {"type": record.dataset, "name": record.dataset, "split": "test"},
        "metrics": [
            {
                "type": "accuracy" if name == "accuracy" else "f1",
                "name": f"{name}, percent",
                "value": round(value, 2),
            }
            for name, value in figures.items()
        ],
    }
    head = {
        "library_name": "erc-bench",
        "pipeline_tag": "text-classification",
        "tags": ["emotion-recognition-in-conversation", "erc-bench", record.method, record.dataset],
        "model-index": [{"name": title, "results": [result]}],
    }
    rows = {"method": record.method, **_facts(record, source)}
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items() if value)
    scores = "\n".join(
        f"| {name} | {value:.2f} | {f'{on_dev[name]:.2f} ' if name in on_dev else ''}|"
        for name, value in figures.items()
    )
    licence = source.licence if source is not None else "not known here"
    return f"""---
{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---

# {title}

A run of erc-bench: emotion recognition in conversation, selected on dev, test scored once.

| percent | test | dev |
| :-- | --: | --: |
{scores}

| | |
| :-- | :-- |
{table}

## Use

    erc-bench predict {SCHEME}{repo} talk.txt
    erc-bench show {SCHEME}{repo}

`talk.txt` has lines `Speaker: text`. In Python: `erc_bench.load_run("{SCHEME}{repo}")`. The weights
are safetensors; the pre-trained encoder is fetched under its own name, and must be the one above.

## Licence

The weights were trained on {record.dataset}, whose licence is: {licence}. They also derive from the
encoder, which has a licence of its own. Both licences bind whoever uses the weights or passes them
on. No text of the corpus is in this repository: the record holds ids of utterances, classes and
probabilities.
"""


def _figures(metrics: Metrics, judged: Metric) -> dict[str, float]:
    """The figures of a split by name; the corpus's metric comes first."""
    return {
        judged.title: metrics.score(judged),
        "weighted-F1": metrics.weighted_f1,
        "macro-F1": metrics.macro_f1,
        "accuracy": metrics.accuracy,
    }


def _code(where: Environment) -> str:
    """The version and the commit that a run was made with."""
    known = f"erc-bench {where.versions.get('erc-bench', 'of an unknown version')}"
    return f"{known}, commit {where.git_commit}" if where.git_commit else known


def _facts(record: Record, source: CorpusSource | None) -> dict[str, str]:
    """The facts about a run that the card lists, by name."""
    official: dict[bool | None, str] = {
        True: "the official release",
        False: "not the official release",
    }
    encoder, training, where = record.encoder, record.training, record.environment
    return {
        "run": f"`{record.method}/{record.dataset}/{record.config_hash}/seed{record.seed}`",
        "corpus": f"{record.dataset}, {official.get(record.dataset_official, 'release not known')}",
        "release": source.release if source is not None else "",
        "corpus digest": f"`{record.dataset_digest}`",
        "labels": ", ".join(record.labels),
        "encoder": f"`{encoder.name}`, weights `{encoder.digest}`" if encoder else "",
        "context": record.context,
        "selection": record.selection,
        "seed": str(record.seed),
        "preset": record.preset,
        "variant": record.variant or "",
        "overrides": " ".join(f"`{each}`" for each in record.overrides),
        "tuned": f"{record.tuned.trials} trials, {record.tuned.sampler}" if record.tuned else "no",
        "epochs": f"{training.epochs}, best {training.best_epoch}" if training else "",
        "code": _code(where) if where else "",
        "created": record.created,
    }
