"""What an evaluation leaves behind: result.json, recovery.png, tracking.png and one HTML page.

A module of its own, because it needs matplotlib.
"""

from __future__ import annotations

import base64
import json
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from robot_policies.report_page import document
from robot_policies.tables import html_table
from sim.evaluate import Evaluation, table
from sim.quadrotor.cases import CASES
from sim.quadrotor.dynamics import PROTOCOL_DT

COLOURS = ("#2b6cb8", "#cf6415", "#2a8a5b", "#9b4a9c", "#8a6d1f", "#4a4f57")
PANEL = (4.4, 3.0)
"""inches"""
FLOOR, CEILING = 0.001, 2.0
"""m, of the distances drawn; what is farther, or infinite since a flight ended, is at the top."""
CAPTIONS = {
    "recovery": "Distance from the target over time, first set: median (line) and 10-90 % of all "
    f"flights (band). At {CEILING:g} m: farther, or ended.",
    "tracking": "The first quadrotors of the first set seen from above, in the first case: the "
    "reference (dashed) and what was flown.",
}


def write(evaluation: Evaluation, folder: Path) -> None:
    """Write all files into a new folder. Raises FileExistsError where there is one."""
    folder.mkdir(parents=True)
    text = json.dumps(evaluation.document(), indent=1)
    (folder / "result.json").write_text(text, encoding="utf-8")
    for name, figure in _figures(evaluation).items():
        figure.savefig(folder / f"{name}.png", dpi=130)
    images = {name: folder / f"{name}.png" for name in CAPTIONS}
    html = _page(evaluation, {n: p.read_bytes() for n, p in images.items() if p.exists()})
    (folder / "index.html").write_text(html, encoding="utf-8")


def _figures(evaluation: Evaluation) -> dict[str, Figure]:
    """The plots by name; none where L2F flew, which keeps no traces."""
    if evaluation.rows[0].trace is None:
        return {}
    return {"recovery": _recovery(evaluation), "tracking": _tracking(evaluation)}


def _recovery(evaluation: Evaluation) -> Figure:
    """One panel for each case."""
    figure, panels = _panels(len(evaluation.options.cases))
    for axes, case in zip(panels, evaluation.options.cases, strict=True):
        for row, colour in zip(evaluation.of(case), _colours(evaluation), strict=True):
            if row.trace is not None:
                _draw_band(axes, row.trace.distance, color=colour, label=row.bundle)
        axes.set(title=case, xlabel="time (s)", ylabel="distance (m)", yscale="log")
        axes.set_ylim(FLOOR, 1.1 * CEILING)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=7)
    return figure


def _draw_band(axes: Any, distance: np.ndarray, **style: str) -> None:
    """Median and band of the distances [T, N]."""
    low, middle, high = np.minimum(
        np.percentile(distance, [10, 50, 90], axis=1, method="nearest"), CEILING
    )
    time = np.arange(len(distance)) * PROTOCOL_DT
    axes.fill_between(time, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.plot(time, middle, linewidth=1.2, **style)


def _tracking(evaluation: Evaluation) -> Figure:
    """One panel for each of the quadrotors whose path was kept."""
    rows = evaluation.of(evaluation.options.cases[0])
    wanted = evaluation.references.position[:, :, :: evaluation.options.episodes].numpy()
    paths = [row.trace.path for row in rows if row.trace is not None]
    figure, panels = _panels(paths[0].shape[2])
    for index, axes in enumerate(panels):
        axes.plot(*wanted[:, :2, index].T, "--", color="black", linewidth=0.9, label="reference")
        for path, row, colour in zip(paths, rows, _colours(evaluation), strict=True):
            axes.plot(*path[:, :2, index].T, color=colour, linewidth=1.1, label=row.bundle)
        axes.plot(*paths[0][0, :2, index], "o", color="black", markersize=4, label="start")
        axes.set(title=f"quadrotor {index}", xlabel="x (m)", ylabel="y (m)")
        axes.set_aspect("equal", adjustable="datalim")
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=7)
    return figure


def _panels(count: int) -> tuple[Figure, list[Any]]:
    """Panels in rows of up to three."""
    columns = min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for unused in panels[count:]:
        unused.set_axis_off()
    return figure, panels[:count]


def _colours(evaluation: Evaluation) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(len(evaluation.options.bundles))]


def _page(evaluation: Evaluation, images: dict[str, bytes]) -> str:
    options = evaluation.options
    parts = [
        "<h1>Evaluation</h1>",
        f"<p>{options.count} quadrotors ({options.airframes}) x {options.episodes} episodes for "
        f"each of the seeds {', '.join(map(str, options.seeds))}, 500 steps of 10 ms, trajectory "
        f"{options.trajectory}, simulator {options.simulator}. Brackets: 95 % intervals, "
        "bootstrap over quadrotors, or over the flights of one airframe alone.</p>",
    ]
    for case in options.cases:
        parts.append(f"<h2>{escape(case)}</h2><p>{escape(CASES[case].description)}</p>")
        parts.append(html_table(*table(evaluation, case)))
    parts += [_html_image(name, content) for name, content in images.items()]
    return document("Evaluation", parts)


def _html_image(name: str, content: bytes) -> str:
    data = base64.b64encode(content).decode()
    return (
        f'<h2>{escape(name.capitalize())}</h2>\n<figure><img alt="{escape(name)}" '
        f'style="width:100%" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(CAPTIONS[name])}</figcaption></figure>"
    )
