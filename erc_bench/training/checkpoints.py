"""Checkpoints of a training. They are written whole or not at all, and found after a move."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from safetensors.torch import load_file

from erc_bench.errors import ErcBenchError
from erc_bench.files import cannot_write, temporary_name, whole_file
from erc_bench.method.contract import ErcMethod


class Checkpoint(ModelCheckpoint):
    """Lightning's checkpoint callback, which here finds its files after the folder was moved."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        moved = {key: here(value) for key, value in state_dict.items() if key.endswith("_path")}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        held = {**state_dict, **moved, "dirpath": self.dirpath, "best_k_models": best}
        super().load_state_dict(held)


class WholeFiles(TorchCheckpointIO):
    """Writes checkpoints whole or not at all, on any disk."""

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        save_whole(checkpoint, Path(path))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ours.

    Raises:
        ErcBenchError: the file is not one. The message says what to do.
    """
    try:
        if path.suffix == ".safetensors":  # from the hub
            return {"state_dict": load_file(path)}
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
            raise ValueError("it holds no weights")
    except Exception as error:  # torch raises anything from KeyError to UnpicklingError here
        raise ErcBenchError(
            f"The checkpoint {path} can't be read ({str(error).splitlines()[0]}). Start the "
            "training from the beginning with --restart, or repeat a finished run with --force."
        ) from error
    return checkpoint


def load_checkpoint(method: ErcMethod, path: Path) -> dict[str, Any]:
    """Load the weights of a checkpoint into a method; returns the whole checkpoint.

    Raises:
        ErcBenchError: it can't be read, or is of another method or version.
    """
    checkpoint = read_checkpoint(path)
    try:
        method.load_saved_state(checkpoint["state_dict"])
    except RuntimeError as error:
        heading, *misfits = str(error).splitlines()
        if not heading.startswith("Error(s) in loading state_dict"):  # how torch reports a mismatch
            raise
        raise ErcBenchError(
            f"The checkpoint {path} does not fit {type(method).__name__} as it is now "
            f"({' '.join(misfits)[:200].strip()}). "
            "Use the version of erc-bench that made it, start from the beginning with --restart, "
            "or repeat a finished run with --force."
        ) from error
    return checkpoint


def save_whole(checkpoint: Any, path: Path) -> None:
    """Save a checkpoint so that it is there whole or not at all.

    Raises:
        ErcBenchError: there is no room for it; nothing is left behind.
    """
    try:
        with whole_file(path, temporary_name(path)) as file:
            torch.save(checkpoint, file)
    except RuntimeError as error:  # how torch reports a write that failed
        if type(error) is not RuntimeError:  # a subclass comes from the GPU
            raise
        inside = error.__context__  # what happened in Python while torch wrote
        if isinstance(inside, KeyboardInterrupt):
            raise inside from None
        if isinstance(inside, OSError):
            raise cannot_write(path, inside) from error
        reason = f"most likely the disk is full ({str(error).splitlines()[0]})"
        raise cannot_write(path, OSError(errno.ENOSPC, reason)) from error
