"""``erc-bench encode``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from erc_bench.cli.common import LEADERBOARD, DataDir, LeaderboardDir, results


def encode(
    what: str,
    file: str,
    /,
    *overrides: str,
    output: Annotated[Path, Parameter(name=("--output", "-o"))],
    fine_tuned_on: str = "",
    force: bool = False,
    data_dir: DataDir = None,
    leaderboard_dir: LeaderboardDir = LEADERBOARD,
) -> None:
    """Write a vector for every utterance of a corpus or of new dialogues.

    Args:
        what: An encoder (hub id or folder), or a run: the vector is the state that its method
            classifies.
        file: A corpus, or dialogues in any form that `predict` reads (- is standard input).
        overrides: max_len=…, or settings of the fine-tuning such as epochs=…
        output: The file to write: .safetensors, .npz, or .pkl in COSMIC's layout.
        fine_tuned_on: Fine-tune the encoder on the single utterances of this corpus first.
        force: Replace an existing file.
    """
    if overrides[-1:] == ("-",):  # standard input is the last argument
        file, overrides = "-", (file, *overrides[:-1])
    from erc_bench.vectors.files import check_output

    check_output(output, force)
    from erc_bench.inference.encoding import encode as encode_turns
    from erc_bench.inference.encoding import read_turns_of

    corpus = read_turns_of(file, leaderboard_dir, data_dir)
    encoded = encode_turns(
        *(what, corpus, leaderboard_dir),
        fine_tuned_on=fine_tuned_on,
        settings=overrides,
        data_dir=data_dir,
    )
    encoded.save(output, force=force)
    count, size = encoded.vectors.shape
    results().print(f"{count:,} vectors of {size} numbers: {output}", soft_wrap=True)
