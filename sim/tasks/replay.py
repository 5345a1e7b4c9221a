"""Any episode of an evaluation again, exactly: as a plot, and of arms as a video.

replayed = replay(evaluation, "runs/a/bundle", episode=17)
replayed.picture(Path("episode17.png"))
replayed.video(Path("episode17.mp4"))              # with MUJOCO_GL=egl where no screen is
"""

# Compiled modules of the simulators ship no type information.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from matplotlib.figure import Figure

from sim.draws import FloatArray
from sim.engines import Engine
from sim.tasks.arm import ArmScene
from sim.tasks.driver import Driver
from sim.tasks.evaluation import Evaluation, begin
from sim.tasks.meta_world import TABLE_M, MetaWorld
from sim.tasks.scene import Scene
from sim.tasks.task import Float32Array, Observations, Task

MEASURED = {"joint_position": "joint_position", "motors": "rotor_speed"}
"""Action -> the signal that follows it."""
TARGETS = ("target_position", "goal_position")
"""Signals that a video shows as a ball."""
PANEL = (3.6, 2.3)
"""inches"""
HEIGHT, WIDTH = 240, 320
"""Pixels of a video."""
_FRAMES_PER_S = 25
NEAR_M = 1.4
BALL_M, BALL_RGBA = 0.02, (0.85, 0.2, 0.1, 0.8)


@dataclass(frozen=True)
class Replay:
    """An episode of T control steps."""

    bundle: str
    episode: int
    outcome: dict[str, Any]
    """Return, length, success, final distance, divergence and parameters, as recorded."""
    control_hz: float
    distance: FloatArray
    """[T + 1] m."""
    commands: dict[str, Float32Array]
    """Action -> [T, Da], in the contract's units, before delay."""
    elements: dict[str, tuple[str, ...]]
    """Action -> Da names."""
    signals: dict[str, FloatArray]
    """Signal -> [T + 1, W], without noise; the last row in float32, limited as for a policy."""
    model: mujoco.MjModel | None
    """Of an arm."""
    looked_at: tuple[float, float, float] | None
    """m, world: the point that a video looks at from near; None: it shows the whole robot."""
    poses: FloatArray
    """[T, nq] of an arm, MuJoCo's qpos before each step."""

    def picture(self, path: Path) -> None:
        """Plot distance, commands and what follows them; path's ending says the format."""
        panels = [
            (action, k) for action, names in self.elements.items() for k in range(len(names))
        ]
        figure, (first, *axes) = _panels(1 + len(panels))
        time = np.arange(len(self.distance)) / self.control_hz
        first.plot(time, self.distance, color="black")
        first.set(title="distance (m)", ylim=(0, None))
        for (action, k), axis in zip(panels, axes, strict=True):
            axis.step(time[:-1], self.commands[action][:, k], "--", where="post", label="command")
            if (measured := MEASURED.get(action)) in self.signals:
                axis.plot(time, self.signals[measured][:, k], label=measured.replace("_", " "))
            axis.set(title=self.elements[action][k])
        axes[0].legend(fontsize=7)
        figure.suptitle(self.title, fontsize=9)
        figure.savefig(path, dpi=130)

    def video(self, path: Path) -> None:
        """Film an arm, whatever engine moved it, with MuJoCo. Raises OSError where that fails."""
        if self.model is None:
            raise ValueError("video: expected an arm; found another robot: take a picture")
        stride = max(1, round(self.control_hz / _FRAMES_PER_S))
        rate = Fraction(self.control_hz / stride).limit_denominator(1000)
        _encode(path, self._frames(self.model, stride), rate)

    @property
    def title(self) -> str:
        """Bundle, episode and what came of it."""
        end = "success" if self.outcome["success"] else "failure"
        end = "diverged" if self.outcome["diverged"] else end
        return f"{self.bundle}, episode {self.episode}: return {self.outcome['return']:.2f}, {end}"

    def _frames(self, model: mujoco.MjModel, stride: int) -> Iterator[np.ndarray]:
        """Pictures [HEIGHT, WIDTH, 3]."""
        data, camera = mujoco.MjData(model), self._camera(model)
        targets = [self.signals[name] for name in TARGETS if name in self.signals]
        with _renderer(model) as renderer:
            for index in range(0, len(self.poses), stride):
                data.qpos[:] = self.poses[index]
                mujoco.mj_forward(model, data)
                renderer.update_scene(data, camera)
                for target in targets:
                    _add_ball(renderer.scene, target[index])
                yield renderer.render()

    def _camera(self, model: mujoco.MjModel) -> mujoco.MjvCamera:
        camera = mujoco.MjvCamera()
        mujoco.mjv_defaultFreeCamera(model, camera)
        camera.azimuth, camera.elevation, camera.distance = 140, -25, 1.3 * model.stat.extent
        camera.lookat[2] /= 2  # targets are nearer to the floor than an arm's middle
        if self.looked_at is not None:
            camera.lookat[:], camera.distance = self.looked_at, NEAR_M
        return camera


def replay(evaluation: Evaluation, bundle: str, episode: int) -> Replay:
    """Simulate an episode again, with all environments beside it, so that nothing differs.

    Raises ValueError for a bundle or episode that is not in the evaluation, and RuntimeError where
    not the same comes out, which would be a mistake of the engine or of this project.
    """
    options = evaluation.options
    if bundle not in options.bundles or not 0 <= episode < options.episodes:
        expected = f"one of {', '.join(options.bundles)}, episode 0 to {options.episodes - 1}"
        raise ValueError(f"replay: expected {expected}; found {bundle}, {episode}")
    task, policy = evaluation.task, evaluation.policies[bundle]
    number, row = divmod(episode, options.count)
    driver = Driver(policy, task)
    begin(task, driver, options.seed, number)
    watched = _Watch(task, row)
    while watched.final is None:
        watched.step(driver)
    recorded = {name: column[episode] for name, column in evaluation.records[bundle].items()}
    _require_same(recorded, watched.final)
    return watched.replay(bundle, episode, recorded)


class _Watch:
    """Keeps what one environment does."""

    def __init__(self, task: Task, row: int) -> None:
        self.final: dict[str, Any] | None = None
        """What "final_info" says of the episode at its end."""
        self._task, self._row = task, row
        self._widths = {name: value.shape[1] for name, value in task.scene.signals().items()}
        self._distance: list[float] = []
        self._commands: list[Float32Array] = []
        self._signals: list[FloatArray] = []
        self._poses: list[FloatArray] = []
        self._model = _model(task.scene, row)

    def step(self, driver: Driver) -> None:
        task, row = self._task, self._row
        raw = driver.act()
        true = task.scene.signals()
        same = raw.astype(np.float64)  # of the score, the distance alone is read
        self._distance.append(task.scene.score(true, same, same).distance[row])
        self._signals.append(np.concatenate([value[row] for value in true.values()]))
        self._commands.append(task.commands(raw)[row])
        if self._model is not None:
            self._poses.append(_pose(task.scene, row))
        _, _, terminated, truncated, infos = task.step(raw)
        task.scene.rest(np.flatnonzero(terminated | truncated))  # as in the evaluation
        if terminated[row] or truncated[row]:
            self._end(infos["final_info"], infos["final_obs"])

    def _end(self, info: dict[str, Any], observation: Observations) -> None:
        """The environment is in its next episode already; infos have the end of this one."""
        self.final = {name: value[self._row] for name, value in info.items()}
        self._distance.append(self.final["final_distance"])
        true = observation["privileged"][self._row, : sum(self._widths.values())]
        self._signals.append(true.astype(np.float64))

    def replay(self, bundle: str, episode: int, recorded: dict[str, Any]) -> Replay:
        task, commands = self._task, np.array(self._commands)
        ends = np.cumsum([len(action.elements) for action in task.action])[:-1]
        parts = np.split(commands, ends, axis=1)
        edges = np.cumsum([*self._widths.values()])[:-1]
        signals = np.split(np.array(self._signals), edges, axis=1)
        return Replay(
            bundle=bundle,
            episode=episode,
            outcome=recorded,
            control_hz=task.timing.control_hz,
            distance=np.array(self._distance),
            commands={a.name: part for a, part in zip(task.action, parts, strict=True)},
            elements={action.name: action.elements for action in task.action},
            signals=dict(zip(self._widths, signals, strict=True)),
            model=self._model,
            looked_at=TABLE_M if isinstance(task.scene, MetaWorld) else None,
            poses=np.array(self._poses),
        )


def _require_same(recorded: dict[str, Any], found: dict[str, Any]) -> None:
    different = [name for name in recorded if recorded[name] != found[name]]
    if different:
        was, now = ({name: float(x[name]) for name in different} for x in (recorded, found))
        raise RuntimeError(f"replay: expected the episode as recorded, {was}; found {now}")


def _model(scene: Scene, row: int) -> mujoco.MjModel | None:
    """Of one environment, in the episode that it is in; None of a robot that is no arm."""
    if isinstance(scene, MetaWorld):
        return scene.model_of(row)
    return scene.engine.model.mj if isinstance(scene, ArmScene) else None


def _pose(scene: Scene, row: int) -> FloatArray:
    """[nq] MuJoCo's qpos of one environment of an arm, from any engine."""
    return scene.pose(row) if isinstance(scene, MetaWorld) else _arm_pose(scene.engine, row)


def _arm_pose(engine: Engine, row: int) -> FloatArray:
    mj, names = engine.model.mj, engine.names("joints")
    qpos = mj.qpos0.copy()
    qpos[mj.jnt_qposadr[engine.model.ids("joints", names)]] = engine.read("joint_position")[row]
    if bodies := engine.names("free_bodies"):
        at = mj.jnt_qposadr[engine.model.free_joints()][:, None]
        qpos[at + np.arange(3)] = engine.read("body_position", bodies)[row]
        qpos[at + np.array([4, 5, 6, 3])] = engine.read("body_quaternion_xyzw", bodies)[row]
    return qpos


def _panels(count: int) -> tuple[Figure, list[Any]]:
    """Panels in rows of up to four."""
    columns = min(count, 4)
    rows = -(-count // columns)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for axes in panels[:count]:
        axes.set(xlabel="time (s)")
        axes.grid(alpha=0.3)
    for unused in panels[count:]:
        unused.set_axis_off()
    return figure, panels[:count]


# Video.


def require_rendering() -> None:
    """Raise OSError where this machine cannot render, ImportError without the package av."""
    import av  # noqa: F401

    with _renderer(mujoco.MjModel.from_xml_string("<mujoco/>")) as renderer:
        renderer.render()


@contextmanager
def _renderer(model: Any) -> Iterator[Any]:
    """MuJoCo's renderer of a model, quick without shadows: closed at the end."""
    quality = model.vis.quality
    quality.shadowsize = quality.offsamples = 0  # six times as quick in software
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # glfw warns, and MuJoCo then raises
            renderer = mujoco.Renderer(model, HEIGHT, WIDTH)
    except Exception as error:  # each platform's library raises its own
        set_to = os.environ.get("MUJOCO_GL") or "nothing"
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise OSError(
            f"video: expected an OpenGL context, found none with MUJOCO_GL set to {set_to} "
            f"({text}); start again with MUJOCO_GL=egl, and install Mesa's EGL (libegl1, "
            "libgl1-mesa-dri) where that is missing; pictures need none of this"
        ) from None
    with renderer:
        yield renderer


def _add_ball(scene: Any, position: FloatArray) -> None:
    """Draw a ball at [3] m that the model has not."""
    ball = scene.geoms[scene.ngeom]
    mujoco.mjv_initGeom(
        ball, mujoco.mjtGeom.mjGEOM_SPHERE.value, np.full(3, BALL_M), position,
        np.eye(3).ravel(), np.array(BALL_RGBA, np.float32),
    )  # fmt: skip
    scene.ngeom += 1


def _encode(path: Path, frames: Iterable[np.ndarray], rate: Fraction) -> None:
    import av

    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
