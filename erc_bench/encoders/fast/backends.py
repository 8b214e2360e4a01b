"""Settings of the libraries under PyTorch, each in its function."""

from __future__ import annotations

import os

import torch


def set_up_backends() -> None:
    """All of them, before anything is computed. They hold for the process."""
    limit_kernel_cache()
    keep_float32()
    avoid_cudnn_attention()


def limit_kernel_cache() -> None:
    """oneDNN keeps the kernels of 64 shapes, if the environment does not say how many.

    By itself it keeps 1024, and in bfloat16 every length of a batch makes some: memory grows all
    through an epoch.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


def keep_float32() -> None:
    """What is in float32 is in float32: cuDNN would multiply in TF32 inside recurrent layers."""
    torch.backends.cudnn.allow_tf32 = False


def avoid_cudnn_attention() -> None:
    """Attention is not left to cuDNN, as PyTorch does on an H100.

    It plans anew for every shape of a batch, and its gradients can be NaN with a mask of padding
    (pytorch/pytorch#196678).
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
