"""Where encoders are found: folders, the hub's cache, and a hub on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from huggingface_hub import constants
from tokenizers import ByteLevelBPETokenizer
from transformers import RobertaConfig, RobertaModel

from erc_bench.corpus.conversation import Dialogue, Utterance
from erc_bench.encoders.loading import load_encoder, load_tokenizer, tokenizer_digest
from erc_bench.encoders.locating import find_encoder
from erc_bench.errors import ErcBenchError
from erc_bench.methods.prompts import AnchorReader

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
COMMIT, CONVERTED = "a" * 40, "b" * 40
SMALL = {"config.json": b'{"model_type": "bert"}', "vocab.txt": b"[PAD]"}
PICKLED = {**SMALL, "pytorch_model.bin": b"a pickle"}
SAFE = {**SMALL, "model.safetensors": b"weights", "onnx/model.onnx": b"not wanted"}


def test_the_digest_of_a_tokenizer_covers_all_its_files(tiny_encoder: str, tmp_path: Path) -> None:
    same, other = (
        Path(shutil.copytree(tiny_encoder, tmp_path / name)) for name in ("same", "other")
    )
    settings = json.loads((other / "tokenizer_config.json").read_text(encoding="utf-8"))
    (other / "tokenizer_config.json").write_text(
        json.dumps(settings | {"do_lower_case": False}), encoding="utf-8"
    )
    assert tokenizer_digest(str(same)) == tokenizer_digest(tiny_encoder)
    assert tokenizer_digest(str(other)) != tokenizer_digest(tiny_encoder)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache of the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cached(cache: Path, name: str, revisions: dict[str, tuple[str, dict[str, bytes]]]) -> Path:
    """Write a repository into the hub's cache: a commit and its files for each revision."""
    repository = cache / f"models--{name.replace('/', '--')}"
    for revision, (commit, contents) in revisions.items():
        reference = repository / "refs" / revision
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(commit, encoding="utf-8")
        for file, data in contents.items():
            path = repository / "snapshots" / commit / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return repository / "snapshots"


def test_an_encoder_is_found_in_the_cache(hub_cache: Path) -> None:
    snapshots = cached(hub_cache, "some/encoder", {"main": (COMMIT, SAFE)})
    found = find_encoder("some/encoder")
    assert found.folder == snapshots / COMMIT
    assert len(found.digest) == 64


def test_the_conversion_beside_a_main_branch_without_safetensors_is_found(hub_cache: Path) -> None:
    revisions = {"main": (COMMIT, PICKLED), "refs/pr/7": (CONVERTED, SAFE)}
    snapshots = cached(hub_cache, "old/encoder", revisions)
    assert find_encoder("old/encoder").folder == snapshots / CONVERTED


def test_pickled_weights_are_taken_if_there_are_no_others(hub_cache: Path) -> None:
    snapshots = cached(hub_cache, "old/encoder", {"main": (COMMIT, PICKLED)})
    found = find_encoder("old/encoder")
    assert found.folder == snapshots / COMMIT
    assert not found.safetensors
    assert found.digest == hashlib.sha256(b"a pickle").hexdigest()


def test_a_conversion_of_which_only_the_weights_were_fetched_is_not_taken(hub_cache: Path) -> None:
    """Transformers fetches only the weights of a conversion if it finds pickled ones."""
    weights = {"model.safetensors": b"weights"}
    revisions = {"main": (COMMIT, PICKLED), "refs/pr/7": (CONVERTED, weights)}
    snapshots = cached(hub_cache, "old/encoder", revisions)
    assert find_encoder("old/encoder").folder == snapshots / COMMIT


def test_an_error_names_what_an_incomplete_copy_in_the_cache_lacks(hub_cache: Path) -> None:
    contents = {name: data for name, data in SAFE.items() if name != "vocab.txt"}
    cached(hub_cache, "some/encoder", {"main": (COMMIT, contents)})
    with pytest.raises(ErcBenchError, match="has no tokenizer"):
        load_tokenizer("some/encoder")


def test_weights_in_other_formats_are_not_loaded(hub_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "tf_model.h5").write_bytes(b"others")
    with pytest.raises(ErcBenchError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        find_encoder(str(tmp_path))


def test_a_folder_is_taken_before_the_cache(hub_cache: Path, tmp_path, monkeypatch) -> None:
    cached(hub_cache, "some/encoder", {"main": (COMMIT, SAFE)})
    monkeypatch.chdir(tmp_path)
    folder = Path("some/encoder")
    folder.mkdir(parents=True)
    with pytest.raises(ErcBenchError, match="The folder some/encoder"):
        find_encoder("some/encoder")
    for file, data in SAFE.items():
        if "/" not in file:
            (folder / file).write_bytes(data)
    assert find_encoder("some/encoder").folder == folder


def test_an_error_says_why_the_hub_gave_nothing(hub_cache: Path) -> None:
    with pytest.raises(ErcBenchError) as caught:
        find_encoder("no/such-encoder")
    assert str(hub_cache) in str(caught.value)
    assert "offline" in str(caught.value)
    with pytest.raises(ErcBenchError, match="HFValidationError"):
        find_encoder("no such encoder")
    assert "\n" not in str(caught.value)


# --- a hub ---


class Hub(BaseHTTPRequestHandler):
    """The part of the hub that a download needs; the hub's robot has converted ``old/encoder``."""

    revisions: ClassVar = {
        "some/encoder": {"main": (COMMIT, SAFE)},
        "old/encoder": {"main": (COMMIT, PICKLED), "refs/pr/7": (CONVERTED, SAFE)},
        "older/encoder": {"main": (COMMIT, PICKLED)},
    }

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].replace("%2F", "/").removeprefix("/api/models")
        name = "/".join(path.split("/")[1:3])
        kind, _, rest = path.removeprefix(f"/{name}/").partition("/")
        revisions = self.revisions.get(name, {})
        by_commit = dict(revisions.values())
        if kind == "revision" and rest in revisions:
            commit, contents = revisions[rest]
            self.json({"id": name, "sha": commit, "siblings": [{"rfilename": f} for f in contents]})
        elif kind == "tree" and rest in by_commit:
            files = [(f, len(data)) for f, data in by_commit[rest].items()]
            self.json([{"type": "file", "path": f, "size": n, "oid": f} for f, n in files])
        elif kind == "discussions" and "refs/pr/7" not in revisions:
            self.json({"discussions": [], "count": 0, "start": 0})
        elif kind == "discussions":
            request = {"num": 7, "title": "", "status": "open", "isPullRequest": True}
            request |= {"author": {"name": "SFconvertbot"}, "createdAt": "2023-01-01T00:00:00.000Z"}
            request["repo"] = {"name": name, "type": "model"}
            self.json({"discussions": [request], "count": 1, "start": 0})
        elif kind == "resolve" and rest.partition("/")[0] in by_commit:
            commit, _, file = rest.partition("/")
            self.reply(by_commit[commit][file], {"X-Repo-Commit": commit, "ETag": f'"{file}"'})
        else:
            self.send_error(404)

    def json(self, value: object) -> None:
        self.reply(json.dumps(value).encode(), {"Content-Type": "application/json"})

    def reply(self, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    """The address of a hub on this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def asked(hub: str, name: str, home: Path) -> tuple[str, str]:
    """Look for an encoder in a new process that uses that hub; returns its output and notices."""
    script = (
        "import sys\n"
        "from erc_bench.encoders.loading import find_encoder\n"
        "from erc_bench.errors import ErcBenchError\n"
        "try:\n    print(find_encoder(sys.argv[1]).folder)\n"
        "except ErcBenchError as error:\n    print(error)\n"
    )
    settings = {"HF_ENDPOINT": hub, "HF_HUB_CACHE": str(home), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", script, name],
        env=os.environ | settings | {"HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.strip(), done.stderr


def test_an_encoder_is_fetched_from_the_hub(hub: str, tmp_path: Path) -> None:
    printed, notices = asked(hub, "some/encoder", tmp_path)
    assert {p.name for p in Path(printed).iterdir()} == {*SMALL, "model.safetensors"}
    assert "Looking for the encoder some/encoder" in notices
    # The second time it is read from the cache.
    again, notices = asked("http://127.0.0.1:9", "some/encoder", tmp_path)
    assert again == printed
    assert notices == ""


def test_the_hubs_conversion_is_fetched(hub: str, tmp_path: Path) -> None:
    printed, _ = asked(hub, "old/encoder", tmp_path)
    assert Path(printed).name == CONVERTED
    assert (Path(printed) / "model.safetensors").read_bytes() == b"weights"
    assert asked("http://127.0.0.1:9", "old/encoder", tmp_path)[0] == printed


def test_pickled_weights_are_fetched_if_the_hub_has_no_others(hub: str, tmp_path: Path) -> None:
    printed, _ = asked(hub, "older/encoder", tmp_path)
    assert {p.name for p in Path(printed).iterdir()} == {*SMALL, "pytorch_model.bin"}
    assert asked("http://127.0.0.1:9", "older/encoder", tmp_path) == (printed, "")


def test_an_encoder_that_the_hub_does_not_have(hub: str, tmp_path: Path) -> None:
    printed, _ = asked(hub, "no/encoder", tmp_path)
    assert "404" in printed
    assert len(printed.splitlines()) == 1


def test_an_encoder_without_a_mask_is_refused(tiny_encoder: str, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_encoder, tmp_path / "no-mask")
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    del settings["mask_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(ErcBenchError, match="no mask token"):
        load_tokenizer(str(folder))


@pytest.mark.parametrize("said", [None, "<mask>", {"content": "<mask>", "lstrip": True}])
def test_a_robertas_mask_takes_the_space_before_it_whatever_its_repository_says(
    said: dict | str | None, tmp_path: Path
) -> None:
    texts = ["For utterance: Oh no! Ada says: feels"] * 3
    special = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>"}
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, 400, 1, special_tokens=[*special.values(), "<mask>"])
    tokenizer.save_model(str(tmp_path))
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "roberta", "vocab_size": tokenizer.get_vocab_size()}),
        encoding="utf-8",
    )
    (tmp_path / "model.safetensors").write_bytes(b"not read")
    if said is not None:
        tokens = {f"{name}_token": token for name, token in special.items()}
        tokens |= {"cls_token": "<s>", "sep_token": "</s>", "mask_token": said}
        (tmp_path / "special_tokens_map.json").write_text(json.dumps(tokens), encoding="utf-8")
    reader = AnchorReader(str(tmp_path), 256)
    loaded = reader.tokenizer
    (example,) = reader.examples(Dialogue("d", (Utterance("u", "Ada", "Oh no!", 0),)))
    ids = example["input_ids"]
    words = loaded.convert_ids_to_tokens(ids)
    mask = ids.index(loaded.mask_token_id)
    assert words[mask - 1] == "\u0120feels"


@pytest.mark.parametrize(("name", "positions"), [("tiny", 512), (MINILM, 512)])
def test_a_window_longer_than_the_encoder_reads_is_refused(
    name: str, positions: int, tiny_encoder: str
) -> None:
    name = tiny_encoder if name == "tiny" else name
    load_encoder(name, positions)
    with pytest.raises(ErcBenchError, match=f"reads {positions} tokens at most"):
        load_encoder(name, positions + 1)


def test_positions_of_robertas_kind_begin_behind_the_padding(tmp_path: Path) -> None:
    sizes = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = RobertaConfig(**sizes, intermediate_size=8, max_position_embeddings=20)
    RobertaModel(config).save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path), 18)
    encoder(torch.full((1, 18), 5))
    with pytest.raises(ErcBenchError, match="reads 18 tokens at most"):
        load_encoder(str(tmp_path), 19)
