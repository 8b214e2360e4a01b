"""A causal language model, fine-tuned by low-rank adapters (Hu et al. 2022, arXiv 2106.09685).

The plain recipe: the prompt is an instruction, the past turns with their names, and the question
which label the last turn has; the answer is the label. The loss is the cross-entropy of the tokens
of the answer alone. The label with the most likely answer is predicted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from erc_bench.corpus.conversation import Dialogue
from erc_bench.encoders.optimisation import linear_warmup
from erc_bench.errors import ErcBenchError
from erc_bench.method import Batch, Columns, ErcMethod, Example, LabelSet, MethodConfig, Reader
from erc_bench.method.config import above, at_least, between_0_and_1
from erc_bench.method.parts import PARTS
from erc_bench.method.ragged import Ragged
from erc_bench.training.precision import choose_precision

from .language_models import (
    ChatText,
    Message,
    Prompt,
    Turn,
    checked_digests,
    find_prompt,
    fitting,
    label_likelihoods,
    last_logits,
    load_model,
    model_identity,
    model_tokenizer,
    window,
)

PROJECTIONS = "all-linear"
"""The layers that are adapted, by peft's name: every linear layer of attention and MLP."""


@dataclass
class LoraLMConfig(MethodConfig):
    """Hyper-parameters of low-rank adapters on a causal language model."""

    encoder: str = "Qwen/Qwen2.5-7B-Instruct"  # hub id or folder
    epochs: int = 3
    batch_size: int = 16
    micro_batch: int = 4  # examples that are on the GPU at once; no gradient depends on it
    gradient_clip: float = 1.0
    prompt: str = "plain"  # file, or name of one that comes with the suite
    prompt_digest: str = ""  # its SHA-256; set automatically
    window: int = 12  # past turns at most
    max_len: int = 1024  # tokens of a prompt at most
    rank: int = 16  # of the adapters' matrices
    alpha: float = 32.0  # the adapters' output is scaled by alpha / rank
    dropout: float = 0.05  # before the adapters
    lr: float = 2e-4  # highest learning rate
    warmup: float = 0.03  # share of the steps in which the rate rises, before it falls to 0
    weight_decay: float = 0.0  # of the adapters
    checkpointing: bool = True
    bits: int = 16  # 4 = the model's own weights in 4 bits (needs the extra lm-4bit, a GPU)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "rank", "micro_batch")
        at_least(self, 0, "window", "weight_decay")
        at_least(self, 16, "max_len")
        above(self, 0, "alpha", "lr")
        between_0_and_1(self, "dropout", "warmup")
        if self.bits not in (4, 16):
            raise ErcBenchError(f"The setting bits={self.bits} is neither 4 nor 16.")
        held = [self.prompt_digest] if self.prompt_digest else []
        (self.prompt_digest,) = checked_digests([self.prompt], held, "prompt_digest")


class ChatReader(Reader):
    """A prompt for each labelled turn, as tokens.

    Args:
        prompt: the prompt.
        chat: makes tokens from messages.
        labels: the emotions.
        past: largest number of past turns.
        max_len: largest number of tokens.
    """

    def __init__(
        self, prompt: Prompt, chat: ChatText, labels: LabelSet, past: int, max_len: int
    ) -> None:
        self.prompt, self.chat, self.labels = prompt, chat, labels
        self.past, self.max_len = past, max_len

    def _messages(self, turns: Any) -> list[Message]:
        names = self.labels.names
        return [*self.prompt.system(names), self.prompt.user(turns, names)]

    def examples(self, dialogue: Dialogue, *, training: bool = False) -> list[Example]:
        """``targets`` and ``input_ids`` of each labelled turn."""
        examples: list[Example] = []
        for i in dialogue.labelled:
            turns: list[Turn] = window(dialogue.utterances, i, self.past, masked=False)
            ids = fitting(self._messages, turns, self.chat, self.max_len)
            examples.append({"targets": [i], "input_ids": ids})
        return examples

    def collate(self, columns: Columns) -> Batch:
        """``input_ids`` and ``attention_mask`` ``(B, P)``, padded at the beginning."""
        rows = columns["input_ids"]
        assert isinstance(rows, Ragged)
        longest = int(rows.lengths.max(initial=0))
        padding = longest - torch.from_numpy(rows.lengths)
        ids = torch.from_numpy(rows.pad(0))
        places = torch.arange(longest) - padding[:, None]
        mask = places >= 0
        return {
            "input_ids": torch.where(mask, ids.gather(1, places.clamp(min=0)), 0),
            "attention_mask": mask.long(),
        }


class LoraLM(ErcMethod):
    """A frozen causal language model with low-rank adapters, which answers with a label."""

    Config = LoraLMConfig
    context = "past"
    several_devices = False  # the gradients of its micro-batches are not gathered
    config: LoraLMConfig

    def __init__(self, config: LoraLMConfig, labels: LabelSet) -> None:
        super().__init__(config, labels)
        # One backward pass for each micro-batch of a step.
        self.automatic_optimization = False
        self.strict_loading = False  # checkpoints hold the adapters alone
        chat = ChatText(model_tokenizer(config.encoder))
        prompt = find_prompt(config.prompt)
        self.reader = ChatReader(prompt, chat, labels, config.window, config.max_len)
        self.answers = [chat.answer_ids(answer) for answer in prompt.answers(labels.names)]
        self.model = adapted(config)

    @classmethod
    def encoder_identity(cls, config: MethodConfig) -> dict[str, str]:
        """The name of the model, and the digest of its weights."""
        return model_identity(config.encoder)

    # --- training

    def forward(self, batch: Batch) -> Tensor:
        """The log-likelihood of every label's answer ``(B, C)``, in float32."""
        return label_likelihoods(
            self.model, batch["input_ids"], batch["attention_mask"], self.answers
        )

    def loss(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Mean cross-entropy of the tokens of the right answers, from their likelihoods."""
        right = output.gather(1, batch["labels"][:, None]).sum()
        return {"loss": -right / self._answer_tokens(batch["labels"])}

    def _answer_tokens(self, labels: Tensor) -> int:
        return sum(len(self.answers[label]) for label in labels.tolist())

    def answer_loss(self, batch: Batch) -> Tensor:
        """Summed cross-entropy of the right answers' tokens."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        answers = [self.answers[label] for label in batch["labels"].tolist()]
        longest = max(map(len, answers))
        padded = [[*answer, *[-100] * (longest - len(answer))] for answer in answers]
        wanted = torch.tensor(padded, device=ids.device)
        there = wanted >= 0
        given = torch.cat([ids, wanted.clamp(min=0)], dim=1)
        whole = torch.cat([mask, there.long()], dim=1)
        output = last_logits(self.model, given, whole, longest + 1, use_cache=False)
        logits = output.logits[:, :-1].float()
        return F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute a batch's gradients by micro-batches; after ``accumulate`` batches, make a step.

        The gradients are those of the mean loss over all tokens of the batch's answers.
        """
        optimizer: Any = self.optimizers()
        accumulate = self.config.accumulate
        parts = batch[PARTS].batches if PARTS in batch else [batch]
        tokens, total = self._answer_tokens(batch["labels"]), torch.zeros((), device=self.device)
        for part in parts:
            loss = self.answer_loss(part) / tokens
            self.manual_backward(loss / accumulate)
            total = total + loss.detach()
        if (batch_idx + 1) % accumulate == 0 or self.trainer.is_last_batch:
            optimizer.step()
            optimizer.zero_grad()
            schedule: Any = self.lr_schedulers()
            schedule.step()
        examples = len(batch["labels"])
        self.log("train/loss", total, on_step=False, on_epoch=True, batch_size=examples)
        return total

    def configure_optimizers(self) -> Any:
        """AdamW on the adapters; the rate rises linearly, then falls linearly to 0."""
        config = self.config
        adapters = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(adapters, lr=config.lr, weight_decay=config.weight_decay)
        return [optimizer], [linear_warmup(self, optimizer, config.warmup)]

    # --- checkpoints

    def saved_state(self) -> dict[str, Tensor]:
        """The adapters alone."""
        return {name: p for name, p in self.state_dict().items() if name in self._adapters()}

    def _adapters(self) -> set[str]:
        return {name for name, p in self.named_parameters() if p.requires_grad}

    def load_saved_state(self, state: Mapping[str, Tensor]) -> None:
        """Load the adapters; all of them must be there."""
        _, unexpected = self.load_state_dict(state, strict=False)
        missing = self._adapters() - state.keys()
        if missing or unexpected:
            raise RuntimeError(
                f"Error(s) in loading state_dict for {type(self).__name__}:\n"
                f"missing {sorted(missing)}, unexpected {sorted(unexpected)}"
            )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.load_saved_state(checkpoint["state_dict"])


def adapted(config: LoraLMConfig) -> Any:
    """Return the language model with adapters; only the adapters are trained.

    The model's own weights are in bfloat16 or float16 on a GPU that trains in it, else in float32.
    The adapters are always in float32.

    Raises:
        ErcBenchError: the extra is not installed, or 4 bits are not possible here.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ErcBenchError(
            "The method lora-lm needs the package peft. Install the extra: pip install "
            "'erc-bench[lm]'."
        ) from error
    on_gpu = torch.cuda.is_available()
    chosen = choose_precision(config.precision).chosen if on_gpu else "float32"
    dtype = getattr(torch, chosen)
    options: dict[str, Any] = {"dtype": dtype}
    if config.bits == 4:
        options |= _in_4_bits(dtype)
    model: Any = load_model(config.encoder, config.max_len, **options)
    model.requires_grad_(False)
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        target_modules=PROJECTIONS,
        task_type="CAUSAL_LM",
    )
    model = inject_adapter_in_model(lora, model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def _in_4_bits(dtype: torch.dtype) -> dict[str, Any]:
    """Options to load a model in 4 bits (NF4, as in QLoRA)."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ErcBenchError(
            "The setting bits=4 needs the package bitsandbytes. Install the extra: pip install "
            "'erc-bench[lm-4bit]'."
        ) from error
    if not torch.cuda.is_available():
        raise ErcBenchError("The setting bits=4 needs a GPU. Take bits=16 without one.")
    from transformers import BitsAndBytesConfig

    quantised = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )
    return {"quantization_config": quantised, "device_map": {"": torch.cuda.current_device()}}
