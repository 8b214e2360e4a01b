"""Write the leaderboard, the tables of README.md and the documentation, and README's picture.

    python -m docs.tables            # or: make results
    python -m docs.tables --check    # write nothing; exit with 1 if something is out of date

The leaderboard is made from its records, and the tables from the leaderboard and the records. The
table of the methods is made from their YAML files. The place of a table in its page is between
``<!-- table: NAME -->`` and ``<!-- end of table -->``; the text between them is overwritten. The
names are those of :data:`TABLES`.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from docs.picture import picture
from erc_bench.errors import ErcBenchError
from erc_bench.evaluation.statistics import spread
from erc_bench.leaderboard import build, compare_methods
from erc_bench.leaderboard import check as check_board
from erc_bench.leaderboard.ablations import ablation_of
from erc_bench.leaderboard.rows import WITHOUT_FINE_TUNING
from erc_bench.leaderboard.runs import given_settings
from erc_bench.leaderboard.tables import ablation_table, markdown_table
from erc_bench.leaderboard.wording import ablation_title, difference, p_value, selection
from erc_bench.settings.methods import method_entries

ROOT = Path(__file__).resolve().parent.parent
BOARD = ROOT / "leaderboard"
PAGES = (
    ROOT / "README.md",
    *(ROOT / "docs" / name for name in ("results.md", "speed.md", "notes/results.md")),
)
PICTURE = ROOT / "docs" / "leaderboard.svg"
SHOWN = "meld"
"""The corpus of the picture and the table in README.md."""
CONTROL = "finetune"
USUAL_PRESET = "small"
"""The preset of the rows whose names do not mention a preset; the pages say so."""

FIGURES = ("context", "seeds", "test", "dev", "selected by", "minus `finetune`, test", "p, Holm")
"""The columns of :func:`figures` and :func:`minus_control`."""

SEARCH = 13
"""Runs of a search: eight trials and five fresh seeds."""
PER_SEED = "features.per_seed=true"
NOT_RUN: tuple[tuple[str, str, str, tuple[str, ...], int], ...] = (
    ("meld", "search", "emoberta", (), SEARCH),
    ("meld", "search", "dag-erc", (PER_SEED,), SEARCH),
    ("meld", "search", "dialogue-rnn", (PER_SEED,), SEARCH),
    ("meld", "three variants, 5 seeds each", "eacl", (), 15),
    ("meld", "three variants, 5 seeds each", "spcl", (), 15),
    ("meld", "variant `no-names`, 3 seeds", "emoberta", (), 3),
    ("meld", "seeds 4 and 5", "emoberta", (), 2),
    ("meld", "seed 5", "spcl", (), 1),
    ("emorynlp", "seeds 3 to 5", "eacl", (), 3),
    ("emorynlp", "seeds 3 to 5", "spcl", (), 3),
)
"""Runs that are missing and whose time is known from others: corpus, what they are, method, its
settings, number of runs. The others are in docs/results.md."""

PLACE = re.compile(r"(<!-- table: (.+?) -->\n).*?(<!-- end of table -->)", re.DOTALL)


@cache
def corpora() -> dict[str, Any]:
    """Return the corpora of ``leaderboard.json`` that have runs, by name."""
    board = json.loads((BOARD / "leaderboard.json").read_text(encoding="utf-8"))
    return {corpus["name"]: corpus for corpus in board["corpora"] if corpus["tracks"]}


def rows_of(corpus: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the rows of a corpus, each with its track.

    Rows of one budget and preset are together, the highest score first. Predictions made elsewhere
    are left out, since they are not our results.
    """
    rows = [(row, track) for track in corpora()[corpus]["tracks"] for row in track["rows"]]
    ours = [(row, track) for row, track in rows if not row["external"]]

    def place(of: tuple[dict[str, Any], dict[str, Any]]) -> tuple[Any, ...]:
        row, preset = of[0], str(of[0]["preset"])
        return trials(row), preset != USUAL_PRESET, preset, -row["mean"]

    return sorted(ours, key=place)


def trials(row: dict[str, Any]) -> int:
    """The number of trials that a row's settings were chosen from; 0 without a search."""
    return row["tuned"]["trials"] if row["tuned"] else 0


def of_presets(corpus: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The rows of :func:`rows_of` that are whole methods with the settings of their presets."""
    return [(row, track) for row, track in rows_of(corpus) if not (row["tuned"] or row["variant"])]


def results() -> str:
    """The table of our figures with the presets' settings, by corpus.

    It has the difference of each row from the control with the same encoder. Tuned rows are in
    :func:`tuned`, variants in :func:`ablations`.
    """
    head = ("corpus", "", *FIGURES)
    body = [
        [corpora()[corpus]["title"], row_name(row), *figures(row), *minus_control(row, track)]
        for corpus in corpora()
        for row, track in of_presets(corpus)
    ]
    return markdown_table(head, body, "lllrrrlrr")


def costs() -> str:
    """The table of the time and memory of a run, by corpus, method and preset."""
    head = ("corpus", "", "seeds", "minutes a run", "peak GiB", "on", "GPU GiB, estimated")
    estimated = {m.name: m.gpu_memory_gib for m in method_entries()}
    body = []
    for corpus in corpora():
        for row, _ in of_presets(corpus):
            memory, seconds = row["cost"]["peak_memory_mib"], row["cost"]["fit_seconds"]
            without_tuning = WITHOUT_FINE_TUNING in row["notes"]
            minutes = "" if seconds is None else f"{seconds / 60:.0f}"
            gib = estimated.get(row["method"], {}).get(row["preset"])
            cells = [
                corpora()[corpus]["title"],
                row_name(row),
                str(len(row["seeds"])),
                f"{minutes}, without the encoder's fine-tuning" if without_tuning else minutes,
                "" if memory is None else f"{memory / 1024:.1f}",
                ", ".join(sorted(machines(row))),
                "" if gib is None else f"{gib:g}",
            ]
            body.append(cells)
    return markdown_table(head, body, "llrrrlr")


def not_run() -> str:
    """The table of :data:`NOT_RUN` with the hours of one core that these runs would take.

    That is their number × the mean time of a run with the preset's settings. Empty if there is no
    such row.
    """
    head = ("corpus", "method", "not run", "runs", "minutes a run", "hours")
    body = []
    for corpus, what, method, settings, runs in NOT_RUN:
        wanted = (method, USUAL_PRESET, list(settings))
        for row, _ in of_presets(corpus) if corpus in corpora() else ():
            seconds = row["cost"]["fit_seconds"]
            if (row["method"], row["preset"], given(row)) == wanted and seconds:
                times = [f"{seconds / 60:.0f}", f"{runs * seconds / 3600:.1f}"]
                body.append([corpora()[corpus]["title"], row_name(row), what, str(runs), *times])
    return markdown_table(head, body, "lllrrr") if body else ""


def machines(row: dict[str, Any]) -> set[str]:
    """The machines in the records of a row, such as ``AMD EPYC, 1 thread``."""
    found = set()
    for name in row["records"]:
        made = json.loads((BOARD / name).read_bytes()).get("environment") or {}
        device, threads = str(made.get("device", "?")), made.get("threads")
        on_cpu = device.startswith("CPU ")
        several = "" if threads == 1 else "s"
        found.add(f"{device[4:]}, {threads} thread{several}" if on_cpu else device)
    return found


def figure() -> str:
    """The picture of README.md as SVG."""
    rows = [(row_name(row).replace("`", ""), row) for row, _ in of_presets(SHOWN)]
    title = f"Weighted-F1 on {corpora()[SHOWN]['title']}, test, in percent"
    return picture(title, rows)


def tuned() -> str:
    """The tables of the tuned rows, one for each corpus that has some; empty if no corpus has any.

    They have the difference of each row from the method with the settings of its preset, and from
    the control that was tuned in the same number of trials.
    """
    head = ("", "trials", *FIGURES[:-2], "minus its preset, test", *FIGURES[-2:])
    found = []
    for corpus, board in corpora().items():
        body = [
            [
                *(row_name(row), str(trials(row)), *figures(row)),
                *(minus_preset(row, track, corpus), *minus_control(row, track)),
            ]
            for row, track in rows_of(corpus)
            if row["tuned"]
        ]
        if body:
            found += [f"**{board['title']}, tuned**", markdown_table(head, body, "lrlrrrlrrr")]
    return "\n\n".join(found)


def ablations() -> str:
    """The tables of methods without each of their parts, one for each method and corpus.

    Empty if there are no variants.
    """
    found = []
    for board in corpora().values():
        for each in map(ablation_of, board["ablations"]):
            found += [f"**{board['title']}. {ablation_title(each)}**", ablation_table(each)]
    return "\n\n".join(found)


def published(corpus: str) -> str:
    """The table of our figures on a corpus beside the published ones."""
    body = []
    for row, _ in of_presets(corpus):
        paper, cell = row["published"], ""
        if paper:
            encoder = (paper["encoder"] or "encoder not known").split("/")[-1]
            on_test = ", selected on test" if paper["selection"] == "test" else ""
            cell = f"{paper['score']:.2f}, {encoder}{on_test}"
        body.append([row_name(row), str(len(row["seeds"])), mean(row), cell])
    return markdown_table(("", "seeds", "here", "published"), body, "lrrl")


def commands() -> list[str]:
    """Return a command for each row that repeats it."""
    found = []
    for corpus in corpora():
        for row, _ in rows_of(corpus):
            search, seeds = row["tuned"], row["seeds"]
            command = f"erc-bench {'tune' if search else 'run'} --method {row['method']}"
            command += f" --dataset {corpus}"
            command += f" --preset {row['preset']}" if row["preset"] else ""
            command += f" --variant {row['variant']}" if row["variant"] else ""
            command += f" --trials {search['trials']}" if search else ""
            if search and search["sampler_seed"]:
                command += f" --sampler-seed {search['sampler_seed']}"
            first = seeds == list(range(1, len(seeds) + 1))
            # `tune` has no --seed: it trains all seeds up to the last one.
            every = f" --seeds {max(seeds) if search else len(seeds)}"
            command += every if search or first else f" --seed {_words(seeds)}"
            found.append(_words([command, *map(shlex.quote, given(row))]))
    return found


def commits() -> list[str]:
    """Return the commits in the records of each row, in the order of :func:`commands`."""
    found = []
    for corpus in corpora():
        for row, _ in rows_of(corpus):
            records = (json.loads((BOARD / name).read_bytes()) for name in row["records"])
            named = {(record["environment"]["git_commit"] or "?")[:7] for record in records}
            found.append(", ".join(sorted(named)))
    return found


def reproduced() -> str:
    """The commands as a block of code, each with the commits of its records."""
    width = max(map(len, commands()))
    lines = [f"    {c:{width}}  # {at}" for c, at in zip(commands(), commits(), strict=True)]
    return "\n".join(["", *lines, ""])


def methods() -> str:
    """The table of the methods that have a card."""
    body = []
    for m in method_entries():
        card = f"methods/{m.name.replace('-', '_')}.md"
        if (ROOT / card).is_file():
            name = f"[`{m.name}`]({card})"
            facts = [m.family, m.context, m.trains, m.memory, m.needs_gpu]
            body.append([name, m.title, *facts])
    columns = ("name", "method", "family", "context", "trains", "GPU GiB", "needs a GPU")
    return markdown_table(columns, body, "lllllrl")


TABLES: dict[str, Callable[[], str]] = {
    "commands": reproduced,
    "costs": costs,
    "methods": methods,
    "published meld": partial(published, SHOWN),
    "results": results,
    "tuned": tuned,
    "ablations": ablations,
    "not run": not_run,
}


def row_name(row: dict[str, Any]) -> str:
    """The name of a row, such as ``SACL-LSTM, `base` ``.

    For a tuned row it is without the settings that its trials drew.
    """
    parts = [row["title"] + (", the control" if row["method"] == CONTROL else "")]
    parts += [f"`{row['preset']}`"] if row["preset"] != USUAL_PRESET else []
    parts += [f"`{row['variant']}`"] if row["variant"] else []
    parts += [f"`{override}`" for override in given(row)]
    if row["tuned"]:
        seed = row["tuned"]["sampler_seed"]
        parts += [f"tuned in {trials(row)} trials" + (f", sampler's seed {seed}" if seed else "")]
    return ", ".join(parts)


def given(row: dict[str, Any]) -> list[str]:
    """The overrides of a row's command, without those that a trial drew: the search draws them."""
    return given_settings(row["overrides"], row["tuned"])


def mean(row: dict[str, Any]) -> str:
    """A score such as ``60.80 ± 0.18``.

    ± is the half-width of the 95 % interval over seeds; it is left out for a single seed.
    """
    return spread(row["mean"], row["seed_interval"])


def figures(row: dict[str, Any]) -> list[str]:
    """The first cells of a row: context, number of seeds, test, dev, and the selection metric."""
    dev = f"{row['dev_score']:.2f}" if row["dev_score"] is not None else "–"
    return [row["context"], str(len(row["seeds"])), mean(row), dev, selection(row["selection"])]


def minus_control(row: dict[str, Any], track: dict[str, Any]) -> tuple[str, str]:
    """The difference from the control of the track with its 95 % interval, and p after Holm.

    The control has the same preset and no other settings of its own. Both are empty if the track
    has no control, or if the row is the control.
    """
    rows = track["rows"]
    wanted: tuple[Any, ...] = (CONTROL, row["preset"], "", [])
    own, control = rows.index(row), None
    for number, each in enumerate(rows):
        if (each["method"], each["preset"], each["variant"], given(each)) == wanted:
            control = number if control is None else control
    if control is None or control == own:
        return "", ""
    pair = next((p for p in track["pairs"] if {p["first"], p["second"]} == {own, control}), None)
    if pair is None:
        return "", ""
    sign = 1 if pair["first"] == own else -1
    ends = pair["interval"] and sorted(sign * end for end in pair["interval"])
    return difference(sign * pair["difference"], ends), p_value(pair["p_holm"])


def minus_preset(row: dict[str, Any], track: dict[str, Any], corpus: str) -> str:
    """The difference of a tuned row from the same method with the settings of its preset.

    It has its 95 % interval; both rows have the same encoder. If the settings of the preset won
    the search, a sentence says so. Empty if the preset has not been run.
    """
    if row["tuned"]["chosen"] == 0:
        return "the preset won"
    for other, of_track in of_presets(corpus):
        same = all(other[name] == row[name] for name in ("method", "preset"))
        if same and given(other) == given(row) and of_track["digest"] == track["digest"]:
            own, preset = row["tuned"]["digest"][:12], other["config_hash"]
            method = row["method"]
            result = compare_methods(BOARD, f"{method}:{own}", f"{method}:{preset}", corpus).result
            return difference(result.difference, result.interval)
    return ""


def _words(parts: Iterable[Any]) -> str:
    return " ".join(map(str, parts))


def with_tables(page: str) -> str:
    """Return a page with its tables replaced by current ones.

    Raises:
        KeyError: the page has a table that is not in :data:`TABLES`.
    """
    return PLACE.sub(lambda place: f"{place[1]}{TABLES[place[2]]()}\n{place[3]}", page)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the leaderboard and the tables, or with ``--check`` say which of them are out of date.

    Raises:
        KeyError: a page has a table that is not in :data:`TABLES`.
    """
    parser = argparse.ArgumentParser(prog="python -m docs.tables", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if stale")
    check = parser.parse_args(arguments).check
    try:
        board = (check_board if check else build)(BOARD)
    except ErcBenchError as error:
        sys.exit(str(error))
    for skipped in board.skipped:
        print(f"left out: {skipped.reason}", file=sys.stderr)
    stale = len(board.paths) if check else 0
    for path in board.paths if check else ():
        print(f"stale: {path}")
    corpora.cache_clear()
    for page in (*PAGES, PICTURE):
        text = page.read_text(encoding="utf-8") if page.exists() else ""
        if (new := figure() if page == PICTURE else with_tables(text)) != text:
            stale += 1
            print(f"{'stale' if check else 'written'}: {page.relative_to(ROOT)}")
            if not check:
                page.write_text(new, encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
