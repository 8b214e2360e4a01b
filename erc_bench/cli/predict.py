"""``erc-bench predict``."""

from __future__ import annotations

from erc_bench.cli.common import LEADERBOARD, LeaderboardDir, results
from erc_bench.progress import say


def predict(
    run: str,
    file: str = "-",
    /,
    *,
    json: bool = False,
    stream: bool = False,
    leaderboard_dir: LeaderboardDir = LEADERBOARD,
) -> None:
    """Predict the emotions of new dialogues.

    Args:
        run: A record, enough of its name method/dataset/hash/seedK, or hf://user/repo.
        file: Lines `Speaker: text`, JSON, a table (CSV, TSV, Parquet), or a corpus of your own
            (default: - for standard input).
        json: Print a line of JSON for every turn.
        stream: Answer each line of standard input at once.
    """
    from erc_bench.cli.dialogues import print_answers, ranked
    from erc_bench.inference.dialogue_files import check_stream, read_dialogues, read_turns
    from erc_bench.records.place import model_file
    from erc_bench.records.store import find_record, read_record

    path = find_record(leaderboard_dir, run)
    record = read_record(path)
    # Errors are looked for before anything slow is imported or loaded.
    model_file(path, record)
    if stream:
        check_stream(record, file)
    dialogues = [] if stream else read_dialogues(file)
    from erc_bench.inference.model import Model

    model, out = Model(path, record), results()
    if stream:
        say("Ready. Write one turn a line, `Speaker: text`.")
    answers = model.stream(read_turns()) if stream else model.answers(dialogues)
    if json:
        for answer in answers:
            print(answer.to_json(), flush=True)
    elif stream:
        for answer in answers:
            out.print(*ranked(answer), soft_wrap=True)
    else:
        print_answers(out, answers)
