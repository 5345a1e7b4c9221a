"""Demonstrations on disk: collected, killed, resumed, read, spoilt and refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from robot_policies.datasets import Column, Dataset, Writer, columns_of, layout, merging, read
from robot_policies.strict import InputError

STATE = Column("observation.state", "float32", (3,), ("shoulder", "elbow", "wrist"))
ACTION = Column("action", "float32", (2,), ("left", "right"))
DISTURBED = Column("disturbed", "bool", (1,), ("disturbed",))
COLUMNS = (STATE, ACTION, DISTURBED)
WANTED = {column.name: column.elements for column in COLUMNS}
SETTINGS = {"columns": COLUMNS, "fps": 20, "robot": "arm", "source": {"seed": 7, "steps": [1, 2]}}
LENGTHS = (5, 8, 6, 7)
TASKS = ("reach", "push", "reach", "push")


def episode(index: int) -> dict[str, np.ndarray]:
    draws = np.random.default_rng(index)
    length = LENGTHS[index % len(LENGTHS)]
    return {
        "observation.state": draws.normal(size=(length, 3)).astype(np.float32),
        "action": draws.normal(size=(length, 2)).astype(np.float32),
        "disturbed": draws.random((length, 1)) < 0.5,
    }


def collect(path: Path, resume: bool = False, **changes: object) -> Path:
    with Writer(path, **(SETTINGS | changes), resume=resume) as writer:
        while not writer.done and writer.episodes < len(LENGTHS):
            index = writer.episodes
            writer.add(TASKS[index], episode(index), {"seed": index, "return": np.float32(0.5)})
    return path


def assert_complete(dataset: Dataset) -> None:
    assert dataset.starts.tolist() == [0, *np.cumsum(LENGTHS)]
    for index in range(len(LENGTHS)):
        for name, values in dataset.episode(index).items():
            np.testing.assert_array_equal(values, episode(index)[name])


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete data set; do not change it (see `data`)."""
    return collect(tmp_path_factory.mktemp("datasets") / "reach")


@pytest.fixture
def data(pristine: Path, tmp_path: Path) -> Path:
    """A complete data set to spoil."""
    return Path(shutil.copytree(pristine, tmp_path / "reach"))


# Written and read.


def test_what_is_written_is_read(pristine: Path) -> None:
    dataset = read(pristine, columns=WANTED, fps=20.0)
    assert_complete(dataset)
    assert (dataset.columns, dataset.fps, dataset.robot) == (COLUMNS, 20.0, "arm")
    assert dataset.tasks == TASKS and dataset.source == SETTINGS["source"]
    actions = np.concatenate([episode(index)["action"] for index in range(len(LENGTHS))])
    np.testing.assert_allclose(dataset.statistics["action"]["std"], actions.std(0), rtol=1e-5)
    assert dataset.statistics["action"]["count"] == [len(actions)]


def test_only_the_columns_that_are_asked_for_are_read(pristine: Path) -> None:
    dataset = read(pristine, columns={"action": None})
    assert dataset.columns == (ACTION,) and dataset.values.keys() == {"action"}
    assert columns_of(pristine) == COLUMNS


def test_the_hash_is_that_of_the_data(pristine: Path, tmp_path: Path) -> None:
    again, other = collect(tmp_path / "again"), collect(tmp_path / "other", fps=10)
    hashes = [read(path, columns=WANTED).sha256 for path in (pristine, again, other)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_much_data_goes_into_several_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "DATA_FILE_MB", 10 * 57 / 2**20)  # ten rows
    monkeypatch.setattr(layout, "FILES_PER_CHUNK", 2)
    path = collect(tmp_path / "reach")
    files = sorted(str(file.relative_to(path)) for file in path.glob("data/*/*"))
    assert files == [f"data/chunk-000/file-00{i}.parquet" for i in (0, 1)]
    assert_complete(read(path, columns=WANTED))


def test_remarks_on_an_episode_are_columns_of_its_metadata(pristine: Path) -> None:
    rows = parquet.read_table(pristine / "meta/episodes/chunk-000/file-000.parquet")
    assert rows["extra/seed"].to_pylist() == [0, 1, 2, 3]
    assert rows["extra/return"].to_pylist() == [0.5] * 4


def test_importing_it_loads_neither_pyarrow_nor_torch() -> None:
    script = "import sys, robot_policies.datasets; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert not {"pyarrow", "torch", "pandas"} & set(done.stdout.split()), done.stderr


@pytest.mark.parametrize(
    "names", [["left", "right"], {"motors": ["left", "right"]}, {"axes": ["left", "right"]}]
)
def test_names_as_lerobot_has_them(data: Path, names: object) -> None:
    edit_json(data, "info", lambda info: info["features"]["action"].update(names=names))
    assert read(data, columns={"action": ("left", "right")}).columns == (ACTION,)


def test_nobody_needs_to_have_named_the_numbers(data: Path) -> None:
    edit_json(data, "info", lambda info: info["features"]["action"].update(names=None))
    assert read(data, columns={"action": None}).columns[0].elements == ()


# Spoilt and refused.


def edit_json(path: Path, name: str, change: Callable[[dict], object]) -> None:
    file = path / f"meta/{name}.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def edit_rows(path: Path, change: Callable[[list[dict]], object]) -> None:
    """Change the rows of the data; lists become as long as they are then."""
    file = path / "data/chunk-000/file-000.parquet"
    table = parquet.read_table(file)
    rows = table.to_pylist()
    change(rows)
    flexible = [
        pyarrow.field(field.name, pyarrow.list_(field.type.value_type))
        if pyarrow.types.is_fixed_size_list(field.type)
        else field
        for field in table.schema
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows, pyarrow.schema(flexible)), file)


def edit_table(path: Path, name: str, change: Callable[[pyarrow.Table], pyarrow.Table]) -> None:
    parquet.write_table(change(parquet.read_table(path / name)), path / name)


def cell(row: int, column: str, value: object) -> Callable[[Path], None]:
    return lambda path: edit_rows(path, lambda rows: rows[row].update({column: value}))


def info(**changes: object) -> Callable[[Path], None]:
    return lambda path: edit_json(path, "info", lambda document: document.update(changes))


def feature(column: str, **changes: object) -> Callable[[Path], None]:
    return lambda path: edit_json(path, "info", lambda d: d["features"][column].update(changes))


def statistic(column: str, **changes: object) -> Callable[[Path], None]:
    return lambda path: edit_json(path, "stats", lambda document: document[column].update(changes))


def without(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


EPISODES, ROWS = "meta/episodes/chunk-000/file-000.parquet", "data/chunk-000/file-000.parquet"

# Rows 5 to 12 are those of episode 1.
DAMAGE = {
    "NaN": (cell(6, "action", [0.0, np.nan]), ["episode 1 column action", "nan in row 1"]),
    "infinity": (cell(4, "observation.state", [np.inf] * 3), ["episode 0 column observation"]),
    "another width": (cell(7, "action", [0.0]), ["episode 1 column action", "8 rows of 2"]),
    "fewer rows in a column": (cell(12, "action", None), ["episode 1 column action", "1 rows"]),
    "a gap in a row": (cell(8, "action", [0.0, None]), ["episode 1 column action"]),
    "no statistics": (
        lambda path: edit_json(path, "stats", lambda document: document.pop("action")),
        ["column action statistics", "stats.json"],
    ),
    "a statistic is missing": (
        lambda path: edit_json(path, "stats", lambda document: document["action"].pop("std")),
        ["column action statistics.std", "found nothing"],
    ),
    "a statistic is not finite": (statistic("action", std=[1.0, np.nan]), ["statistics.std"]),
    "another mean": (statistic("action", mean=[9, 9]), ["action statistics.mean[", "found 9"]),
    "another std": (statistic("action", std=[0.1, 0.1]), ["column action statistics.std["]),
    "a negative std": (statistic("disturbed", std=[-0.49]), ["disturbed statistics.std[0]"]),
    "another minimum": (statistic("action", min=[-9, -9]), ["column action statistics.min["]),
    "another maximum": (statistic("disturbed", max=[2]), ["column disturbed statistics.max["]),
    "another count": (statistic("action", count=[25]), ["statistics.count[0]", "26", "25"]),
    "a row is missing": (lambda path: edit_rows(path, lambda rows: rows.pop(7)),
        ["episode 1: expected 8 rows", "found 7", "column frame_index", "no 2"]),
    "the last row is missing": (lambda path: edit_rows(path, lambda rows: rows.pop(12)),
        ["episode 1: expected 8 rows", "found 7"]),
    "a row comes twice": (lambda path: edit_rows(path, lambda rows: rows.insert(7, rows[7])),
        ["episode 1: expected 8 rows", "found 9", "2 more than once"]),
    "a frame twice": (cell(6, "frame_index", 0), ["episode 1 column frame_index", "0 more than"]),
    "frames in another order": (
        lambda path: edit_rows(path, lambda rows: rows.insert(6, rows.pop(7))),
        ["episode 1 column frame_index", "another order"],
    ),
    "timestamps of another rate": (cell(9, "timestamp", 0.4), ["episode 1 column timestamp"]),
    "an unknown task": (cell(5, "task_index", 5), ["episode 1 column task_index", "found 5"]),
    "two tasks in an episode": (cell(9, "task_index", 0), ["episode 1", "one task per episode"]),
    "rows of another episode": (cell(9, "episode_index", 3), ["column episode_index", "episode"]),
    "a row of no episode": (cell(9, "episode_index", None), ["column episode_index", "row 9"]),
    "another rate": (info(fps=50), ["meta/info.json.fps: expected 20 Hz, found 50 Hz"]),
    "no rate": (info(fps=None), ["meta/info.json.fps: expected a positive number"]),
    "another number of frames": (info(total_frames=9), ["info.json.total_frames", "found 9"]),
    "another number of episodes": (info(total_episodes=9), ["expected episodes 0 to 8"]),
    "files elsewhere": (info(data_path="../{chunk_index}"), ["meta/info.json.data_path"]),
    "version 2.1": (info(codebase_version="v2.1"), ["v3.0", "v2.1", "convert_dataset_v21_to_v30"]),
    "another order": (feature("action", names=["right", "left"]),
        ["column action names: expected left, right, found another order: right, left"]),
    "other names": (feature("action", names=["x", "y"]), ["column action names", "found x, y"]),
    "no names": (feature("action", names=None), ["column action names", "null"]),
    "unreadable names": (feature("action", names={"a": 0, "b": 1}), ["column action names"]),
    "a video": (feature("action", dtype="video"), ["column action: expected numbers"]),
    "another type": (feature("action", dtype="float64"), ["column action in data", "double"]),
    "a matrix": (feature("action", shape=[1, 2]), ["column action.shape: expected one dimension"]),
    "no such column": (
        lambda path: edit_json(path, "info", lambda document: document["features"].pop("action")),
        ["column action", "only observation.state, disturbed"],
    ),
    "a column without data": (
        lambda path: edit_table(path, ROWS, lambda table: table.drop_columns(["action"])),
        [ROWS, "nothing of action"],
    ),
    "another length": (
        lambda path: edit_table(path, EPISODES, lambda table: table.set_column(
            table.column_names.index("length"), "length", [[5, 9, 6, 6]])),
        ["episode 1: expected 9 rows", "episode 3: expected 6 rows"],
    ),
    "no info.json": (without("meta/info.json"), ["meta/info.json: expected a file"]),
    "no stats.json": (without("meta/stats.json"), ["meta/stats.json: expected a file"]),
    "no tasks": (without("meta/tasks.parquet"), ["meta/tasks.parquet: expected a file"]),
    "no episodes": (without(EPISODES), ["meta/episodes: expected episodes 0 to 3", "found 0"]),
    "no data": (without(ROWS), [f"{ROWS} (episodes 0 to 3): expected a file"]),
    "half a file": (
        lambda path: (path / ROWS).write_bytes((path / ROWS).read_bytes()[:900]),
        [ROWS, "expected a Parquet file"],
    ),
    "an interrupted collection": (lambda path: (path / ".collecting").mkdir(), ["resume=True"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_named(data: Path, kind: str) -> None:
    spoil, said = DAMAGE[kind]
    spoil(data)
    with pytest.raises(InputError) as caught:
        read(data, columns=WANTED, fps=20)
    for words in said:
        assert words in str(caught.value)


def test_everything_that_is_wrong_is_said_at_once(data: Path) -> None:
    for kind in ("NaN", "another rate", "a statistic is missing", "a frame twice", "no tasks"):
        DAMAGE[kind][0](data)
    with pytest.raises(InputError) as caught:
        read(data, columns=WANTED, fps=20)
    for kind in ("NaN", "another rate", "a statistic is missing", "a frame twice", "no tasks"):
        assert DAMAGE[kind][1][0] in str(caught.value)


# An episode that cannot be kept.

REFUSED = {
    "a NaN": ({"action": np.full((5, 2), np.nan, np.float32)}, "episode 1.column action"),
    "another type": (
        {"action": np.zeros((5, 2))},
        "expected float32 [5, 2], found float64 [5, 2]",
    ),
    "another width": ({"action": np.zeros((5, 3), np.float32)}, "found float32 [5, 3]"),
    "another length": ({"action": np.zeros((4, 2), np.float32)}, "found float32 [4, 2]"),
    "no array": ({"action": [[0.0, 0.0]] * 5}, "found list"),
    "an unknown column": ({"reward": np.zeros((5, 1), np.float32)}, "column reward"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_nothing_of_a_refused_episode_is_kept(tmp_path: Path, kind: str) -> None:
    changes, said = REFUSED[kind]
    with Writer(tmp_path / "reach", **SETTINGS, resume=False) as writer:
        assert writer.add("reach", episode(0)) == 0
        with pytest.raises(InputError, match="episode 1") as caught:
            writer.add("reach", episode(0) | changes)
        assert said in str(caught.value) and writer.episodes == 1
    assert len(read(tmp_path / "reach", columns=WANTED).starts) == 2


@pytest.mark.parametrize(
    "extra", [{}, {"seed": 1.5}, {"seed": 2**64}, {"seed": 1, "more": 2}, {"seed": [1]}], ids=str
)
def test_remarks_must_be_alike(tmp_path: Path, extra: dict) -> None:
    with Writer(tmp_path / "reach", **SETTINGS, resume=False) as writer:
        writer.add("reach", episode(0), {"seed": 1})
        with pytest.raises(InputError, match=r"episode 1\.extra"):
            writer.add("reach", episode(1), extra)


@pytest.mark.parametrize(
    "changes",
    [{"columns": ()}, {"columns": (ACTION, ACTION)}, {"columns": (layout.INDICES[0],)},
     {"fps": 0}, {"robot": ""}, {"source": {"path": Path("x")}}, {"source": {"x": np.nan}}],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_be(tmp_path: Path, changes: dict) -> None:
    with pytest.raises(InputError):
        Writer(tmp_path / "reach", **(SETTINGS | changes), resume=False)
    assert not (tmp_path / "reach").exists()


# Killed and resumed.


def test_a_killed_collection_goes_on(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from test_datasets import *\n"
        "writer = Writer(Path(sys.argv[2]), **SETTINGS, resume=True)\n"
        "for index in range(2): writer.add(TASKS[index], episode(index), "
        "{'seed': index, 'return': 0.5})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "reach"
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", script, here, str(path)])
    assert done.returncode == -signal.SIGKILL
    (path / ".collecting/episode-000002.new").write_bytes(b"half an episode")
    with pytest.raises(InputError, match="interrupted"):
        read(path, columns=WANTED)
    with pytest.raises(FileExistsError, match="resume=True"):
        collect(path)
    assert_complete(read(collect(path, resume=True), columns=WANTED))


class Killed(BaseException):
    """As a kill: nothing tidies up after it."""


@pytest.mark.parametrize("step", range(8))
def test_a_close_that_is_killed_anywhere_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    left = step

    def dying(function: Callable) -> Callable:
        def call(*arguments: object, **named: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return function(*arguments, **named)

        return call

    path = tmp_path / "reach"
    writer = Writer(path, **SETTINGS, resume=False)
    for index in range(len(LENGTHS)):
        writer.add(TASKS[index], episode(index), {"seed": index, "return": 0.5})
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", dying(os.rename))
        patch.setattr(shutil, "rmtree", dying(shutil.rmtree))
        patch.setattr(merging, "_task_table", dying(merging._task_table))
        with pytest.raises(Killed):
            writer.close()
    writer._release()  # as the end of the process does
    if step < 7:
        with pytest.raises(InputError, match="interrupted"):
            read(path, columns=WANTED)
    else:
        assert_complete(read(path, columns=WANTED))
    assert_complete(read(collect(path, resume=True), columns=WANTED))
    assert sorted(item.name for item in path.iterdir()) == ["data", "meta"]


@pytest.mark.parametrize("is_complete", [False, True])
@pytest.mark.parametrize(
    ("changes", "said"),
    [({"columns": COLUMNS[:2]}, "columns"), ({"fps": 10}, "fps"), ({"robot": "leg"}, "robot"),
     ({"source": {"seed": 8, "steps": [1, 2]}}, "source.seed")],
)  # fmt: skip
def test_what_is_resumed_must_be_the_same(
    tmp_path: Path, is_complete: bool, changes: dict, said: str
) -> None:
    path = tmp_path / "reach"
    if is_complete:
        collect(path)
    else:
        Writer(path, **SETTINGS, resume=False)._release()
    with pytest.raises(InputError, match=f"collection {said}"):
        Writer(path, **(SETTINGS | changes), resume=True)


def test_an_exception_leaves_a_collection_to_resume(tmp_path: Path) -> None:
    path = tmp_path / "reach"
    with pytest.raises(ZeroDivisionError), Writer(path, **SETTINGS, resume=False) as writer:
        writer.add("reach", episode(0))
        raise ZeroDivisionError
    with Writer(path, **SETTINGS, resume=True) as writer:
        assert writer.episodes == 1 and not writer.done


def test_a_complete_data_set_stays_as_it_is(data: Path) -> None:
    with Writer(data, **SETTINGS, resume=True) as writer:
        assert writer.done and writer.episodes == len(LENGTHS)
        with pytest.raises(InputError, match="another data set"):
            writer.add("reach", episode(0))
    with pytest.raises(FileExistsError, match="another path"):
        Writer(data, **SETTINGS, resume=False)
    assert_complete(read(data, columns=WANTED))


def test_what_a_writer_did_not_make_is_left_alone(data: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/today.txt").touch()
    (data / layout.OWN).unlink()  # as a data set from elsewhere
    for path in (data, tmp_path / "notes"):
        with pytest.raises(FileExistsError, match="no data set of a Writer"):
            Writer(path, **SETTINGS, resume=True)
    assert read(data, columns=WANTED).source == {}


def test_only_one_writer_at_a_time(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "reach", **SETTINGS, resume=True)
    with pytest.raises(FileExistsError, match="another Writer"):
        Writer(tmp_path / "reach", **SETTINGS, resume=True)
    with pytest.raises(InputError, match="at least one episode"):
        writer.close()


# lerobot itself: LEROBOT_PYTHON names a Python that has lerobot 0.4.

LEROBOT = os.environ.get("LEROBOT_PYTHON", "")
needs_lerobot = pytest.mark.skipif(
    not LEROBOT, reason="LEROBOT_PYTHON names no Python with lerobot"
)

OPEN = """
import json, sys
from lerobot.datasets.lerobot_dataset import LeRobotDataset
steps = {"observation.state": [-0.05, 0.0], "action": [0.0, 0.05, 0.1]}
data = LeRobotDataset("own/reach", root=sys.argv[1], delta_timestamps=steps)
rows = [{key: getattr(value, "tolist", lambda: value)() for key, value in data[i].items()}
        for i in range(len(data))]
stats = {c: {k: v.tolist() for k, v in s.items()} for c, s in data.meta.stats.items()}
print(json.dumps({"rows": rows, "stats": stats, "fps": data.fps, "robot": data.meta.robot_type,
    "lengths": list(data.meta.episodes["length"]), "names": data.meta.names}))
"""

WRITE = """
import sys
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
features = {"observation.state": {"dtype": "float32", "shape": (3,), "names": ["a", "b", "c"]},
            "action": {"dtype": "float32", "shape": (2,), "names": {"motors": ["l", "r"]}},
            "disturbed": {"dtype": "bool", "shape": (1,), "names": None},
            "matrix": {"dtype": "float32", "shape": (2, 2), "names": None}}
data = LeRobotDataset.create("own/x", 20, features, root=sys.argv[1], use_videos=False)
draws = np.random.default_rng(3)
for length, task in ((400, "reach"), (300, "push")):
    for frame in range(length):
        # Nearly constant and far from zero: where sums of float32 are worst.
        state = np.array([5, -1, 0.001 * frame]) + draws.normal(size=3) * [1e-3, 1, 0]
        data.add_frame({"observation.state": state.astype(np.float32),
            "action": np.full(2, frame, np.float32), "disturbed": np.array([frame % 2 == 0]),
            "matrix": np.eye(2, dtype=np.float32), "task": task})
    data.save_episode()
data.finalize()
"""


def lerobot(script: str, path: Path, home: Path) -> str:
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(home)}
    command = [LEROBOT, "-c", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | offline)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@needs_lerobot
def test_lerobot_opens_what_is_written(data: Path, tmp_path: Path) -> None:
    found = json.loads(lerobot(OPEN, data, tmp_path / "home").splitlines()[-1])
    dataset = read(data, columns=WANTED)
    assert (found["fps"], found["robot"], found["lengths"]) == (20, "arm", list(LENGTHS))
    assert found["names"]["action"] == ["left", "right"]
    for number in range(len(LENGTHS)):
        first, end = dataset.starts[number : number + 2]
        for row in range(first, end):
            said = found["rows"][row]
            ahead = np.arange(row, row + 3)
            expected = dataset.values["action"][ahead.clip(max=end - 1)]
            np.testing.assert_array_equal(np.float32(said["action"]), expected)
            assert said["action_is_pad"] == (ahead >= end).tolist()
            state = dataset.values["observation.state"][[max(row - 1, first), row]]
            np.testing.assert_array_equal(np.float32(said["observation.state"]), state)
            assert said["disturbed"] == bool(dataset.values["disturbed"][row, 0])
            assert (said["task"], said["index"]) == (TASKS[number], row)
    for column, values in dataset.statistics.items():
        for name, value in values.items():
            np.testing.assert_allclose(np.float64(found["stats"][column][name]), value)
    assert len(found["stats"]["action"]["q99"]) == 2


@needs_lerobot
def test_what_lerobot_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "data"
    lerobot(WRITE, path, tmp_path / "home")
    names = {"observation.state": ("a", "b", "c"), "action": ("l", "r"), "disturbed": None}
    dataset = read(path, columns=names, fps=20)
    assert dataset.starts.tolist() == [0, 400, 700] and dataset.tasks == ("reach", "push")
    np.testing.assert_array_equal(dataset.episode(1)["action"][:, 1], np.arange(300))
    assert dataset.robot == "" and dataset.source == {}
    assert [column.name for column in columns_of(path)] == list(names)
