"""Encoders as people have them: other formats, other kinds, files that are damaged or missing."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModel

from erc_bench.encoders.checking import check_vocabulary
from erc_bench.encoders.loading import load_encoder, load_tokenizer, most_positions
from erc_bench.encoders.locating import EncoderFiles, find_encoder
from erc_bench.encoders.tokenising import TextEncoder
from erc_bench.errors import ErcBenchError

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ["oh", "no", "says", "ada", "bo", "for", "utterance", "feels", ":", "!", "joy"]
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
VOCABULARY = len(SPECIAL) + len(WORDS)


def save_tokenizer(folder: Path, template: str = "[CLS] $A [SEP]") -> None:
    """Write a tokenizer that knows eleven words."""
    words = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    said = {f"{token[1:-1].lower()}_token": token for token in SPECIAL}
    said["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(said), encoding="utf-8")


def build(folder: Path, kind: str = "bert", **more: Any) -> Path:
    """Write an encoder with random weights and its tokenizer."""
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "max_position_embeddings": 40, "pad_token_id": 0, **SIZES}
    AutoModel.from_config(AutoConfig.for_model(kind, **{**sizes, **more})).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return build(tmp_path / "bert")


def pickled(folder: Path, **options: Any) -> dict[str, torch.Tensor]:
    """Replace the safetensors of a folder by ``pytorch_model.bin``."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin", **options)
    return weights


def assert_has(folder: Path | str, weights: dict[str, torch.Tensor]) -> None:
    """Assert that an encoder loads with these weights and that its tokenizer works."""
    for name, value in load_encoder(str(folder), 8).state_dict().items():
        assert torch.equal(value, weights[name]), name
    ids = load_tokenizer(str(folder))("oh no !").input_ids
    assert ids == [2, 5, 6, 14, 3]


def refused(folder: Path, *said: str, load: Callable[[str], Any] = load_encoder) -> str:
    """Assert that a folder is refused in one paragraph with all words of ``said``; returns it."""
    with pytest.raises(ErcBenchError) as caught:
        load(str(folder))
    message = str(caught.value)
    for words in (str(folder), *said):
        assert words in message
    assert "\n" not in message
    return message


# --- pytorch_model.bin ---


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_that_are_only_pickled_are_loaded(bert: Path, zipped: bool) -> None:
    assert_has(bert, pickled(bert, _use_new_zipfile_serialization=zipped))


def test_weights_of_old_names_and_with_a_head_are_loaded(bert: Path) -> None:
    """Old repositories have such weights."""
    weights = pickled(bert)
    old = {
        f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in weights.items()
        if not name.startswith("pooler")
    }
    old["bert.embeddings.position_ids"] = torch.arange(40)[None]
    old["cls.predictions.bias"] = torch.zeros(VOCABULARY)
    torch.save(old, bert / "pytorch_model.bin")
    assert_has(bert, weights)


class Command:
    """An object that runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


@pytest.mark.parametrize("form", ["in a zip archive", "of old", "a bare pickle"])
def test_a_malicious_pickle_runs_nothing(bert: Path, tmp_path: Path, form: str) -> None:
    ran = tmp_path / "ran"
    weights = {**pickled(bert), "more": Command(f"touch {ran}")}
    path = bert / "pytorch_model.bin"
    if form == "a bare pickle":
        path.write_bytes(pickle.dumps(weights["more"]))
    else:
        torch.save(weights, path, _use_new_zipfile_serialization=form != "of old")
    message = refused(bert)
    assert not ran.exists()
    if form != "a bare pickle":
        assert "could run code" in message


class FurtherThings:
    """An object that is neither a tensor nor harmful."""


def advised(message: str, made: Path) -> Path:
    """Run the command that an error advises; returns the folder that it makes."""
    (code,) = re.findall(r'python -c "(.*)"', message)
    exec(code.replace("NEW", str(made)), {})
    return made


@pytest.mark.parametrize(
    "held",
    [
        lambda weights, folder: {**weights, "epochs": FurtherThings()},
        lambda weights, folder: AutoModel.from_pretrained(folder),
        lambda weights, folder: {"state_dict": weights, "args": FurtherThings()},
        lambda weights, folder: {"epoch": 3, "state_dict": weights},
        lambda weights, folder: {"net": weights, "optimizer": {"state": {}}},
    ],
    ids=["objects", "a module", "a checkpoint of objects", "a checkpoint", "another checkpoint"],
)
def test_the_advice_for_other_pickles_makes_a_complete_folder(
    bert: Path, tmp_path: Path, held: Callable
) -> None:
    thing = held(load_file(bert / "model.safetensors"), bert)
    weights = pickled(bert)
    torch.save(thing, bert / "pytorch_model.bin")
    assert_has(advised(refused(bert, "a folder NEW with"), tmp_path / "made"), weights)


@pytest.mark.parametrize("safetensors", [True, False])
@pytest.mark.parametrize("prefix", ["module.bert.", "0.auto_model."])
def test_the_advice_for_weights_of_other_names_makes_a_complete_folder(
    bert: Path, tmp_path: Path, prefix: str, safetensors: bool
) -> None:
    weights = load_file(bert / "model.safetensors")
    other = {f"{prefix}{name}": value for name, value in weights.items()}
    if safetensors:
        save_file(other, bert / "model.safetensors", {"format": "pt"})
    else:
        pickled(bert)
        torch.save(other, bert / "pytorch_model.bin")
    assert_has(advised(refused(bert, f"begin with {prefix!r}"), tmp_path / "made"), weights)


def in_parts(folder: Path, safetensors: bool) -> dict[str, torch.Tensor]:
    """Put the weights into two files with an index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem, end = ("model", "safetensors") if safetensors else ("pytorch_model", "bin")
    names = sorted(weights)
    index = {}
    for part, of_it in enumerate((names[:9], names[9:]), 1):
        file = f"{stem}-0000{part}-of-00002.{end}"
        index |= dict.fromkeys(of_it, file)
        some = {name: weights[name] for name in of_it}
        if safetensors:
            save_file(some, folder / file, {"format": "pt"})
        else:
            torch.save(some, folder / file)
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": index})
    (folder / f"{stem}.{end}.index.json").write_text(text, encoding="utf-8")
    return weights


@pytest.mark.parametrize("safetensors", [True, False])
def test_weights_in_parts(bert: Path, safetensors: bool) -> None:
    assert_has(bert, in_parts(bert, safetensors))
    (part,) = bert.glob("*-00002-of-00002.*")
    part.unlink()
    refused(bert, part.name, "Download the encoder again")
    (index,) = bert.glob("*.index.json")
    index.write_text("{", encoding="utf-8")
    refused(bert, index.name)


def test_a_published_recipes_encoder_that_has_only_pickled_weights(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the hub's cache, by name: with pickled weights, then with a conversion beside them."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--princeton-nlp--sup-simcse-roberta-large"
    main, converted = (repository / "snapshots" / (c * 40) for c in "ab")
    shutil.copytree(bert, converted)
    weights = pickled(bert)
    shutil.copytree(bert, main)
    (repository / "refs" / "refs" / "pr").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a" * 40, encoding="utf-8")
    name = "princeton-nlp/sup-simcse-roberta-large"
    assert_has(name, weights)
    assert not find_encoder(name).safetensors
    (repository / "refs" / "refs" / "pr" / "9").write_text("b" * 40, encoding="utf-8")
    assert_has(name, weights)
    assert find_encoder(name).folder == converted
    # Transformers may have fetched only the weights of the conversion. Then main is taken.
    (converted / "config.json").unlink()
    assert find_encoder(name).folder == main


# --- weights that do not match ---


def rename(weights: dict, change: Callable[[str], str]) -> dict:
    return {change(name): value for name, value in weights.items()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: rename(w, lambda n: f"0.auto_model.{n}"), "0.auto_model.embeddings"),
        (lambda w: rename(w, lambda n: n.replace("layer.1", "layer.7")), "encoder.layer.1."),
        (lambda w: {n: v for n, v in w.items() if "word_emb" not in n}, "word_embeddings"),
        (lambda w: {n: v for n, v in w.items() if n != "embeddings.LayerNorm.bias"}, "1 of 37"),
        (lambda w: {n: v[:-1].clone() for n, v in w.items()}, "another size"),
        (lambda w: {}, "37 of 37"),
    ],
)
def test_weights_that_are_not_all_there_are_an_error(bert: Path, change, said: str) -> None:
    path = bert / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})
    refused(bert, said, "config.json")


def edited(folder: Path, **more: Any) -> Path:
    path = folder / "config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text(encoding="utf-8")), **more}), encoding="utf-8"
    )
    return folder


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"num_hidden_layers": 4}, "encoder.layer.2."),
        ({"num_hidden_layers": 1}, "further layers"),
        ({"hidden_size": 32}, "another size"),
        ({"model_type": "roberta", "vocab_size": 9}, "another size"),
        ({"model_type": "electra"}, "another size"),
        ({"model_type": "no-such-kind"}, "can't be used"),
        ({"hidden_size": "x"}, ""),
        ({"num_attention_heads": 3}, ""),
    ],
)
def test_a_configuration_of_other_weights_is_an_error(bert: Path, more: dict, said: str) -> None:
    refused(edited(bert, **more), said)


def test_a_missing_pooler_and_an_extra_head_are_no_error(tmp_path: Path) -> None:
    folder = build(tmp_path / "xlm", "xlm-roberta")
    weights = load_file(folder / "model.safetensors")
    fewer = {n: v for n, v in weights.items() if not n.startswith("pooler")}
    more = {**fewer, "lm_head.bias": torch.zeros(VOCABULARY)}
    save_file(more, folder / "model.safetensors", {"format": "pt"})
    found = load_encoder(str(folder)).state_dict()
    assert all(torch.equal(found[name], value) for name, value in fewer.items())


def test_further_outputs_that_a_configuration_asks_for_are_left_out(bert: Path) -> None:
    edited(bert, return_dict=False, output_hidden_states=True, output_attentions=True)
    states = load_encoder(str(bert))(torch.full((1, 4), 7)).last_hidden_state
    assert states.shape == (1, 4, 16)


def test_an_extra_pooler_is_not_named_in_place_of_missing_layers(bert: Path) -> None:
    message = refused(edited(bert, num_hidden_layers=4), "encoder.layer.2.", "32 of 69")
    assert "pooler.dense" not in message
    assert "instead" not in message


# --- weights that were never trained, or only partly there ---


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_an_error(bert: Path, value: float) -> None:
    path = bert / "model.safetensors"
    weights = load_file(path)
    weights["encoder.layer.1.output.dense.bias"][3] = value
    save_file(weights, path, {"format": "pt"})
    refused(
        bert, str(path), "1 of 37 weights hold NaN or infinity", "encoder.layer.1.output.dense.bias"
    )


@pytest.mark.parametrize("safetensors", [True, False])
def test_matrices_of_zeros_are_an_error(bert: Path, safetensors: bool) -> None:
    """Also in a pickle, which ends in its index, and in the middle of a file."""
    path = bert / "model.safetensors"
    weights = load_file(path)
    zeros = {n: torch.zeros_like(v) for n, v in weights.items() if n.startswith("encoder.layer.1")}
    weights |= zeros
    if safetensors:
        save_file(weights, path, {"format": "pt"})
    else:
        path.unlink()
        path = bert / "pytorch_model.bin"
        torch.save(weights, path)
    matrices = sum(value.ndim == 2 for value in zeros.values())
    refused(
        bert,
        str(path),
        f"{matrices} of 37 weights hold nothing but zeros",
        "encoder.layer.1.attention",
    )


@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_a_download_that_stopped_in_a_file_of_the_final_size_is_an_error(
    bert: Path, share: float
) -> None:
    path = bert / "model.safetensors"
    data = path.read_bytes()
    there = int(share * len(data))
    path.write_bytes(data[:there] + bytes(len(data) - there))
    refused(bert, str(path), "ends in zeros")


def test_zeros_of_a_part_are_an_error_that_names_it(bert: Path) -> None:
    in_parts(bert, safetensors=True)
    path = bert / "model-00001-of-00002.safetensors"
    weights = load_file(path)
    weights["embeddings.word_embeddings.weight"].zero_()
    save_file(weights, path, {"format": "pt"})
    message = refused(bert, path.name, "word_embeddings")
    assert "00002-of-00002.safetensors" not in message


def test_zeros_that_published_encoders_have_are_no_error(tmp_path: Path) -> None:
    """The rows of RoBERTa's only token type, of padding and of unused tokens at the end; biases."""
    folder = build(tmp_path / "roberta", "roberta", type_vocab_size=1)
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["embeddings.token_type_embeddings.weight"].zero_()
    weights["embeddings.word_embeddings.weight"][-3:] = 0
    for name, value in weights.items():
        if name.endswith("bias"):
            value.zero_()
    save_file(weights, path, {"format": "pt"})
    assert_has(folder, weights)


# --- files ---


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: POINTER, "git lfs pull"),
        (lambda data: b"", "is empty"),
        (lambda data: b"<!DOCTYPE html>\n<html>404</html>", "web page"),
        (lambda data: data[:2000], "cut off or damaged"),
        (lambda data: data[:-10], "cut off or damaged"),
        (lambda data: b"\x00" * len(data), "cut off or damaged"),
    ],
)
def test_files_that_are_no_weights_are_named(bert: Path, file: str, damage, said: str) -> None:
    if file == "pytorch_model.bin":
        pickled(bert)
    (bert / file).write_bytes(damage((bert / file).read_bytes()))
    refused(bert, said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "can't be used"),
        ("[]", "can't be used"),
        ("null", "can't be used"),
        ('"bert"', "can't be used"),
        ("\0", "can't be used"),
        ("", "is empty"),
        ("\n<html>Not found</html>", "is a web page"),
        (POINTER.decode(), "git lfs pull"),
    ],
)
def test_a_broken_configuration_is_named(bert: Path, text: str, said: str) -> None:
    (bert / "config.json").write_text(text, encoding="utf-8")
    for load in (load_encoder, load_tokenizer):
        refused(bert, "config.json", said, load=load)


def test_a_quantised_encoder_is_refused(bert: Path) -> None:
    edited(bert, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    for load in (load_encoder, load_tokenizer):
        refused(bert, "quantised (bitsandbytes)", "made from", load=load)


def test_an_encoder_with_causal_attention_is_refused(bert: Path) -> None:
    edited(bert, is_decoder=True)
    refused(bert, "config.json", '"is_decoder": true', "Write false there")


def dangling(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../../blobs/0123")


def below(folder: Path) -> None:
    (folder / "0_Transformer").mkdir()
    for path in list(folder.iterdir()):
        if path.is_file():
            path.rename(folder / "0_Transformer" / path.name)
    (folder / "modules.json").write_text("[]", encoding="utf-8")


def variant(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")


def without_an_index(folder: Path) -> None:
    in_parts(folder, safetensors=True)
    (folder / "model.safetensors.index.json").unlink()


def adapter(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "roberta-base"}', encoding="utf-8"
    )


def adapter_beside(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{", encoding="utf-8")


def another_name(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights.pt")


def another_library(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "flax_model.msgpack")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dangling, ["model.safetensors", "../../blobs/0123", "cp -rL"]),
        (below, ["encoder=", "/0_Transformer."]),
        (variant, ["copy model.fp16.safetensors to model.safetensors"]),
        (without_an_index, ["model-00001-of-00002.safetensors", "model.safetensors.index.json"]),
        (adapter, ["an adapter of roberta-base", "merge_and_unload"]),
        (adapter_beside, ["adapter_config.json", "without it, remove"]),
        (another_name, ["only weights.pt", "rename"]),
        (another_library, ["neither model.safetensors nor pytorch_model.bin", "Flax"]),
    ],
)
def test_folders_that_are_no_complete_encoder_are_explained(
    bert: Path, change: Callable, said: list[str]
) -> None:
    change(bert)
    refused(bert, *said)


def test_a_missing_configuration_is_named(bert: Path) -> None:
    (bert / "config.json").unlink()
    refused(bert, "has no config.json")


# --- tokenizers ---


def test_a_folder_without_tokenizer_files_is_refused(bert: Path) -> None:
    for path in bert.glob("token*"):
        path.unlink()
    refused(bert, "tokenizer.json", "vocab.txt", load=load_tokenizer)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("text", ["", "{", "[]", POINTER.decode()])
def test_broken_tokenizer_files_are_named(bert: Path, file: str, text: str) -> None:
    (bert / file).write_text(text, encoding="utf-8")
    refused(bert, file, load=load_tokenizer)


@pytest.mark.parametrize(
    ("embeddings", "fits"), [(15, False), (16, True), (17, False), (99, False)]
)
def test_the_vocabulary_fits_the_embeddings(bert: Path, embeddings: int, fits: bool) -> None:
    edited(bert, vocab_size=embeddings)
    if fits:
        assert len(load_tokenizer(str(bert))) == VOCABULARY == 16
    else:
        refused(bert, "16 entries", f"{embeddings} embeddings", load=load_tokenizer)


@pytest.mark.parametrize(
    ("embeddings", "entries", "fits"),
    [
        # published encoders
        (30522, 30522, True),  # BERT, ELECTRA, DistilBERT
        (50265, 50265, True),  # RoBERTa, DeBERTa, BART
        (30527, 30527, True),  # MPNet
        (250002, 250002, True),  # XLM-RoBERTa
        (128100, 128001, True),  # DeBERTa-v3
        (251000, 250102, True),  # mDeBERTa-v3
        (250880, 250002, True),  # XLM-RoBERTa-XL
        (250037, 250002, True),  # Multilingual MiniLM
        (30528, 30522, True),  # BERTs padded to a multiple of 64
        (32128, 32100, True),  # T5
        (32102, 31102, True),  # dbmdz's Italian XXL
        # the tokenizer of another encoder
        (50265, 30522, False),  # RoBERTa's weights and BERT's tokenizer
        (30522, 28996, False),  # uncased and cased
        (30000, 28996, False),
        (30527, 30522, False),  # MPNet's and BERT's
        (250002, 128001, False),
        (28996, 30522, False),
        # a vocab.txt with lines missing
        (30522, 30521, False),
        (30522, 20348, False),
        (50265, 50264, False),
    ],
)
def test_spare_embeddings_are_padding_or_another_tokenizer(
    embeddings: int, entries: int, fits: bool, tmp_path: Path
) -> None:
    tokenizer: Any = SimpleNamespace(get_vocab=lambda: {"a": 0, "z": entries - 1})
    for name in ("pad", "cls", "sep", "bos", "eos"):
        setattr(tokenizer, f"{name}_token_id", None)
    found = EncoderFiles("an encoder", tmp_path, "")
    if fits:
        check_vocabulary(tokenizer, {"vocab_size": embeddings}, None, found)
    else:
        with pytest.raises(ErcBenchError, match=f"{embeddings} embeddings"):
            check_vocabulary(tokenizer, {"vocab_size": embeddings}, None, found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[: len(lines) * 2 // 3], "entries with ids up to 10"),
        (lambda lines: lines[:9] + lines[10:], "If nothing of vocab.txt is missing"),
        (lambda lines: ["", *lines], "17 embeddings"),
        (lambda lines: ["\ufeff" + lines[0], *lines[1:]], "byte-order mark"),
        (lambda lines: [], "is empty"),
        (lambda lines: POINTER.decode().splitlines(), "git lfs pull"),
        (lambda lines: lines, None),
    ],
)
def test_a_vocabulary_with_lines_missing_is_refused(
    tmp_path: Path, change: Callable, said: str | None
) -> None:
    folder = build(tmp_path / "bert", vocab_size=VOCABULARY + 1)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "BertTokenizer"}', encoding="utf-8"
    )
    lines = change([*SPECIAL, *WORDS, "more"])
    (folder / "vocab.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    if said:
        refused(folder, said, load=load_tokenizer)
    else:
        assert load_tokenizer(str(folder))("oh no !").input_ids == [2, 5, 6, 14, 3]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"pad_token_id": 1}, "its pad token has the id 0, and config.json says 1"),
        ({"sep_token_id": 2}, "its sep token has the id 3, and config.json says 2"),
        ({"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 8, "eos_token_id": 9}, None),
        ({"pad_token_id": None}, None),
    ],
)
def test_special_tokens_are_those_of_the_configuration(
    bert: Path, more: dict, said: str | None
) -> None:
    edited(bert, **more)
    if said:
        refused(bert, said, load=load_tokenizer)
    else:
        load_tokenizer(str(bert))


def test_a_default_token_id_of_the_kind_of_encoder_is_ignored(tmp_path: Path) -> None:
    folder = build(tmp_path / "longformer", "longformer", attention_window=8)
    said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert load_tokenizer(str(folder)).sep_token_id != said.get("sep_token_id", 2)


@pytest.mark.parametrize(("bos", "eos", "fits"), [(2, 3, True), (3, 2, True), (0, 2, False)])
def test_the_ends_of_a_text_are_those_of_the_configuration(
    bert: Path, bos: int, eos: int, fits: bool
) -> None:
    path = bert / "tokenizer_config.json"
    said = {
        **json.loads(path.read_text(encoding="utf-8")),
        "bos_token": "[CLS]",
        "eos_token": "[SEP]",
    }
    path.write_text(json.dumps(said), encoding="utf-8")
    edited(bert, bos_token_id=bos, eos_token_id=eos)
    if fits:
        load_tokenizer(str(bert))
    else:
        refused(bert, "bos_token_id, eos_token_id", load=load_tokenizer)


@pytest.mark.parametrize(("unknown", "outcome"), [(85, "error"), (20, "note"), (2, "nothing")])
def test_a_corpus_of_unknown_words_is_an_error_or_a_note(
    bert: Path, unknown: int, outcome: str, capsys
) -> None:
    """As with a tokenizer of the same size, but for another language."""
    texts = TextEncoder(load_tokenizer(str(bert)))
    words = ["привет"] * unknown + ["oh"] * (100 - unknown)
    corpus = [" ".join([*words, *["no"] * i]) for i in range(12)]
    if outcome == "error":
        with pytest.raises(ErcBenchError, match=rf"8\d % of the 1,2\d\d tokens .*{bert}"):
            texts.add(corpus)
    else:
        texts.add(corpus)
        texts.add([f"bo {text}" for text in corpus])  # the note appears once
    said = capsys.readouterr().err
    assert said.count("unknown to the tokenizer") == (outcome == "note")


def test_unknown_words_in_a_few_texts_are_not_reported(bert: Path, capsys) -> None:
    texts = TextEncoder(load_tokenizer(str(bert)))
    assert texts.ids(["привет 🙂"]) == [[2, 1, 1, 3]]
    assert not capsys.readouterr().err


def test_a_tokenizer_without_its_unknown_token_is_refused(bert: Path) -> None:
    path = bert / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8").replace("[UNK]", "other"))
    tokenizer["model"]["unk_token"] = "[UNK]"
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    said = json.loads((bert / "tokenizer_config.json").read_text(encoding="utf-8"))
    del said["unk_token"]
    (bert / "tokenizer_config.json").write_text(json.dumps(said), encoding="utf-8")
    refused(bert, "can't read every text", load=load_tokenizer)


def test_a_tokenizer_that_drops_unknown_words_is_refused(bert: Path) -> None:
    path = bert / "tokenizer.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    said["model"] = {"type": "BPE", "vocab": said["model"]["vocab"], "merges": []}
    path.write_text(json.dumps(said), encoding="utf-8")
    texts = TextEncoder(load_tokenizer(str(bert)))
    with pytest.raises(ErcBenchError, match="100 % of the 1,100 tokens"):
        texts.add([f"привет {'как ' * i}" for i in range(1100)])


def test_a_tokenizer_that_knows_no_words_is_refused(bert: Path) -> None:
    path = bert / "tokenizer.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    said["model"]["vocab"] = {word: i for i, word in enumerate(SPECIAL)}
    path.write_text(json.dumps(said), encoding="utf-8")
    edited(bert, vocab_size=5)
    refused(bert, "knows no words", load=load_tokenizer)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("$A [SEP] [CLS]", "puts nothing before a text and [SEP] [CLS] after it"),  # XLNet's
        ("$A", "puts nothing before a text and nothing after it: "),
        ("[SEP] [CLS] $A", "puts [SEP] [CLS] before a text"),
        ("[CLS] $A", None),
    ],
)
def test_special_tokens_must_be_where_the_methods_expect_them(
    bert: Path, template: str, said: str | None
) -> None:
    save_tokenizer(bert, template)
    if said:
        refused(bert, said, load=load_tokenizer)
    else:
        assert load_tokenizer(str(bert))("oh no").input_ids == [2, 5, 6]


def test_a_tokenizer_without_a_post_processor_is_refused(bert: Path) -> None:
    path = bert / "tokenizer.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text(encoding="utf-8")), "post_processor": None}),
        encoding="utf-8",
    )
    refused(bert, "tokenizer.json has no post_processor", "Copy the tokenizer", load=load_tokenizer)


# --- other kinds ---


def test_an_encoder_that_wants_more_than_token_ids_is_not_blamed_on_max_len(tmp_path: Path) -> None:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    folder = build(tmp_path / "t5", "t5", decoder_start_token_id=0, **sizes)
    message = refused(folder, "(t5)", "such as a BERT or a RoBERTa")
    assert "max_len" not in message


def test_debertas_first_version_is_computed_in_float32(tmp_path: Path, capsys) -> None:
    more = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
    folder = build(tmp_path / "deberta", "deberta", **more)
    encoder = load_encoder(str(folder), 30)
    assert "float32" in capsys.readouterr().err
    inputs = {"input_ids": torch.full((1, 4), 7), "attention_mask": torch.ones(1, 4)}
    exact = encoder(**inputs).last_hidden_state
    with torch.autocast("cpu", torch.bfloat16):
        states = encoder(**inputs).last_hidden_state
        (states.sum() + encoder(**inputs).last_hidden_state.pow(2).sum()).backward()
    assert states.dtype == torch.float32
    assert torch.equal(states, exact)
    encoder.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text(encoding="utf-8"))[
        "architectures"
    ] == ["DebertaModel"]


def test_a_note_says_which_states_of_an_encoder_with_a_decoder_are_used(
    tmp_path: Path, capsys
) -> None:
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16}
    sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 16}
    folder = build(tmp_path / "bart", "bart", **sizes)
    encoder = load_encoder(str(folder), 40)
    assert "The decoder's last states are used" in capsys.readouterr().err
    assert encoder(torch.full((1, 40), 7)).last_hidden_state.shape == (1, 40, 16)


@pytest.mark.parametrize(
    ("kind", "positions", "more"),
    [
        ("bert", 40, {}),
        ("roberta", 39, {}),  # positions begin after the padding's id, which is 0 here
        ("mpnet", 38, {}),  # its padding's id is always 1
        ("xlm-roberta", 39, {}),
        ("electra", 40, {"embedding_size": 16}),
        ("albert", 40, {"embedding_size": 16}),
        ("distilbert", 40, {"dim": 16, "hidden_dim": 16, "n_heads": 2, "n_layers": 1}),
        ("deberta", 40, {}),
        ("deberta-v2", None, {"relative_attention": True, "position_biased_input": False}),
        ("bart", 40, {"d_model": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2}),
    ],
)
def test_more_tokens_than_positions_are_refused(
    kind: str, positions: int | None, more: dict, tmp_path: Path
) -> None:
    if kind == "bart":
        more = {**more, "encoder_layers": 1, "decoder_layers": 1}
    folder = build(tmp_path / kind, kind, **more)
    encoder = load_encoder(str(folder), positions or 60)
    assert most_positions(encoder) == positions
    ids = torch.full((1, positions or 60), 7)
    assert encoder(ids).last_hidden_state.shape[1] == ids.shape[1]
    if positions:
        with pytest.raises((IndexError, RuntimeError)):  # from transformers itself
            encoder(torch.full((1, positions + 1), 7))
        with pytest.raises(ErcBenchError, match=f"reads {positions} tokens at most"):
            load_encoder(str(folder), positions + 1)


# --- any damage ---


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an encoder."""
    folder = build(tmp_path_factory.mktemp("intact") / "bert")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 100),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def changed(data: bytes, draw: Callable) -> bytes:
    """A JSON object with one of its fields, at any depth, changed or removed."""
    said = json.loads(data)
    place = said
    while True:
        key = draw(st.sampled_from(sorted(place)))
        if isinstance(place[key], dict) and place[key] and draw(st.booleans()):
            place = place[key]
            continue
        break
    if draw(st.booleans()):
        del place[key]
    else:
        place[key] = draw(VALUES)
    return json.dumps(said).encode()


def written(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def tried(folder: Path, files: dict[str, bytes], whole: dict[str, bytes]) -> None:
    """Assert that an encoder of these files is refused, or has the weights of the intact one."""
    shutil.rmtree(folder, ignore_errors=True)
    written(folder, files)
    try:
        tokenizer = load_tokenizer(str(folder))
        encoder = load_encoder(str(folder), 8)
    except ErcBenchError:
        return
    (folder / "whole.safetensors").write_bytes(whole["model.safetensors"])
    weights = load_file(folder / "whole.safetensors")
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, weights[name]), name
    ids = tokenizer("oh no !").input_ids
    assert ids[0] == tokenizer.cls_token_id
    assert max(ids) < encoder.get_input_embeddings().num_embeddings


def test_a_tokenizer_that_panics_is_refused(intact: dict[str, bytes], tmp_path: Path) -> None:
    said = json.loads(intact["tokenizer.json"])
    cls = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    said["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [cls, text],
        "pair": [cls, text],
        "special_tokens": {},
    }
    folder = written(tmp_path / "encoder", {**intact, "tokenizer.json": json.dumps(said).encode()})
    with pytest.raises(ErcBenchError, match=r"can't read every text .* Copy its tokenizer files"):
        load_tokenizer(str(folder))


@pytest.mark.slow
@settings(
    max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_files_are_refused_or_make_no_difference(
    intact: dict[str, bytes], tmp_path: Path, data: st.DataObject
) -> None:
    file = data.draw(st.sampled_from(sorted(intact)))
    files = dict(intact)
    kinds = ["cut", "gone", "another", *(["field"] * 3 if file.endswith(".json") else [])]
    kind = data.draw(st.sampled_from(kinds))
    if kind == "cut":
        files[file] = files[file][: data.draw(st.integers(0, len(files[file]) - 1))]
    elif kind == "gone":
        del files[file]
    elif kind == "another":
        files[file] = data.draw(st.binary(max_size=300))
    else:
        files[file] = changed(files[file], data.draw)
    tried(tmp_path / "encoder", files, intact)
