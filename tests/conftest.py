"""Shared fixtures: tiny encoders, small corpora, reference figures. No network, one thread."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

# Only test_gpu.py uses these GPUs. All other tests run on the CPU.
os.environ["GPUS_OF_TESTS"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "disabled"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest

# Nothing of the terminal, or of a job that starts the tests, may change what they see.
TERMINAL = ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
JOB = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
HUB = ("HF_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE")
for variable in (*TERMINAL, *JOB, *HUB):
    os.environ.pop(variable, None)
# The hub's cache is empty. huggingface_hub reads the variable when it is imported.
HUB_HOME = tempfile.TemporaryDirectory(prefix="erc-bench-hub-")
os.environ["HF_HOME"] = HUB_HOME.name

# No deadline: the time of an example depends on how busy the machine is.
hypothesis.settings.register_profile("erc-bench", deadline=None, derandomize=True)
# For new inputs each time: pytest --hypothesis-profile random
hypothesis.settings.register_profile("random", deadline=None)
hypothesis.settings.load_profile("erc-bench")

ROOT = Path(__file__).parent.parent.resolve()
sys.path.insert(0, str(ROOT / "tests"))

PACKS = {
    "erc_bench": "erc_bench",
    "erc_bench.methods": "methods",
    "erc_bench.datamodules": "datamodules",
    "erc_bench.experiments": "experiments",
    "erc_bench.published": "leaderboard",
}


def pytest_configure() -> None:
    """Refuse an environment in which another checkout is installed, whose code would be tested."""
    for name, folder in PACKS.items():
        spec = find_spec(name)
        for place in (spec.submodule_search_locations or []) if spec else []:
            if Path(place).resolve() != ROOT / folder:
                pytest.exit(f"{name} is at {place}, not here: pip install -e '.[dev]'", 4)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty cache for the tests, so that they find nothing that a new user would not have."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    return folder


def golden_file(name: str) -> Path:
    """The path of a file of reference figures, which were computed with the authors' code."""
    return ROOT / "tests" / "golden" / name


@pytest.fixture(scope="session")
def demo():
    """The generated demo corpus."""
    from erc_bench.settings.registry import corpus_source

    return corpus_source("demo").load(None)


@pytest.fixture(scope="session")
def small_demo(demo):
    """A few dialogues of the demo corpus: 40 train, 10 dev, 12 test."""
    from erc_bench.corpus.conversation import Corpus

    sizes = {"train": 40, "dev": 10, "test": 12}
    splits = {split: demo.dialogues(split)[:n] for split, n in sizes.items()}
    return Corpus.build("demo", demo.labels, splits)


@pytest.fixture(scope="session")
def tiny_encoder(demo, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a random BERT (2 layers, width 32) that knows the demo corpus's words."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder") / "tiny-bert"
    folder.mkdir()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    texts = " ".join(f"{u.speaker} {u.text}" for d in demo.dialogues("train") for u in d.utterances)
    prompt = "says for utterance feels " + " ".join(demo.labels.names)
    words = sorted(set(re.findall(r"\w+|[^\w\s]", (texts + " " + prompt).lower())))
    tokenizer = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate([*special, *words])}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = ("pad", "unk", "cls", "sep", "mask")
    settings = {f"{name}_token": token for name, token in zip(names, special, strict=True)}
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(special) + len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
    )
    BertModel(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_causal(demo, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a random Llama (2 layers, width 64) that knows the demo corpus's words."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("causal") / "tiny-llama"
    special = ["<pad>", "<unk>", "</s>"]
    texts = " ".join(f"{u.speaker} {u.text}" for d in demo.dialogues("train") for u in d.utterances)
    files = (ROOT / "methods" / "templates").glob("*.jinja")
    texts += " ".join(file.read_text(encoding="utf-8") for file in files)
    texts += " Answer : " + " ".join(demo.labels.names)
    words = sorted(set(re.findall(r"\w+|[^\w\s]", texts.lower())))
    vocabulary = {word: i for i, word in enumerate([*special, *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=2,
        initializer_range=0.1,
    )
    model = LlamaForCausalLM(config)
    # Adapters do not train this layer. With small weights no token could become much more likely.
    model.lm_head.weight.data.mul_(4)
    model.save_pretrained(folder)
    return str(folder)


LANGUAGE_MODELS = {"lora-lm", "prompt-lm"}
"""Methods whose encoder is a causal language model."""


@pytest.fixture(scope="session")
def encoder_for(request: pytest.FixtureRequest, tiny_encoder: str) -> Callable[[str], str]:
    """A function from a method's name to the folder of the tiny model that the method reads."""

    def folder(method: str) -> str:
        causal = method in LANGUAGE_MODELS
        return request.getfixturevalue("tiny_causal") if causal else tiny_encoder

    return folder


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A leaderboard folder with the records of ``write_leaderboard`` and the cache of reading them.

    Tests must not change it.
    """
    from synthetic_records import write_leaderboard

    from erc_bench.leaderboard import read_board

    root = tmp_path_factory.mktemp("leaderboard")
    write_leaderboard(root)
    read_board(root)
    return root
