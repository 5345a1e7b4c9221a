"""Sweeps: a training run for every combination of a grid's values, each done only once.

    options = Options("arm-reach/ppo", Path("config/sweep_example.yaml"), Path("runs/rates"))
    summary = sweep(options)              # trains what is missing
    columns, rows = summary.table()

    OUTPUT/runs/KEY/      a run's folder (see sim/runs.py); done.json in it once the run has ended
    OUTPUT/logs/KEY.txt   what the run printed, and a line for each time that it began or ended
    OUTPUT/locks/KEY      held while a process works on the run
    OUTPUT/summary.json   and .csv: the grid's values, figures, status and seconds of every run

KEY is a hash of all that decides how a run comes out, so the same OUTPUT serves a grid that grows,
and several processes on one file system: whoever comes next does what is missing.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sim.sweeps.summary import Row, Summary

if TYPE_CHECKING:
    from sim.sweeps.grid import Spec

__all__ = ["Options", "Summary", "sweep"]


@dataclass(frozen=True)
class Options:
    """What is swept; raises ValueError for what cannot be."""

    task: str
    """TASK/FAMILY, see sim.sweeps.families."""
    file: Path
    """YAML: the base and the grid, as config/sweep_example.yaml explains."""
    output: Path
    """A new folder, or that of a sweep to go on with. All machines that take part share it."""
    executor: Literal["local", "ray", "shard"] = "local"
    """local: processes of this machine. ray: the cluster at RAY_ADDRESS, or this machine where
    that is not set. shard: processes of this machine, which do one share of the runs."""
    shard: str | None = None
    """I/N, with executor shard: run I, I + N, I + 2 N and so on, counted from 1."""
    workers: int = 2
    """How many runs at a time, each with one thread."""
    command: str = ""
    """The command line, for the runs' records."""

    def __post_init__(self) -> None:
        """Refuse contradictions before a folder is made."""
        if self.executor not in ("local", "ray", "shard") or self.workers < 1:
            raise ValueError(
                "sweep: expected executor local, ray or shard and at least one worker; found "
                f"{self.executor!r} and {self.workers}"
            )
        if (self.executor == "shard") != (self.shard is not None):
            found = "no --shard" if self.shard is None else f"--shard {self.shard}"
            raise ValueError(
                "sweep: expected --shard I/N with --executor shard, and only there; found "
                f"{found} with --executor {self.executor}"
            )
        self.share()

    def share(self) -> slice:
        """The runs that are this call's to do; the shares of all I are all runs."""
        if self.shard is None:
            return slice(None)
        found = re.fullmatch(r"([0-9]+)/([0-9]+)", self.shard)
        index, count = map(int, found.groups()) if found else (0, 0)
        if not 1 <= index <= count:
            raise ValueError(
                f"shard: expected I/N with I from 1 to N, such as 3/8, found {self.shard!r}; in "
                "Slurm, sbatch --array=1-N and $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT"
            )
        return slice(index - 1, None, count)


def sweep(options: Options) -> Summary:
    """Do the runs that are missing, show progress on standard error, write the summary.

    A run that raises an exception fails alone. One whose worker dies is begun again, from its
    last checkpoint, a few times.

    Raises:
        ValueError: the task is none that can be swept.
        InputError: the YAML file holds something else; every violation is named.
        FileNotFoundError: there is no such file.
        FileExistsError: OUTPUT is a folder of something else.
        ModuleNotFoundError: ray is not installed.
        ConnectionError: Ray does not start, or its cluster does not answer.
    """
    from sim.runs import write_atomically  # torch takes seconds: only now
    from sim.sweeps.grid import read

    output = options.output.resolve()
    specs = read(options.file, options.task)[options.share()]
    summary = Summary(options.task, _do(specs, output, options))
    part = "" if options.shard is None else "-" + options.shard.replace("/", "-of-")
    document = json.dumps(summary.document(), indent=1) + "\n"
    write_atomically(output / f"summary{part}.json", document)
    write_atomically(output / f"summary{part}.csv", summary.csv())
    return summary


def _do(specs: Sequence[Spec], output: Path, options: Options) -> tuple[Row, ...]:
    """Do what is missing; a row for each spec, in their order."""
    from sim.executors import run_jobs
    from sim.sweeps.grid import VERSION
    from sim.sweeps.job import finished, run

    stored = {spec.key: finished(output, spec.key) for spec in specs}
    rows = {spec.key: Row(spec, **done) for spec in specs if (done := stored[spec.key])}
    missing = [spec for spec in specs if spec.key not in rows]
    common = {"output": str(output), "command": options.command}
    results = run_jobs(
        run, [asdict(spec) | common for spec in missing], None, version=VERSION,
        executor="ray" if options.executor == "ray" else "local",
        workers=min(options.workers, len(missing)) or 1,
    )  # fmt: skip
    _prepare(output)  # now that nothing else can be refused
    with results, _progress(len(specs)) as show:
        show(rows.values())
        for outcome in results:
            spec = missing[outcome.index]
            rows[spec.key] = Row(spec, error=outcome.error, **(outcome.value or {}))
            show(rows.values())
    return tuple(rows[spec.key] for spec in specs)


def _prepare(output: Path) -> None:
    """Make the folder, or take that of a sweep."""
    if output.exists() and not (output / "runs").is_dir() and any(output.iterdir()):
        raise FileExistsError(
            f"{output}: expected a new folder or that of a sweep, found another one; give a new "
            "name"
        )
    for name in ("runs", "logs", "locks"):
        (output / name).mkdir(parents=True, exist_ok=True)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Collection[Row]], None]]:
    """Show how many runs are done, failed and left: a bar on a terminal, lines elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    terminal = sys.stderr.isatty()
    with Progress(console=Console(stderr=True), disable=not terminal) as bar:
        shown = bar.add_task("", total=total)

        def show(rows: Collection[Row]) -> None:
            ended, failed = len(rows), sum(row.status == "failed" for row in rows)
            text = f"runs: {ended - failed} done, {failed} failed, {total - ended} left"
            bar.update(shown, completed=ended, description=text)
            if not terminal:
                print(text, file=sys.stderr, flush=True)

        yield show
