"""Demonstrations on disk, in the layout of LeRobotDataset v3.0: low-dimensional columns only.

lerobot opens what `Writer` writes, and `read` what lerobot writes; neither needs the other. Numpy
and pyarrow only, and pyarrow is loaded where a Parquet file is touched.

    about = {"columns": columns, "fps": 50, "robot": "arm7", "source": {"seed": 1}}
    with Writer("data/reach", **about, resume=True) as out:
        while out.episodes < 100:
            out.add("reach the goal", {"observation.state": states, "action": actions})
    dataset = read("data/reach", columns={"observation.state": None, "action": None})
"""

from robot_policies.datasets.layout import Column
from robot_policies.datasets.reader import Dataset, columns_of, read
from robot_policies.datasets.writer import Writer

__all__ = ["Column", "Dataset", "Writer", "columns_of", "read"]
