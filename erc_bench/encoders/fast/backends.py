"""Settings of the libraries below PyTorch, one function each."""

from __future__ import annotations

import os

import torch


def set_up_backends() -> None:
    """Apply all of these settings, before anything is computed. They hold for the process."""
    limit_kernel_cache()
    keep_float32()
    avoid_cudnn_attention()


def limit_kernel_cache() -> None:
    """Let oneDNN keep the kernels of 64 shapes, unless the environment says how many.

    Its default is 1024. In bfloat16 every length of a batch adds some, so memory would grow
    throughout an epoch.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")


def keep_float32() -> None:
    """Compute float32 in float32: cuDNN would multiply in TF32 inside recurrent layers."""
    torch.backends.cudnn.allow_tf32 = False


def avoid_cudnn_attention() -> None:
    """Do not use cuDNN for attention, as PyTorch would on an H100.

    cuDNN plans again for every shape of a batch, and its gradients can be NaN with a padding mask
    (pytorch/pytorch#196678).
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
