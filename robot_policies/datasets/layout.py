"""The files of a LeRobotDataset v3.0 and what is declared in them, as lerobot 0.4.4 has it.

NAME/meta/info.json                           rate, features, counts, paths
     meta/stats.json                          of every column over all rows
     meta/tasks.parquet                       task_index -> text, the index of a pandas table
     meta/episodes/chunk-000/file-000.parquet length, place and statistics of each episode
     data/chunk-000/file-000.parquet          the rows of many episodes, one after the other
     meta/robot_policies.json                 this project's own: what made the data
     .collecting/                             only until the collection is closed
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robot_policies.strict import InputError, Violation, require

if TYPE_CHECKING:
    import pyarrow

CODEBASE_VERSION = "v3.0"
INFO, STATS, TASKS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet"
OWN, COLLECTING = "meta/robot_policies.json", ".collecting"
EPISODES = "meta/episodes"
FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA = f"data/{FILE}"
FILES_PER_CHUNK, DATA_FILE_MB = 1000, 100
DTYPES = ("float32", "float64", "int64", "bool")
COPY = "copy the whole data set again from where it was made"


@dataclass(frozen=True)
class Column:
    """A feature of every row: a vector of numbers. Raises InputError where it is none."""

    name: str
    """As lerobot calls it: observation.state, action."""
    dtype: str
    """One of DTYPES."""
    shape: tuple[int, ...]
    """(n,): flatten what has more dimensions, lerobot keeps statistics of vectors only."""
    elements: tuple[str, ...]
    """Names of the n numbers, or () where nobody named them."""

    def __post_init__(self) -> None:
        """Check what a reader relies on."""
        is_vector = len(self.shape) == 1 and type(self.shape[0]) is int and self.shape[0] > 0
        names = len(self.elements)
        is_named = not names or (len(set(self.elements)) == names and (names,) == self.shape)
        require(
            f"column {self.name}",
            (self.dtype in DTYPES, "dtype", f"one of {', '.join(DTYPES)}", self.dtype),
            (is_vector, "shape", "one dimension, of at least one number", self.shape),
            (is_named, "elements", f"different names for {self.shape} numbers", self.elements),
        )

    @property
    def width(self) -> int:
        """How many numbers a row has."""
        return self.shape[0]


INDICES = (
    Column("timestamp", "float32", (1,), ()),
    *(
        Column(name, "int64", (1,), ())
        for name in ("frame_index", "episode_index", "index", "task_index")
    ),
)
"""The columns that lerobot adds to every data set."""
INDEX_NAMES = tuple(column.name for column in INDICES)


@dataclass(frozen=True)
class Info:
    """What info.json says, as far as a reader needs it."""

    fps: float
    robot: str
    """Empty where the data set does not name one."""
    total_episodes: int
    total_frames: int
    features: dict[str, Any]


def read_info(path: Path) -> Info:
    """Read meta/info.json of a complete data set of this version.

    Raises InputError: no such file, another version, or a collection that was interrupted.
    """
    if (path / COLLECTING).exists():
        mend = "go on with it: Writer(..., resume=True), then close()"
        found = f"an interrupted collection ({COLLECTING})"
        raise InputError([Violation(str(path), "a complete data set", found, mend)])
    said = read_json(path, INFO)
    if (version := said.get("codebase_version")) != CODEBASE_VERSION:
        mend = "write it again with lerobot 0.4, which converts from v2.1: " + (
            "python -m lerobot.datasets.v30.convert_dataset_v21_to_v30 "
            "--repo-id=NAME --root=FOLDER --push-to-hub=false"
        )
        raise InputError([Violation(INFO, CODEBASE_VERSION, str(version), mend)])
    robot, features = said.get("robot_type"), said.get("features")
    episodes, frames = said.get("total_episodes"), said.get("total_frames")
    require(
        INFO,
        (is_rate(said.get("fps")), "fps", "a positive number", said.get("fps")),
        (robot is None or isinstance(robot, str), "robot_type", "a text or null", robot),
        (type(episodes) is int and episodes > 0, "total_episodes", "at least 1", episodes),
        (type(frames) is int and frames > 0, "total_frames", "at least 1", frames),
        (isinstance(features, dict), "features", "an object", features),
        (said.get("data_path") == DATA, "data_path", DATA, said.get("data_path")),
    )
    return Info(
        float(said["fps"]), robot or "", said["total_episodes"], frames or 0, features or {}
    )


def column_of(info: Info, name: str, expected: tuple[str, ...] | None = None) -> Column:
    """The column of that name, whose numbers must be `expected` in this order, where given.

    Raises InputError: there is none, it holds pictures, or its numbers are others.
    """
    where, feature = f"column {name}", info.features.get(name)
    if not isinstance(feature, dict):
        have = ", ".join(key for key in info.features if key not in INDEX_NAMES)
        mend = "name a column that the data set has, or collect it"
        raise InputError([Violation(where, "a column of the data set", f"only {have}", mend)])
    if feature.get("dtype") in ("image", "video"):
        mend = "ask for columns of numbers only: pictures are not read here"
        raise InputError([Violation(where, "numbers", str(feature["dtype"]), mend)])
    names, shape = feature.get("names"), feature.get("shape")
    if isinstance(names, dict) and len(names) == 1:  # {"motors": [...]} or {"axes": [...]}
        (names,) = names.values()
    if not isinstance(names, list | None):
        said, mend = 'a list, {"motors": a list} or null', "correct the names in info.json"
        raise InputError([Violation(f"{where} names", said, str(names)[:80], mend)])
    shape = tuple(shape) if isinstance(shape, list) else ()
    column = Column(name, str(feature.get("dtype")), shape, tuple(names or ()))
    if expected is not None and column.elements != tuple(expected):
        is_order = sorted(column.elements) == sorted(expected)
        mend = (
            "ask for that order, or collect in this one" if is_order else "use data that has them"
        )
        found = ", ".join(column.elements) or "null: no names"
        found = f"another order: {found}" if is_order else found
        raise InputError([Violation(f"{where} names", ", ".join(expected), found, mend)])
    return column


def own_columns(info: Info) -> tuple[Column, ...]:
    """Every column that can be read; pictures, texts and lerobot's indices are left out."""
    columns = []
    for name in info.features:
        with suppress(InputError):
            columns.append(column_of(info, name))
    return tuple(column for column in columns if column.name not in INDEX_NAMES)


def info_document(
    columns: Sequence[Column], fps: float, robot: str, counts: Mapping[str, int]
) -> dict[str, Any]:
    """What info.json of a complete data set says; `counts`: total_episodes and the like."""
    features = {
        c.name: {"dtype": c.dtype, "shape": list(c.shape), "names": list(c.elements) or None}
        for c in (*columns, *INDICES)
    }
    return {
        "codebase_version": CODEBASE_VERSION,
        "robot_type": robot,
        **counts,
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": DATA_FILE_MB,
        "video_files_size_in_mb": 200,
        # lerobot declares whole numbers; it also takes others.
        "fps": int(fps) if float(fps).is_integer() else fps,
        "splits": {"train": f"0:{counts['total_episodes']}"},
        "data_path": DATA,
        "video_path": None,
        "features": features,
    }


def is_rate(value: Any) -> bool:
    """Whether a value can be frames per second."""
    return type(value) in (int, float) and 0 < value < math.inf


def read_json(path: Path, name: str) -> dict[str, Any]:
    """An object in a JSON file of the data set; NaN passes, for the caller to name its column."""
    content = read_bytes(path, name)
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError([Violation(name, "JSON", str(error), COPY)]) from None
    if not isinstance(document, dict):
        raise InputError([Violation(name, "an object", type(document).__name__, COPY)])
    return document


def read_bytes(path: Path, name: str) -> bytes:
    """A whole file of the data set; InputError where there is none."""
    try:
        return (path / name).read_bytes()
    except OSError as error:
        found = error.strerror or "nothing"
        raise InputError([Violation(str(path / name), "a file", found, COPY)]) from None


def read_parquet(content: bytes, name: str, columns: Sequence[str] = ()) -> pyarrow.Table:
    """The named columns of a Parquet file, or all; InputError where it is none or lacks one."""
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(content))
        if missing := [key for key in columns if key not in file.schema_arrow.names]:
            expected, found = ", ".join(columns), f"nothing of {', '.join(missing)}"
            raise InputError([Violation(name, f"columns {expected}", found, COPY)])
        table = file.read(columns=list(columns) or None)
    except (pyarrow.ArrowException, OSError) as error:
        found = " ".join(str(error).split())[:120]
        raise InputError([Violation(name, "a Parquet file", found, COPY)]) from None
    return table.select(list(columns)) if columns else table
