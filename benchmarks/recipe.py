"""The base of the usual recipes.

The usual recipe for training a method is a plain PyTorch script, as in the repositories of the
field. Every example is padded to ``max_len`` tokens and tokenised when the data loader asks for it,
batches are random, contrastive scores are taken from expanded ``(n, m, d)`` tensors, and every
epoch ends with a full pass over dev and one over test. The encoder is the same as in ours, loaded
with ``AutoModel``. The layers above it are copies of ours, so that both start from the same
weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import AutoModel

from erc_bench.corpus.conversation import Dialogue
from erc_bench.encoders.locating import find_encoder
from erc_bench.method.contract import ErcMethod


class Recipe:
    """A training script in pieces: the work on one batch, and the loops around it.

    Args:
        method: our method; the recipe takes its settings and weights.
        bfloat16: whether to compute under autocast.
    """

    Method: type[ErcMethod]
    """Our method that is measured against the recipe."""
    passes = 0
    """Passes over the training split before every epoch."""
    network: Any
    optimizer: torch.optim.Optimizer

    @staticmethod
    def overrides(config: Any) -> list[str]:
        """Settings that turn off what ours does with a preset and the recipe does not."""
        return []

    def __init__(self, method: Any, bfloat16: bool = False) -> None:
        self.config: Any = method.config
        self.labels = method.labels
        self.bfloat16 = bfloat16
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def dataset(self, dialogues: list[Dialogue], training: bool = False) -> Dataset:
        """The items made from dialogues; ``sizes`` is the number of turns read for each item."""
        raise NotImplementedError

    def epoch_size(self, items: int) -> int:
        """The number of training items in an epoch."""
        return items

    collate: Any = None

    def loss(self, batch: Any) -> Tensor:
        """The loss of a batch."""
        raise NotImplementedError

    def predict(self, batch: Any) -> Tensor:
        """The predicted classes of a batch."""
        raise NotImplementedError

    def scheduler(self, batches: int) -> Any:
        """The schedule of the learning rate by steps; None if it changes only between epochs."""
        return None

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    def train(self, loader: Any) -> Iterator[float]:
        """Train for an epoch and yield the loss after every step."""
        scheduler = self.scheduler(len(loader))
        self.network.train()
        for batch in loader:
            with self.autocast():
                loss = self.loss(move_data_to_device(batch, self.device))
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.gradient_clip)
            self.optimizer.step()
            if scheduler:
                scheduler.step()
            yield loss.item()

    def evaluate(self, loader: Any) -> Iterator[None]:
        """Pass over dev or test, one batch at a time."""
        self.network.eval()
        predicted = []
        for batch in loader:
            with torch.no_grad(), self.autocast():
                predicted += self.predict(move_data_to_device(batch, self.device)).tolist()
            yield

    def survey(self, loader: Any) -> Iterator[None]:
        """Pass over the training items before an epoch, one batch at a time."""
        yield from ()


class Prompts(Dataset):
    """One item for each turn that is asked about, tokenised when it is read.

    Each method has a subclass that makes the text.
    """

    def __init__(self, turns: Sequence[tuple], tokenizer: Any, max_len: int) -> None:
        self.turns = turns
        self.sizes = [1] * len(turns)
        self.tokenizer = tokenizer
        self.max_len = max_len

    def __len__(self) -> int:
        return len(self.turns)


def pretrained(name: str) -> Any:
    """Load an encoder as a script would."""
    return AutoModel.from_pretrained(find_encoder(name).folder, dtype=torch.float32)


def adamw(network: Any, config: Any) -> torch.optim.AdamW:
    """AdamW in the usual four groups: the encoder or not, decayed or not."""
    groups = []
    for in_encoder in (True, False):
        for decayed in (True, False):
            parameters = [
                p
                for name, p in network.named_parameters()
                if name.startswith("encoder.") == in_encoder and (p.ndim > 1) == decayed
            ]
            lr = config.encoder_lr if in_encoder else config.lr
            decay = config.weight_decay if decayed else 0.0
            groups.append({"params": parameters, "lr": lr, "weight_decay": decay})
    return torch.optim.AdamW(groups)


def window(tokenizer: Any, texts: Sequence[str], max_len: int) -> list[list[int]]:
    """Token ids, without CLS, of the turns of a window that ends with the queried turn.

    ``texts`` are at most nine turns. The earliest turns are left out until the rest fits.
    """
    turns = [tokenizer(text).input_ids[1:] for text in texts]
    while len(turns) > 2 and sum(len(turn) for turn in turns) + 8 + len(turns[-1]) > max_len:
        turns.pop(0)
    return turns


def padded(ids: list[int], tokenizer: Any, max_len: int) -> tuple[Tensor, Tensor]:
    """The last ``max_len`` tokens, padded to ``max_len``, and their attention mask."""
    ids = ids[-max_len:]
    missing = max_len - len(ids)
    mask = [1] * len(ids) + [0] * missing
    return torch.tensor(ids + [tokenizer.pad_token_id] * missing), torch.tensor(mask)


def similarity(x: Tensor, y: Tensor) -> Tensor:
    """``(1 + cos)/2`` of all pairs ``(n, m)``, from tensors expanded to ``(n, m, d)``."""
    shape = (len(x), len(y), x.shape[1])
    cosines = F.cosine_similarity(x[:, None].expand(shape), y[None].expand(shape), dim=-1)
    return (1 + cosines) / 2 + 1e-8


def contrastive_loss(
    rows: Tensor,
    columns: Tensor,
    row_labels: Tensor,
    column_labels: Tensor,
    temperature: float,
    bound: float,
) -> Tensor:
    """Supervised contrastive loss: the mean of the rows' terms above ``bound``."""
    own = torch.eye(len(rows), len(columns), device=rows.device)
    scores = similarity(rows, columns) * (1 - own) / temperature
    scores = torch.exp(scores - scores.max().detach())
    same = (row_labels[:, None] == column_labels[None]).float()
    positive = same * (1 - own)
    positives = (scores * positive).sum(dim=1)
    negatives = (scores * (1 - same)).sum(dim=1)
    terms = positives / (positives + negatives) / (positive.sum(dim=1) + 1e-8)
    terms = -torch.log(terms + 1e-8)
    return terms[terms > bound].sum() / ((terms > bound).sum() + 1e-8)
