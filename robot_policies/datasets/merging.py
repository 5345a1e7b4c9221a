"""From the episodes of a collection, a file each, to the files of a LeRobotDataset."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robot_policies.datasets import layout, statistics
from robot_policies.datasets.layout import INDICES, Column

if TYPE_CHECKING:
    import pyarrow

Episode = dict[str, NDArray[Any]]
"""Column -> [T, n]."""


def pack(task: str, episode: Mapping[str, NDArray[Any]], extra: Mapping[str, Any]) -> bytes:
    """The file of one episode, checked before."""
    arrays: dict[str, Any] = {f"column/{name}": values for name, values in episode.items()}
    arrays["about"] = np.array(json.dumps({"task": task, "extra": dict(extra)}))
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def unpack(path: Path) -> tuple[Episode, dict[str, Any]]:
    """The columns, and the episode's task and extra."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    about = json.loads(str(arrays.pop("about")))
    return {name.removeprefix("column/"): values for name, values in arrays.items()}, about


def merge(
    files: Sequence[Path], header: Mapping[str, Any], columns: Sequence[Column], target: Path
) -> None:
    """Write data/ and meta/ of a complete data set into the new folder `target`, and sync them."""
    import pyarrow
    from pyarrow import parquet

    def write_json(name: str, document: Mapping[str, Any]) -> None:
        text = json.dumps(document, indent=4, ensure_ascii=False)
        _new(target, name).write_text(text, encoding="utf-8")

    episodes, about = zip(*map(unpack, files), strict=True)
    tasks = list(dict.fromkeys(note["task"] for note in about))
    frames = 0
    for index, (episode, note) in enumerate(zip(episodes, about, strict=True)):
        length = len(episode[columns[0].name])
        episode |= _indices(index, frames, length, tasks.index(note["task"]), header["fps"])
        frames += length
    every = (*columns, *INDICES)
    places = _write_data(target, episodes, every)
    rows = [_episode_row(*item) for item in zip(episodes, about, places, strict=True)]
    name = f"{layout.EPISODES}/{layout.FILE.format(chunk_index=0, file_index=0)}"
    parquet.write_table(pyarrow.Table.from_pylist(rows), _new(target, name))
    whole = {c.name: np.concatenate([episode[c.name] for episode in episodes]) for c in every}
    parquet.write_table(_task_table(tasks), _new(target, layout.TASKS))
    write_json(layout.STATS, {name: statistics.compute(v) for name, v in whole.items()})
    counts = {"total_episodes": len(files), "total_frames": frames, "total_tasks": len(tasks)}
    write_json(layout.INFO, layout.info_document(columns, header["fps"], header["robot"], counts))
    write_json(layout.OWN, header)
    for path in target.rglob("*"):
        sync(path)


def sync(path: Path) -> None:
    """Bring a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _indices(index: int, first: int, length: int, task: int, fps: float) -> Episode:
    """The columns that lerobot adds to an episode."""
    frame = np.arange(length)
    values = (frame / fps, frame, np.full(length, index), first + frame, np.full(length, task))
    return {
        column.name: value.astype(column.dtype)[:, None]
        for column, value in zip(INDICES, values, strict=True)
    }


def _write_data(
    target: Path, episodes: Sequence[Episode], columns: Sequence[Column]
) -> list[tuple[int, int]]:
    """Write the rows, a group for each episode as lerobot has it; (chunk, file) of each."""
    import pyarrow
    from pyarrow import parquet

    row_bytes = sum(column.width * np.dtype(column.dtype).itemsize for column in columns)
    rows_per_file = int(layout.DATA_FILE_MB * 2**20 / row_bytes)
    numbers = [int(episode["index"][0, 0]) // rows_per_file for episode in episodes]
    for number, group in groupby(zip(numbers, episodes, strict=True), lambda item: item[0]):
        chunk, file = divmod(number, layout.FILES_PER_CHUNK)
        tables = [
            pyarrow.table({column.name: _array(episode[column.name]) for column in columns})
            for _, episode in group
        ]
        path = _new(target, layout.DATA.format(chunk_index=chunk, file_index=file))
        with parquet.ParquetWriter(path, tables[0].schema) as writer:
            for table in tables:
                writer.write_table(table)
    return [divmod(number, layout.FILES_PER_CHUNK) for number in numbers]


def _array(values: NDArray[Any]) -> pyarrow.Array:
    """[T, n] as a list of n numbers in each row; a single number stands alone."""
    import pyarrow

    flat, width = pyarrow.array(values.reshape(-1)), values.shape[1]
    return flat if width == 1 else pyarrow.FixedSizeListArray.from_arrays(flat, width)


def _episode_row(
    episode: Episode, about: Mapping[str, Any], place: tuple[int, int]
) -> dict[str, Any]:
    """What meta/episodes says of an episode."""
    index = episode["index"]
    row = {
        "episode_index": int(episode["episode_index"][0, 0]),
        "tasks": [about["task"]],
        "length": len(index),
        "data/chunk_index": place[0],
        "data/file_index": place[1],
        "dataset_from_index": int(index[0, 0]),
        "dataset_to_index": int(index[-1, 0]) + 1,
    }
    for name, values in episode.items():
        row |= {f"stats/{name}/{key}": v for key, v in statistics.compute(values).items()}
    row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
    return row | {f"extra/{key}": value for key, value in about["extra"].items()}


def _task_table(tasks: Sequence[str]) -> pyarrow.Table:
    """As pandas writes a table whose index are the texts: lerobot looks tasks up by it."""
    import pyarrow

    index = "__index_level_0__"
    about = {
        "index_columns": [index],
        "column_indexes": [],
        "columns": [
            {"name": name, "field_name": field, "pandas_type": kind, "numpy_type": numpy_kind}
            for name, field, kind, numpy_kind in (
                ("task_index", "task_index", "int64", "int64"),
                (None, index, "unicode", "object"),
            )
        ],
    }
    table = pyarrow.table({"task_index": np.arange(len(tasks)), index: list(tasks)})
    return table.replace_schema_metadata({"pandas": json.dumps(about)})


def _new(target: Path, name: str) -> Path:
    path = target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
