"""The HTML page of a flight report: summary, plots as inline SVG, no script and no network.

Plots are drawn in placeholder colours that become CSS variables, so that they follow the reader's
light or dark mode. A module of its own, because it needs matplotlib.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from html import escape
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from robot_policies import report as flight
from robot_policies.logs import Log
from robot_policies.report import FlightReport, StateChange
from robot_policies.rotation import tilt, to_matrix

# Placeholder -> CSS variable.
INK, FAINT, BAND = "#010203", "#040506", "#070809"
SERIES = ("#0a0101", "#0a0202", "#0a0303", "#0a0404")
GOOD, WARN, BAD = "#0b0101", "#0b0202", "#0b0303"
COLOURS = {
    INK: "ink", FAINT: "faint", BAND: "band", GOOD: "good", WARN: "warn", BAD: "bad",
    **{colour: f"series{index}" for index, colour in enumerate(SERIES)},
}  # fmt: skip
STATE_COLOURS = {
    "OK": GOOD, "PASSING": GOOD, "WARN": WARN, "HOLD": WARN, "FALLBACK": BAD, "TRIPPED": BAD,
    "ERROR": BAD, "STALE": BAD,
}  # fmt: skip
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "flight",
    "font.size": 8.5,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.4,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.1,
    "figure.constrained_layout.use": True,
}
WIDTH = 9.0
BINS = 1200
MAX_CHANGES = 40


def page(report: FlightReport, log: Log) -> str:
    """The whole document."""
    plots = [_drawn(title, caption, draw, report, log) for title, caption, draw in PLOTS]
    outcome = "kept its limits" if report.ok else "broke its limits"
    heading = f"<h1>Flight report <span class={_css(report.ok)}>{outcome}</span></h1>"
    parts = [
        heading,
        f"<p>{report.duration_s:.1f} s of odometry at {report.odometry.rate_hz:.1f} Hz, "
        f"{len(report.phases)} phases, {len(log)} topics.</p>",
        "<h2>Summary</h2>",
        _summary(report),
        "<h2>Position error by phase</h2>",
        _table(flight.PHASE_COLUMNS, [flight.phase_row(phase) for phase in report.phases]),
        *plots,
        "<h2>Motors in flight</h2>",
        _motor_table(report),
        "<h2>State changes</h2>",
        _changes(report.states),
    ]
    return document("Flight report", parts)


def document(title: str, parts: Sequence[str]) -> str:
    """One HTML page that needs no other file."""
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


# Tables


def _css(passed: bool | None) -> str:
    return {True: "pass", False: "fail", None: "none"}[passed]


def _summary(report: FlightReport) -> str:
    rows = [
        f"<tr><th scope=row>{escape(line.name)}</th><td>{escape(line.value)}</td>"
        f"<td>{escape(line.limit)}</td>"
        f"<td><span class={_css(line.passed)}>{flight.verdict_text(line.passed)}</span></td></tr>"
        for line in report.figures
    ]
    head = "<tr><th>figure</th><th>value</th><th>limit</th><th>verdict</th></tr>"
    return f"<div class=scroll><table>{head}{''.join(rows)}</table></div>"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "numbers") -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    lines = [
        f"<tr><th scope=row>{escape(row[0])}</th>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    ]
    table = f"<table class={kind}><tr>{head}</tr>{''.join(lines)}</table>"
    return f"<div class=scroll>{table}</div>" if rows else "<p>None in the log.</p>"


def _motor_table(report: FlightReport) -> str:
    rows = [
        (m.name, f"{m.mean:.3f}", f"{100 * m.low:.2f} %", f"{100 * m.high:.2f} %")
        for m in report.motors
    ]
    return _table(("motor", "mean command", "at lower limit", "at upper limit"), rows)


def _changes(changes: Sequence[StateChange]) -> str:
    rows = [(f"{c.time_s:.2f}", c.node, c.state, c.reason) for c in changes[:MAX_CHANGES]]
    table = _table(("time s", "node", "state", "reason"), rows, kind="texts")
    more = len(changes) - len(rows)
    return table + (f"<p>{more} more are in the log.</p>" if more else "")


# Plots


def _drawn(
    title: str,
    caption: str,
    draw: Callable[[Figure, FlightReport, Log], bool],
    report: FlightReport,
    log: Log,
) -> str:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 2.6))
        svg = inline_svg(figure, title) if draw(figure, report, log) else "<p>Not in the log.</p>"
    return (
        f"<h2>{escape(title)}</h2>\n<figure>{svg}<figcaption>{escape(caption)}</figcaption>"
        "</figure>"
    )


def inline_svg(figure: Figure, title: str) -> str:
    """A drawing as part of a page, in the page's colours."""
    stream = io.StringIO()
    figure.savefig(
        stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
    )
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font: \1 var(--font)", text)
    # One page, many drawings: what they name must not be named twice.
    prefix = re.sub(r"\W", "", title)
    text = re.sub(r'(id="|url\(#|href="#)', rf"\1{prefix}-", text)
    for colour, name in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)


def _thin(time: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most 2 samples for each of BINS parts of a signal [T]: its extremes, in order."""
    if len(time) <= 2 * BINS:
        return time, values
    edges = np.linspace(0, len(time), BINS + 1).astype(int)
    filled = np.nan_to_num(values)
    keep = [
        start + offset
        for start, end in pairwise(edges)
        for offset in (np.argmin(filled[start:end]), np.argmax(filled[start:end]))
    ]
    index = np.unique(keep)
    return time[index], values[index]


def _line(axes: Any, time: np.ndarray, values: np.ndarray, **style: Any) -> None:
    axes.plot(*_thin(time, values), **style)


def _aligned_axes(figure: Figure, height: float) -> Any:
    """Axes that begin and end where those of the other plots do, with room for a legend."""
    figure.set_layout_engine("none")
    low, high = 0.42 / height, 1 - 0.22 / height
    return figure.add_axes((0.09, low, 0.72, high - low))


def _time_axes(figure: Figure, report: FlightReport, label: str, height: float = 2.6) -> Any:
    """Axes over time with the phases shaded in turn and named."""
    figure.set_size_inches(WIDTH, height)
    axes = _aligned_axes(figure, height)
    axes.set(xlabel="time (s)", ylabel=label)
    for index, phase in enumerate(report.phases):
        if index % 2 == 0:
            axes.axvspan(phase.start_s, phase.end_s, color=BAND, linewidth=0, zorder=0)
        middle = (phase.start_s + phase.end_s) / 2
        axes.text(
            middle, 1.01, phase.name, transform=axes.get_xaxis_transform(), ha="center", fontsize=7
        )
    if report.phases:
        axes.set_xlim(report.phases[0].start_s, report.phases[-1].end_s)
    return axes


def _legend(axes: Any) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _path(figure: Figure, report: FlightReport, log: Log) -> bool:
    figure.set_size_inches(WIDTH, 3.6)
    flown = _every(log["/odometry"]["position"])
    wanted = _every(log["/setpoint"]["position"])
    top, side = figure.subplots(1, 2)
    for axes, (i, j), view in ((top, (0, 1), "from above"), (side, (0, 2), "from the side")):
        axes.plot(wanted[:, i], wanted[:, j], "--", color=INK, linewidth=0.9, label="set-point")
        axes.plot(flown[:, i], flown[:, j], color=SERIES[0], label="flown")
        axes.plot(*flown[0, [i, j]], "o", color=SERIES[2], markersize=5, label="start")
        axes.set(xlabel=f"{'xyz'[i]} (m)", ylabel=f"{'xyz'[j]} (m)", title=view)
        axes.set_aspect("equal", adjustable="datalim")
        axes.locator_params(nbins=6)
    _legend(side)
    return True


def _every(values: np.ndarray) -> np.ndarray:
    return values[:: max(1, len(values) // (2 * BINS))]


def _error(figure: Figure, report: FlightReport, log: Log) -> bool:
    axes = _time_axes(figure, report, "position error (m)")
    time, error = flight.tracking(log["/odometry"], log["/setpoint"])
    _line(axes, time, error, color=SERIES[0], label="|p - set-point|")
    limits = report.limits
    axes.axhline(limits.recovery_error_m, color=SERIES[1], linestyle="--", label="recovery limit")
    axes.axhline(limits.hover_error_m, color=SERIES[2], linestyle=":", label="hover limit")
    for index, onset in enumerate(flight.push_times(log)):
        label = None if index else "push"
        axes.axvline(onset, color=BAD, linewidth=1.0, label=label)
    axes.set_ylim(bottom=0)
    _legend(axes)
    return True


def _velocity(figure: Figure, report: FlightReport, log: Log) -> bool:
    axes = _time_axes(figure, report, "velocity, world (m/s)")
    odometry, setpoint = log["/odometry"], log["/setpoint"]
    body = odometry["linear_velocity"][..., None]
    world = (to_matrix(odometry["quaternion_xyzw"]) @ body)[..., 0]
    for i, name in enumerate("xyz"):
        _line(axes, flight.clock(odometry), world[:, i], color=SERIES[i], label=f"v{name}")
        wanted = setpoint["linear_velocity"][:, i]
        style: dict[str, Any] = {"linestyle": "--", "label": f"v{name} set-point"}
        _line(axes, flight.clock(setpoint), wanted, color=SERIES[i], linewidth=0.8, **style)
    _legend(axes)
    return True


def _tilt(figure: Figure, report: FlightReport, log: Log) -> bool:
    axes = _time_axes(figure, report, "tilt (degrees)", height=2.0)
    odometry = log["/odometry"]
    angle = np.degrees(tilt(odometry["quaternion_xyzw"]))
    _line(axes, flight.clock(odometry), angle, color=SERIES[0], label="body z to world z")
    axes.set_ylim(bottom=0)
    _legend(axes)
    return True


def _motors(figure: Figure, report: FlightReport, log: Log) -> bool:
    topic = flight.find(log, "/motors")
    if topic is None:
        return False
    axes = _time_axes(figure, report, "rotor speed (share of full)")
    names = topic.labels or [f"motor {i}" for i in range(topic["data"].shape[1])]
    for i, name in enumerate(names):
        colour, width = SERIES[i % len(SERIES)], 0.7
        values = topic["data"][:, i]
        _line(axes, flight.clock(topic), values, color=colour, linewidth=width, label=name)
    axes.set_ylim(-0.02, 1.02)
    _legend(axes)
    return True


def _latency(figure: Figure, report: FlightReport, log: Log) -> bool:
    answers = {
        "policy": flight.answers(log, "/policy/motors") * 1e3,
        "policy and guard": flight.answers(log, "/motors") * 1e3,
    }
    answers = {name: values for name, values in answers.items() if len(values)}
    if not answers:
        return False
    axes = _aligned_axes(figure, 2.6)
    top = max(np.quantile(values, 0.995) for values in answers.values())
    edges = np.linspace(0, max(top, 1e-3), 61).tolist()
    for (name, values), colour in zip(answers.items(), SERIES, strict=False):
        p50, p99 = np.quantile(values, [0.5, 0.99])
        label = f"{name}\np50 {p50:.2f} ms\np99 {p99:.2f} ms"
        clipped = np.minimum(values, edges[-1])
        axes.hist(clipped, edges, histtype="step", color=colour, linewidth=1.2, label=label)
        axes.axvline(p50, color=colour, linewidth=0.8, linestyle="--")
    axes.set(xlabel="odometry to command (ms)", ylabel="commands", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    _legend(axes)
    return True


def _timeline(figure: Figure, report: FlightReport, log: Log) -> bool:
    nodes = list(dict.fromkeys(change.node for change in report.states))
    if not nodes:
        return False
    axes = _time_axes(figure, report, "", height=0.9 + 0.35 * len(nodes))
    end = max([float(flight.clock(log["/odometry"])[-1]), *(c.time_s for c in report.states)])
    shown: set[str] = set()
    for row, node in enumerate(nodes):
        changes = [change for change in report.states if change.node == node]
        ends = [*(change.time_s for change in changes[1:]), end]
        for change, until in zip(changes, ends, strict=True):
            colour = STATE_COLOURS.get(change.state, FAINT)
            label = None if change.state in shown else change.state
            shown.add(change.state)
            span = [(change.time_s, until - change.time_s)]
            axes.broken_barh(span, (row - 0.35, 0.7), facecolor=colour, label=label)
    axes.set_yticks(range(len(nodes)), nodes)
    axes.set_ylim(len(nodes) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    _legend(axes)
    return True


PLOTS: tuple[tuple[str, str, Callable[[Figure, FlightReport, Log], bool]], ...] = (
    ("Path", "Where the robot flew, and where it was to fly.", _path),
    ("Position error", "Distance from the set-point; mission phases are shaded in turn.", _error),
    ("Velocity", "Odometry turned into the world frame, and the set-point's velocity.", _velocity),
    ("Tilt", "Angle of the body's vertical axis to the world's.", _tilt),
    ("Motor commands", "What the guard let through to the motors.", _motors),
    (
        "Latency",
        "From the publication of each odometry to the first command after it, by the log's own "
        "stamps; dashed: medians; the last bin holds everything beyond.",
        _latency,
    ),
    ("States", "What each node reported on /diagnostics.", _timeline),
)

CSS = """
:root { color-scheme: light dark; --font: system-ui, "DejaVu Sans", sans-serif;
  --paper: #ffffff; --card: #f7f8fa; --ink: #1c2430; --soft: #5b6675; --faint: #cbd2db;
  --band: #eef1f5; --good: #2c8a55; --warn: #c77d0a; --bad: #c3372e;
  --series0: #2b6cb8; --series1: #cf6415; --series2: #2a8a5b; --series3: #9b4a9c; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #12161c; --card: #1a2028; --ink: #e4e9f0; --soft: #9aa6b5; --faint: #3d4855;
  --band: #1d242d; --good: #4fb27c; --warn: #e0a13c; --bad: #f0695f;
  --series0: #6ea8ee; --series1: #f0985a; --series2: #5fc794; --series3: #d48bd2; } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 var(--font); }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
h1 span { font-size: .95rem; vertical-align: middle; margin-left: .5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .7rem; border-bottom: 1px solid var(--faint);
  vertical-align: top; }
tr:first-child th { color: var(--soft); font-weight: 600; font-size: .85rem; }
th[scope=row] { font-weight: 500; }
.numbers td, .numbers tr:first-child th:not(:first-child) { text-align: right; }
.pass, .fail { padding: .05rem .55rem; border-radius: 1rem; color: var(--paper);
  font-weight: 600; font-size: .85rem; white-space: nowrap; }
.pass { background: var(--good); } .fail { background: var(--bad); }
figure { margin: 0; padding: .8rem; background: var(--card); border-radius: .5rem; }
figure svg { width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: .85rem; margin-top: .4rem; }
"""
