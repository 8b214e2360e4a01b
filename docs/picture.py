"""The picture of README.md: the scores of a corpus's rows, drawn from ``leaderboard.json``.

A dot is a seed, the vertical stroke is the mean over seeds, and the horizontal line is its 95 %
interval. A ring is the published score of the method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

WIDTH, LEFT, RIGHT, TOP, LINE = 720, 190, 20, 44, 26
"""In pixels: the whole width, the left margin with the names, the right margin, the space above the
rows, and the height of a row."""

STYLE = """\
text { font: 13px system-ui, sans-serif; fill: #24292f } .title { font-weight: 600 }
.small { font-size: 11px; fill: #57606a } .grid { stroke: #d0d7de } .seed { fill: #0969da80 }
.mean { stroke: #0550ae; stroke-width: 3 } .interval { stroke: #0969da; stroke-width: 1.5 }
.published { fill: none; stroke: #bc4c00; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .small { fill: #9198a1 } .grid { stroke: #3d444d }
.seed { fill: #4493f8a0 } .mean { stroke: #79c0ff } .interval { stroke: #4493f8 }
.published { stroke: #f0883e } }"""


def picture(title: str, rows: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """Return the picture as SVG.

    Args:
        title: the title above the rows.
        rows: the name of each row, and the row as it is in ``leaderboard.json``.
    """
    values = [value for _, row in rows for value in row["values"]]
    values += [row["published"]["score"] for _, row in rows if row["published"]]
    low, high = math.floor(min(values)) - 0.5, math.ceil(max(values)) + 0.5

    def x(value: float) -> str:
        share = (min(max(value, low), high) - low) / (high - low)
        return f"{LEFT + share * (WIDTH - LEFT - RIGHT):.1f}"

    bottom = TOP + LINE * len(rows)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 50}" '
        f'role="img" aria-label="{escape(title)}">',
        f"<style>{STYLE}</style>",
        f'<text class="title" x="8" y="20">{escape(title)}</text>',
    ]
    step = next(s for s in (1, 2, 5, 10, 20) if (high - low) / s <= 14)
    for tick in range(math.ceil(low / step) * step, math.floor(high) + 1, step):
        lines.append(f'<path class="grid" d="M{x(tick)} {TOP - 8}V{bottom}"/>')
        lines.append(
            f'<text class="small" x="{x(tick)}" y="{bottom + 16}" text-anchor="middle">{tick}'
            "</text>"
        )
    for number, (name, row) in enumerate(rows):
        y = TOP + LINE * number + 5
        lines.append(f'<text x="8" y="{y + 4}">{escape(name)}</text>')
        if row["seed_interval"]:
            start, end = map(x, row["seed_interval"])
            lines.append(f'<path class="interval" d="M{start} {y}H{end}"/>')
        lines += [f'<circle class="seed" cx="{x(v)}" cy="{y}" r="4"/>' for v in row["values"]]
        lines.append(f'<path class="mean" d="M{x(row["mean"])} {y - 8}v16"/>')
        if row["published"]:
            where = x(row["published"]["score"])
            lines.append(f'<circle class="published" cx="{where}" cy="{y}" r="5"/>')
    lines += [
        f'<text class="small" x="8" y="{bottom + 38}">dot: a seed · stroke: mean · line: 95 % '
        "interval over seeds · ring: published, mostly with a larger encoder</text>",
        "</svg>",
    ]
    return "\n".join(lines) + "\n"
