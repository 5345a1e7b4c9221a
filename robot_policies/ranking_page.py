"""A ranking as people read it: rows of text, CSV, Markdown, and one HTML page without a network.

A module of its own, because the page needs matplotlib.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from robot_policies.ranking import Interval, Ranking, Row
from robot_policies.recordings import Check
from robot_policies.report_page import BAD, FAINT, INK, SERIES, STYLE, WIDTH, document, inline_svg
from robot_policies.tables import html_table, text_table

ROW_HEIGHT = 0.28
"""inches of a policy in a plot."""


def table(ranking: Ranking) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of text."""
    headings, rows = short_table(ranking)
    strangest = [", ".join(row.worst_dimensions) for row in ranking.rows]
    return [*headings, "strangest"], [[*c, s] for c, s in zip(rows, strangest, strict=True)]


def short_table(ranking: Ranking) -> tuple[list[str], list[list[str]]]:
    """The same without what looks strange to each policy, for a terminal."""
    headings = [
        "rank", "policy", "score", "simulated return", "its rank", "p of real data", "P(best)",
        f"P(top {ranking.top})", "specification", "flags",
    ]  # fmt: skip
    return headings, [_cells(number, row) for number, row in enumerate(ranking.rows, 1)]


def strangest(ranking: Ranking) -> list[str]:
    """A line for each set of observations that looks strangest to some policies, and to which."""
    found: dict[tuple[str, ...], list[str]] = {}
    for row in ranking.rows:
        found.setdefault(row.worst_dimensions, []).append(row.name)
    return [f"strangest to {', '.join(who)}: {', '.join(what)}" for what, who in found.items()]


def _cells(number: int, row: Row) -> list[str]:
    return [
        str(number), row.name, _text(row.score), _text(row.simulation), str(row.simulation_rank),
        _text(row.p), f"{row.best:.2f}", f"{row.top:.2f}", _gate(row), ", ".join(row.flags),
    ]  # fmt: skip


def _text(interval: Interval) -> str:
    return f"{interval.value:.3g} [{interval.low:.3g}, {interval.high:.3g}]"


def _gate(row: Row) -> str:
    if row.gate is None:
        return ""
    gate = row.gate
    verdict = "passed" if gate.passed else "FAILED"
    return f"{verdict} {gate.satisfied}/{gate.episodes} >= {gate.low:.3f}"


def as_csv(ranking: Ranking) -> str:
    """A column for each number."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    figures = ("score", "simulation", "p")
    bounds = [f"{name}{end}" for name in figures for end in ("", "_low", "_high")]
    writer.writerow([
        "rank", "policy", *bounds, "simulation_rank", "p_best", "p_top", "gate_passed",
        "gate_satisfied", "gate_episodes", "gate_low", "robustness_fifth_percentile", "strangest",
        "flags",
    ])  # fmt: skip
    for number, row in enumerate(ranking.rows, 1):
        intervals = [getattr(row, name) for name in figures]
        values = [value for i in intervals for value in (i.value, i.low, i.high)]
        gate: list[Any] = [""] * 5
        if row.gate is not None:
            gate = [row.gate.passed, row.gate.satisfied, row.gate.episodes, row.gate.low,
                    row.gate.fifth_percentile]  # fmt: skip
        writer.writerow([
            number, row.name, *values, row.simulation_rank, row.best, row.top, *gate,
            "; ".join(row.worst_dimensions), "; ".join(row.flags),
        ])  # fmt: skip
    return stream.getvalue()


def as_markdown(ranking: Ranking, about: Sequence[str]) -> str:
    """A document of the table and what is to be known beside it."""
    return "\n\n".join(["# Ranking", *about, text_table(*table(ranking))]) + "\n"


def page(ranking: Ranking, about: Sequence[str], checks: Sequence[Check]) -> str:
    """One HTML page that needs no other file, and no network."""
    parts = [
        "<h1>Ranking</h1>",
        *(f"<p>{escape(text)}</p>" for text in about),
        html_table(*table(ranking)),
        "<h2>Score, simulated return and p-value of the real data</h2>",
        f"<figure>{_intervals(ranking)}<figcaption>Bars: 95 % intervals by bootstrap over "
        "episodes. A p-value of one half: the real data look like those of the policy's own "
        "simulation.</figcaption></figure>",
        "<h2>What was checked before the data were believed</h2>",
        html_table(
            ["check", "", ""], [[c.name, "ok" if c.passed else "FAIL", c.told] for c in checks]
        ),
    ]
    return document("Ranking", parts)


def _intervals(ranking: Ranking) -> str:
    rows = ranking.rows[::-1]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.0 + ROW_HEIGHT * len(rows)))
        panels = figure.subplots(1, 3, sharey=True)
        for axes, name, label in zip(
            panels, ("score", "simulation", "p"), ("score", "simulated return", "mean p-value"),
            strict=True,
        ):  # fmt: skip
            for height, row in enumerate(rows):
                interval = getattr(row, name)
                failed = row.gate is not None and not row.gate.passed
                colour = BAD if failed else SERIES[0]
                axes.plot([interval.low, interval.high], [height] * 2, color=colour, linewidth=3)
                axes.plot(interval.value, height, "o", color=INK, markersize=4)
            axes.set_xlabel(label)
        panels[0].set_yticks(range(len(rows)), [row.name for row in rows])
        panels[2].axvline(0.5, color=FAINT, linewidth=0.8)
        return inline_svg(figure, "score, simulated return and p-value")
