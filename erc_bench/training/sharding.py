"""Shards the weights of encoders among the devices (PyTorch's FSDP2).

Each device keeps its part of every weight, of the weight's gradient and of the optimiser's state. A
layer's weights are gathered while the layer is computed. The rest of a method stays whole on every
device. Checkpoints hold whole weights, so they do not depend on the number of devices.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from transformers import PreTrainedModel

from erc_bench.errors import ErcBenchError
from erc_bench.method import devices


def encoders(method: nn.Module) -> Iterator[PreTrainedModel]:
    """The pre-trained encoders in a method."""
    inside: set[nn.Module] = set()
    for module in method.modules():
        if isinstance(module, PreTrainedModel) and module not in inside:
            inside.update(module.modules())
            yield module


def checkpoint_layers(method: nn.Module) -> None:
    """Turn on gradient checkpointing: the backward pass computes encoder layers again.

    Raises:
        ErcBenchError: the method has no encoder that can do this.
    """
    found = list(encoders(method))
    unable = [e.config.model_type for e in found if not e.supports_gradient_checkpointing]
    if unable or not found:
        why = f"its encoder ({unable[0]}) does not support it" if unable else "it has no encoder"
        raise ErcBenchError(
            "checkpointing=true computes the layers of an encoder again to save memory. "
            f"{type(method).__name__} can't do this: {why}. Leave it out; micro_batch=N saves "
            "memory as well."
        )
    for encoder in found:
        # The method's name in newer versions of transformers.
        enable = getattr(
            encoder, "activation_checkpointing_enable", encoder.gradient_checkpointing_enable
        )
        enable({"use_reentrant": False})


def shard(method: nn.Module) -> None:
    """Shard the weights of a method's encoders, layer by layer.

    Raises:
        ErcBenchError: the method has no encoder, or PyTorch is too old.
    """
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, fully_shard
    except ImportError as error:
        raise ErcBenchError(
            f"--strategy fsdp needs PyTorch 2.6 or newer; this is {torch.__version__}."
        ) from error
    found = list(encoders(method))
    if not found:
        raise ErcBenchError(
            f"--strategy fsdp shares out an encoder's weights, and {type(method).__name__} trains "
            "none. Leave it out."
        )
    on_gpu = torch.cuda.is_available()
    mesh = init_device_mesh("cuda" if on_gpu else "cpu", (devices.count(),))
    for encoder in found:
        for several in [m for m in encoder.modules() if isinstance(m, nn.ModuleList)]:
            for layer in several:
                fully_shard(layer, mesh=mesh)
        fully_shard(encoder, mesh=mesh)
        for module in encoder.modules():
            if isinstance(module, FSDPModule) and not on_gpu:  # gloo can't average
                module.set_force_sum_reduction_for_comms(True)
    method.register_state_dict_post_hook(_whole_state)
    method.register_load_state_dict_pre_hook(_own_parts)


def whole(values: Any) -> Any:
    """Return nested values with every sharded tensor gathered to a whole one, on all devices."""
    from torch.distributed.tensor import DTensor

    return tree_map_only(DTensor, lambda t: t.full_tensor(), values)


def part_like(value: Any, like: Any) -> Any:
    """This device's part of a whole tensor, if ``like`` of the same shape is sharded."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor) or not isinstance(value, Tensor):
        return value
    if isinstance(value, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def is_shared_out(value: Tensor) -> bool:
    """Whether each device has only its part of a tensor."""
    from torch.distributed.tensor import DTensor

    return isinstance(value, DTensor)


def clip_gradients(parameters: Iterator[nn.Parameter], bound: float) -> None:
    """Clip the norm of all gradients together. Some of them may be sharded."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = [torch.linalg.vector_norm(g) for g in gradients]
    total = torch.linalg.vector_norm(torch.stack(whole(norms)))
    factor = (bound / (total + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor)


def _whole_state(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name, value in state.items():
        state[name] = whole(value)


def _own_parts(module: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
    assert isinstance(state, dict)
    for name, p in module.named_parameters():
        if prefix + name in state:
            state[prefix + name] = part_like(state[prefix + name], p)
