"""What an evaluation in a task leaves behind: result.json, episodes.parquet and one HTML page.

A module of its own, because it needs matplotlib and pyarrow.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import parquet

from robot_policies.report_page import document
from robot_policies.tables import html_table
from sim.tasks.evaluation import (
    Evaluation,
    correlation_table,
    remarks,
    table,
    worst_table,
)
from sim.tasks.replay import Replay, replay


def write(evaluation: Evaluation, folder: Path) -> None:
    """Write all files into a new folder. Raises FileExistsError where there is one."""
    folder.mkdir(parents=True)
    text = json.dumps(evaluation.document(), indent=1)
    (folder / "result.json").write_text(text, encoding="utf-8")
    write_parquet(evaluation, folder / "episodes.parquet")
    shown = [*_films(evaluation, folder), *_plots(evaluation, folder)]
    (folder / "index.html").write_text(_page(evaluation, shown), encoding="utf-8")


def write_parquet(evaluation: Evaluation, path: Path) -> None:
    """A row for each episode of each bundle.

    Columns: bundle, episode, environment, then what came of it, then the randomised parameters
    "term/name" as the episode ended, of pushes (N s) their sum. The file's metadata is what
    Evaluation.about returns, each value as JSON.
    """
    episodes = np.arange(evaluation.options.episodes)
    which = {"episode": episodes, "environment": episodes % evaluation.options.count}
    blocks = [
        pyarrow.table({"bundle": [name] * len(episodes)} | which | records)
        for name, records in evaluation.records.items()
    ]
    about = {key: json.dumps(value, default=str) for key, value in evaluation.about().items()}
    parquet.write_table(pyarrow.concat_tables(blocks).replace_schema_metadata(about), path)


def _replays(evaluation: Evaluation, episodes: Sequence[int]) -> Iterator[tuple[str, Replay]]:
    """The stem of a file's name, and the episode, for every bundle."""
    for number, bundle in enumerate(evaluation.options.bundles, start=1):
        for episode in episodes:
            yield f"bundle{number}_episode{episode}", replay(evaluation, bundle, episode)


def _plots(evaluation: Evaluation, folder: Path) -> Iterator[str]:
    """Write them; their HTML."""
    for stem, replayed in _replays(evaluation, evaluation.options.pictures):
        path = folder / f"{stem}.png"
        replayed.picture(path)
        data = base64.b64encode(path.read_bytes()).decode()
        image = f'<img alt="{stem}" style="width:100%" src="data:image/png;base64,{data}">'
        yield _figure(image, replayed)


def _films(evaluation: Evaluation, folder: Path) -> Iterator[str]:
    """Write them; their HTML."""
    for stem, replayed in _replays(evaluation, evaluation.options.videos):
        replayed.video(folder / f"{stem}.mp4")
        yield _figure(f'<video controls loop src="{stem}.mp4"></video>', replayed)


def _figure(content: str, replayed: Replay) -> str:
    return f"<figure>{content}<figcaption>{escape(replayed.title)}</figcaption></figure>"


def _page(evaluation: Evaluation, shown: Sequence[str]) -> str:
    options = evaluation.options
    drawn = "as in the model" if options.randomization is None else f"from {options.randomization}"
    parts = [
        "<h1>Evaluation</h1>",
        f"<p>{options.task} on {options.engine}: {options.episodes} episodes, seed {options.seed},"
        f" parameters {escape(drawn)}. Brackets: 95 % intervals, of success by "
        f"{'Wilson' if options.interval == 'wilson' else 'Clopper and Pearson'}, else by bootstrap"
        " over episodes; differences are paired.</p>",
        html_table(*table(evaluation)),
        *(f"<p>{escape(remark)}</p>" for remark in remarks(evaluation)),
    ]
    by = "final distance" if options.worst_by == "final_distance" else "low return"
    for name in options.bundles:
        title, (columns, rows) = escape(name), correlation_table(evaluation, name)
        if rows:
            parts += [f"<h2>What goes with {by}: {title}</h2>", html_table(columns, rows)]
        parts += [f"<h2>Worst episodes: {title}</h2>", html_table(*worst_table(evaluation, name))]
    return document("Evaluation", [*parts, *(["<h2>Episodes</h2>"] if shown else []), *shown])
