"""Count the memory that a training step needs, without computing anything.

    python -m benchmarks.memory

A step holds the weights in float32 and AdamW's two moments of each (12 bytes a parameter). When the
forward pass ends, it also holds every tensor that the backward pass is going to read. These tensors
are counted with autograd's hook for saved tensors. The tensors are fake: they have shapes and no
numbers. Tensors that share a storage count once. Gradients appear while the saved tensors are
freed, so they need no memory of their own as long as a batch is large. Memory inside a single
operation is not counted.

The encoders are built with random weights, in the sizes of the encoders that the presets name. The
batch is the largest possible one: each of its examples has max_len tokens. Two things differ by
device. On a GPU, attention is fused and keeps no probabilities, except in MPNet, which has no fused
form; on a CPU, attention with dropout keeps them. And on a GPU, dropout masks take half of the
memory that is counted here.

A language model with adapters (lora-lm) holds its own weights in bfloat16. For each parameter of
the adapters it holds weight, gradient and two moments in float32. Its layers are computed again in
the backward pass, so only the input of each layer and the inside of one layer are kept.

Small cases (on a GPU, all cases with fused attention) are also measured: the peak of the second
step, in a process of its own. On a CPU this is resident memory, with an allocator that returns
freed memory at once. There attention is fused only without dropout, so dropout of attention is off
in the fused cases.
"""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from erc_bench.encoders.fast.one_position import states_at
from erc_bench.progress import say
from erc_bench.settings.experiment import resolve
from erc_bench.settings.methods import method_entry

GIB = 2**30

ENCODERS: dict[str, dict[str, Any]] = {
    "all-MiniLM-L6-v2": {
        "model_type": "bert",
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
    },
    "all-mpnet-base-v2": {"model_type": "mpnet", "vocab_size": 30527},
    "roberta-large": {
        "model_type": "roberta",
        "vocab_size": 50265,
        "max_position_embeddings": 514,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    },
}
"""Sizes of the encoders; sizes that are left out are those of BERT-base."""

BY_DIALOGUE = ("speaker-mtl",)
"""Methods that encode all turns of several dialogues in a batch, however many turns there are."""

CUDA_GIB = 2
"""Memory of a GPU that CUDA itself takes."""


LANGUAGE_MODELS: dict[str, dict[str, Any]] = {
    "Qwen2.5-7B": {
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
        "vocab_size": 152064,
    },
    "Qwen2.5-1.5B": {
        "hidden_size": 1536,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "intermediate_size": 8960,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "Qwen2.5-0.5B": {
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
}
"""Sizes of the language models that the presets of lora-lm name."""

ANSWER_TOKENS = 4
"""Tokens of an answer, with the one that ends it."""


@dataclass(frozen=True)
class Case:
    """A training step on a batch whose rows all have the same length."""

    encoder: str
    batch: int
    length: int
    bfloat16: bool
    fused: bool
    """Whether attention is fused, so that it keeps no probabilities."""

    def build(self) -> Any:
        """Build the encoder with random weights; attention has the same type as in a CPU run."""
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
        sizes = dict(ENCODERS[self.encoder])
        config = AutoConfig.for_model(sizes.pop("model_type"), **sizes)
        if self.fused:
            # PyTorch's CPU kernel is fused only without this dropout, so no masks are kept.
            config.attention_probs_dropout_prob = 0.0
        return AutoModel.from_config(config, add_pooling_layer=False).train()

    def forward(self, encoder: Any, device: str = "cpu") -> torch.Tensor:
        """The states ``(B, d)`` that a contrastive method reads."""
        ids = torch.full((self.batch, self.length), 5, device=device)
        at = torch.arange(self.batch, device=device) % self.length
        with torch.autocast(device, torch.bfloat16, enabled=self.bfloat16):
            return states_at(encoder, at, input_ids=ids, attention_mask=torch.ones_like(ids))


def largest_batch(method: str, preset: str) -> Case | None:
    """The batch of a method with a preset that needs the most memory: all rows have full length.

    For methods on utterance vectors it is a batch of the encoder's fine-tuning. None if the
    settings do not determine it (a batch of whole dialogues), or if the encoder's sizes are not
    known here.
    """
    config: Any = resolve(method, "meld", preset=preset).config
    encoder = config.encoder.rpartition("/")[2].removeprefix("sup-simcse-")
    rows = getattr(config, "features", config)
    if encoder not in ENCODERS or method in BY_DIALOGUE:
        return None
    return Case(encoder, rows.batch_size, rows.max_len, True, "mpnet" not in encoder)


def counted(case: Case) -> tuple[int, int]:
    """Bytes of weights and moments, and bytes that the forward pass keeps for the backward."""
    with FakeTensorMode():
        encoder = case.build()
        kept = left_for_backward(encoder, lambda: case.forward(encoder))
        parameters = sum(p.numel() for p in encoder.parameters())
    return 12 * parameters, kept


def left_for_backward(model: Any, forward: Callable[[], Any]) -> int:
    """Bytes of the tensors that a forward pass saves, without the model's weights."""
    sizes = {p.untyped_storage()._cdata: 0 for p in model.parameters()}
    kept = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if sizes.setdefault(storage._cdata, storage.nbytes()):
            kept.append(tensor)  # otherwise another storage could get the same number
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(sizes.values())


class _Adapted(torch.nn.Module):
    """A linear layer with an adapter like peft's, which can't be built from fake tensors."""

    def __init__(self, linear: torch.nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear, self.dropout = linear, torch.nn.Dropout(0.05)
        self.down = torch.nn.Linear(linear.in_features, rank, bias=False)
        self.up = torch.nn.Linear(rank, linear.out_features, bias=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        adapted = 2.0 * self.up(self.down(self.dropout(states.float())))
        return (self.linear(states) + adapted).to(states.dtype)


@dataclass(frozen=True)
class AdapterCase:
    """A micro-batch of lora-lm whose prompts have the same length, in bfloat16 on a GPU."""

    model: str
    batch: int
    length: int
    rank: int

    def counted(self) -> tuple[int, int]:
        """Bytes of weights, and of adapters with gradients and moments; and bytes that are kept."""
        sizes = LANGUAGE_MODELS[self.model]
        layers, width = sizes["num_hidden_layers"], sizes["hidden_size"]
        with FakeTensorMode():
            frozen, trained = self._parameters(self._build(layers))
            inside = self._kept(self._build(1))  # one layer, and what follows the last
        inputs = 2 * layers * self.batch * (self.length + ANSWER_TOKENS) * width
        return 2 * frozen + 16 * trained, inputs + inside

    def _build(self, layers: int) -> Any:
        sizes = {**LANGUAGE_MODELS[self.model], "num_hidden_layers": layers}
        config = AutoConfig.for_model("qwen2", **sizes)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.requires_grad_(False)
        for layer in model.model.layers:
            for part in (layer.self_attn, layer.mlp):
                for name, linear in list(part.named_children()):
                    if isinstance(linear, torch.nn.Linear):
                        setattr(part, name, _Adapted(linear, self.rank))
        return model.train()

    @staticmethod
    def _parameters(model: Any) -> tuple[int, int]:
        every = [(p.numel(), p.requires_grad) for p in model.parameters()]
        return sum(n for n, learnt in every if not learnt), sum(n for n, learnt in every if learnt)

    def _kept(self, model: Any) -> int:
        ids = torch.full((self.batch, self.length + ANSWER_TOKENS), 5)
        wanted = ids[:, :ANSWER_TOKENS].flatten()

        def forward() -> torch.Tensor:
            keep = ANSWER_TOKENS + 1
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits
            after = logits[:, :-1].float().flatten(0, 1)
            return torch.nn.functional.cross_entropy(after, wanted, reduction="sum")

        return left_for_backward(model, forward)


def measured(case: Case) -> int:
    """Bytes at the peak of a step of AdamW, without those that the process held before."""
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    before = 0 if device == "cuda" else _status("VmRSS")
    encoder = case.build().to(device)
    optimizer = torch.optim.AdamW(encoder.parameters(), fused=True)
    for _ in range(2):
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")
        case.forward(encoder, device).float().square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


@contextmanager
def giving_back() -> Iterator[None]:
    """Let processes that are started inside return freed memory to the system at once (glibc)."""
    before = dict(os.environ)
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": "65536", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "0"}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def main() -> None:
    """Print both tables."""
    fused = torch.cuda.is_available()
    small = [
        Case("all-MiniLM-L6-v2", 32, 128, False, fused),
        Case("all-MiniLM-L6-v2", 32, 128, True, fused),
        *([] if fused else [Case("all-MiniLM-L6-v2", 32, 256, True, False)]),
        Case("all-MiniLM-L6-v2", 32, 256, True, True),
        Case("all-MiniLM-L6-v2", 64, 256, True, True),
        Case("all-mpnet-base-v2", 8, 128, False, False),
        Case("all-mpnet-base-v2", 8, 128, True, False),
    ]
    large = [
        Case("all-mpnet-base-v2", 64, 256, True, False),
        Case("roberta-large", 64, 256, True, True),
        Case("roberta-large", 32, 256, True, True),
        Case("roberta-large", 64, 256, False, True),
    ]
    table = Table(title="Memory of a training step in GiB")
    columns = ("batch", "precision", "attention", "weights, AdamW", "kept", "both", "measured")
    for column in ("encoder", *columns):
        table.add_column(column, justify="left" if column == "encoder" else "right", no_wrap=True)
    with giving_back(), multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for case in (*small, *large):
            say(f"{case.encoder}, {case.batch} × {case.length} …")
            fixed, kept = counted(case)
            run = case in small or (fused and case.fused)
            try:
                peak = f"{pool.apply(measured, [case]) / GIB:.2f}" if run else ""
            except torch.OutOfMemoryError:
                peak = "does not fit"
            table.add_row(
                case.encoder,
                f"{case.batch} × {case.length}",
                "bfloat16" if case.bfloat16 else "float32",
                "fused" if case.fused else "plain",
                f"{fixed / GIB:.2f}",
                f"{kept / GIB:.2f}",
                f"{(fixed + kept) / GIB:.2f}",
                peak,
            )
    Console(width=110).print(table)
    Console(width=110).print(adapter_table())


def adapter_cases() -> dict[str, AdapterCase]:
    """The micro-batch of lora-lm by preset, for presets whose model has known sizes."""
    found = {}
    for preset in method_entry("lora-lm").gpu_memory_gib:
        config: Any = resolve("lora-lm", "meld", preset=preset).config
        model = config.encoder.rpartition("/")[2].removesuffix("-Instruct")
        if model in LANGUAGE_MODELS:
            found[preset] = AdapterCase(model, config.micro_batch, config.max_len, config.rank)
    return found


def adapter_table() -> Table:
    """The table of the presets of lora-lm."""
    table = Table(title="Memory of a micro-batch of lora-lm in GiB")
    columns = ("micro-batch", "weights, adapters", "kept", "both")
    for column in ("model", *columns):
        table.add_column(column, justify="left" if column == "model" else "right", no_wrap=True)
    for case in adapter_cases().values():
        fixed, kept = case.counted()
        table.add_row(
            case.model,
            f"{case.batch} × {case.length}",
            f"{fixed / GIB:.2f}",
            f"{kept / GIB:.2f}",
            f"{(fixed + kept) / GIB:.2f}",
        )
    return table


if __name__ == "__main__":
    main()
