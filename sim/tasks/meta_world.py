"""meta-world/*: tasks of Meta-World for a Sawyer arm, N at once on MuJoCo's batch.

Meta-World's own environment makes the starts; they are then simulated without it, as it does
(the same model, steps and success), which costs a sixth of the time and takes threads.
Source: Yu et al., "Meta-World", CoRL 2019; metaworld 3.0.0.
"""

# Compiled modules of the simulators ship no type information.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import mujoco
import numpy as np
from mujoco.batch import Batch, SimulationError

from robot_policies.contract import Action, Observation, Robot, Timing
from sim.draws import FloatArray, Streams
from sim.engines.mujoco_engine import LARGEST, keep_quiet
from sim.randomization import IdArray
from sim.tasks.meta_world_kinds import KINDS, Kind
from sim.tasks.scene import Interface, Scene, Score, Signals, Start

PREFIX = "meta-world/"
OBJECT = "object"
"""What randomisation calls the object that can be moved."""
CONTROL_HZ = 80.0
SUBSTEPS = 5
STEP_M = 0.01
"""The hand's displacement for an action of 1, Meta-World's action_scale."""
POINT_CLIP = 2.0
"""m, of the points that a policy is shown: the table is within, an object may be flung."""
OPEN = -1.0
"""Of the gripper; 1 closes it."""
TABLE_M = (0.0, 0.65, 0.1)
"""World: what videos look at."""
WIDEST_M = 0.1
"""Between the fingers, where gripper_opening is 1."""
XYZ, XYZW = ("x", "y", "z"), ("x", "y", "z", "w")
_GRIPPER = "gripper"
_RANDOM = "start/random"
_POSITIONS = mujoco.mjtStage.mjSTAGE_POS.value
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION.value
_WELD = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 5.0)
"""What Meta-World writes into the rows of its welds."""


class MetaWorld(Scene):
    """N Meta-World environments of one kind. An episode ends with success, and its reward is 1."""

    lost_reward = 0.0

    def __init__(self, kind: str, *, count: int, threads: int) -> None:
        """`kind` is one of KINDS. Raises ImportError without the package metaworld."""
        self.kind = KINDS[kind]
        self.about, self.episode_steps = self.kind.about, self.kind.episode_steps
        self.count = count
        self._starts = _Starts(self.kind)
        self.model = self._starts.model
        keep_quiet()
        self._batch = Batch(self.model, count, threads)
        self._fixtures = self._batch.expand("body_pos")  # each environment has its peg elsewhere
        self._points = {"body": self._batch.bind("xpos"), "site": self._batch.bind("site_xpos")}
        self._quaternion_wxyz = self._batch.bind("xquat")
        self._object = _Object(count)
        self.models = (self._object,)
        self.interface = _interface(self.kind)
        self.goal = np.zeros((count, 3))
        """[N, 3] m, world."""
        self._failed, self._resting = np.zeros((2, count), bool)

    @property
    def running(self) -> IdArray:
        """The environments that are simulated."""
        return np.flatnonzero(~self._resting)

    def seed(self, seed: int) -> None:
        """See Scene."""
        self._streams = Streams(seed, {_RANDOM: self._starts.low.size})

    def reset(self, ids: IdArray, episodes: IdArray) -> Start:
        """See Scene. The hand starts where Meta-World has it, with its gripper open."""
        for n, vector in zip(ids, self.random_vectors(ids, episodes), strict=True):
            self._batch.state[n], self._fixtures[n], self.goal[n] = self._starts.make(vector)
        self._object.offset[ids] = 0
        self._failed[ids] = self._resting[ids] = False
        self._batch.forward(np.sort(ids), stage=_POSITIONS)
        still = np.tile([0.0, 0.0, 0.0, OPEN], (len(ids), 1))
        return Start(still, still)

    def random_vectors(self, ids: IdArray, episodes: IdArray) -> FloatArray:
        """Meta-World's random numbers for the episodes [M] of `ids` [M]: [M, R]."""
        low, high = self._starts.low, self._starts.high
        vectors = np.empty((len(ids), low.size))
        waiting, moment = np.arange(len(ids)), 0
        while waiting.size:  # until object and goal are far enough apart
            u = self._streams.uniform(ids[waiting], episodes[waiting], moment)[_RANDOM]
            drawn = vectors[waiting] = low + (high - low) * u
            gap = np.linalg.norm(drawn[:, :2] - drawn[:, 3:5], axis=1)
            waiting, moment = waiting[gap < self.kind.apart_m], moment + 1
        return vectors

    def rest(self, ids: IdArray) -> None:
        """See Scene."""
        self._resting[ids] = True

    def step(self, command: FloatArray) -> None:
        """See Scene. Commands are limited as Meta-World limits them."""
        ids, batch = self.running, self._batch
        displacement = command[ids, :3].clip(-STEP_M, STEP_M)
        batch.mocap_pos[ids, 0] = (batch.mocap_pos[ids, 0] + displacement).clip(
            *self._starts.reachable
        )
        batch.ctrl[ids] = command[ids, 3:] * np.array([1.0, -1.0])
        moved, offset = self._object.take()
        batch.qpos[moved[:, None], self._starts.object_columns[:2]] += offset
        try:
            batch.step(ids, nstep=SUBSTEPS, stage=_POSITIONS)
        except SimulationError as error:
            self._failed[error.ids] = True

    def signals(self) -> Signals:
        """See Scene. There is nothing that no policy is told."""
        fingers = self.point("body", "rightclaw") - self.point("body", "leftclaw")
        opening = np.linalg.norm(fingers, axis=1, keepdims=True) / WIDEST_M
        found = {
            "hand_position": self.point("body", "hand"),
            "gripper_opening": opening.clip(0, 1),
        }
        for thing in self.kind.things:
            found[f"{thing.name}_position"] = self.point(thing.of, thing.point)
            if thing.body is not None:
                wxyz = self._quaternion_wxyz[:, self.model.body(thing.body).id]
                found[f"{thing.name}_quaternion_xyzw"] = wxyz[:, [1, 2, 3, 0]]
        return found | {"goal_position": self.goal.copy()}

    def point(self, of: Literal["body", "site"], name: str) -> FloatArray:
        """Where a body or site of the model is, [N, 3] m, world: a copy."""
        return self._points[of][:, getattr(self.model, of)(name).id].copy()

    def model_of(self, n: int) -> mujoco.MjModel:
        """Environment n's model, with the fixtures where this episode has them."""
        return self._batch.get_model(n)

    def pose(self, n: int) -> FloatArray:
        """[nq] MuJoCo's qpos of environment n."""
        return self._batch.qpos[n].copy()

    def score(self, signals: Signals, raw: FloatArray, previous: FloatArray) -> Score:
        """See Scene: 1 for success, with which the episode ends; distances as Meta-World's."""
        distance, success = self.kind.judge(self)
        success &= ~self._resting
        return Score(success.astype(float), success.copy(), distance, success)

    def diverged(self) -> IdArray:
        """See Scene."""
        states = (self._batch.qpos, self._batch.qvel)
        held = np.all([(np.abs(x) < LARGEST).all(1) for x in states], axis=0)
        return np.flatnonzero(self._failed | ~held)

    def observation(self) -> FloatArray:
        """[N, 39] as Meta-World's experts read it.

        The present stands where Meta-World has its previous frame, which they do not read.
        """
        true, frame = self.signals(), np.zeros((self.count, 18))
        frame[:, :3], frame[:, 3:4] = true["hand_position"], true["gripper_opening"]
        order = [0, 1, 2, 3] if self.kind.xyzw else [3, 0, 1, 2]
        for at, thing in zip((4, 11), self.kind.things, strict=False):
            frame[:, at : at + 3] = true[f"{thing.name}_position"]
            if thing.body is not None:
                frame[:, at + 3 : at + 7] = true[f"{thing.name}_quaternion_xyzw"][:, order]
        return np.concatenate([frame, frame, self.goal], axis=1)


class Scripted:
    """Meta-World's scripted experts in a scene. They keep no state: one serves them all."""

    def __init__(self, scene: MetaWorld) -> None:
        """The scene is that of a task, which makes its episodes."""
        from metaworld.policies import ENV_POLICY_MAP

        self._scene = scene
        self._policy = ENV_POLICY_MAP[scene.kind.environment]()

    def begin(self, ids: IdArray, episodes: IdArray) -> None:
        """Begin the episodes [M] of environments `ids` [M]."""

    def act(self) -> FloatArray:
        """Commands [N, 4] in the contract's units for the state now; zero of who rests."""
        action, observation = np.zeros((self._scene.count, 4)), self._scene.observation()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of actions beyond 1, which are limited below
            for n in self._scene.running:
                action[n] = self._policy.get_action(observation[n])
        return action.clip(-1, 1) * np.array([STEP_M, STEP_M, STEP_M, 1.0])


class _Object:
    """Moves the object, for randomisation (see sim.randomization.Parameters)."""

    capabilities = frozenset({"displacement"})

    def __init__(self, count: int) -> None:
        self.offset = np.zeros((count, 2))
        """[N, 2] m, x and y in the world, for the next step."""

    def take(self) -> tuple[IdArray, FloatArray]:
        """Who is moved now [M], and by how much [M, 2]."""
        ids = np.flatnonzero(self.offset.any(axis=1))
        offset = self.offset[ids]
        self.offset[ids] = 0
        return ids, offset

    def names(self, kind: str) -> tuple[str, ...]:
        return (OBJECT,) if kind == "free_bodies" else ()

    def nominal(self, parameter: str, names: Sequence[str]) -> FloatArray:
        return np.zeros((len(names), 2))

    def set(self, parameter: str, names: Sequence[str], ids: IdArray, values: FloatArray) -> None:
        self.offset[ids] = values[:, 0]


# Starts, by Meta-World itself.


class _Starts:
    """One Meta-World environment, for the starts of all.

    Meta-World lets hand and object settle twice in each reset, which takes as long as an episode.
    Here they have settled once, unless the kind settles anew: the starts are the same.
    """

    def __init__(self, kind: Kind) -> None:
        self._environment = environment = create(kind)
        self._settles_anew = kind.settles_anew
        self.model = environment.model
        # Or MuJoCo would itself put a diverged environment at its start, unnoticed.
        self.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
        self._fixtures = self.model.body_pos.copy()
        space = environment._random_reset_space
        self.low, self.high = space.low, space.high
        """[R] of Meta-World's random numbers: of the object's start, then mostly of the goal."""
        self.reachable = environment.mocap_low, environment.mocap_high
        joint = self.model.body(kind.things[0].body).jntadr[0]
        self.object_columns = self.model.jnt_qposadr[joint] + np.arange(3)
        """Of qpos: the object's x, y and z."""

    def make(self, vector: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Random numbers [R] -> MuJoCo's state, its body_pos [B, 3] and the goal [3] m."""
        self.model.body_pos[:] = self._fixtures
        self._environment._last_rand_vec = vector
        self._environment.reset_model()
        if self._settles_anew:  # now that the fixtures are where this episode has them
            self._environment._settled = None
            self._environment.reset_model()
        state = np.empty(mujoco.mj_stateSize(self.model, _STATE))
        mujoco.mj_getState(self.model, self._environment.data, state, _STATE)
        return state, self.model.body_pos, self._environment._target_pos


def create(kind: Kind) -> Any:
    """Meta-World's environment, such that it runs on MuJoCo 4.0 and settles once.

    It tells the goal, and starts as its _last_rand_vec says, not as numpy's global state does.
    """
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    found = ALL_V3_ENVIRONMENTS[kind.environment]
    environment = type(found.__name__, (_OnMujoco4, found), {})()
    environment._partially_observable = False
    del environment.sawyer_observation_space  # or the goal would be hidden as before
    environment._set_task_called = environment._freeze_rand_vec = True
    return environment


class _OnMujoco4:
    """What is done otherwise than in Meta-World's SawyerXYZEnv."""

    model: Any
    data: Any
    tcp_center: Any
    _settled: FloatArray | None = None

    def reset_mocap_welds(self) -> None:
        """Write 11 numbers into rows that have 12 since MuJoCo 4.0; the last is zero."""
        welds = self.model.eq_type == mujoco.mjtEq.mjEQ_WELD
        self.model.eq_data[welds] = 0
        self.model.eq_data[welds, : len(_WELD)] = _WELD

    def _reset_hand(self, steps: int = 50) -> None:
        if self._settled is None:
            mujoco.mj_resetData(self.model, self.data)
            super()._reset_hand(steps)  # pyright: ignore
            self._settled = np.empty(mujoco.mj_stateSize(self.model, _STATE))
            mujoco.mj_getState(self.model, self.data, self._settled, _STATE)
        mujoco.mj_setState(self.model, self.data, self._settled, _STATE)
        mujoco.mj_forward(self.model, self.data)
        self.init_tcp = self.tcp_center


# The interface.


def _interface(kind: Kind) -> Interface:
    actuators = (*XYZ, _GRIPPER)
    displacement = Action(
        "hand_displacement", (3,), "m", "world", XYZ, scale=(STEP_M,) * 3, offset=(0.0,) * 3,
        lower=(-STEP_M,) * 3, upper=(STEP_M,) * 3, mode="delta",
    )  # fmt: skip
    gripper = Action(
        _GRIPPER, (1,), "1", "tool", (_GRIPPER,), scale=(1.0,), offset=(0.0,),
        lower=(OPEN,), upper=(1.0,), mode="absolute",
    )  # fmt: skip
    joints = (*(f"right_j{i}" for i in range(7)), "r_close", "l_close")
    return Interface(
        robot=Robot("sawyer", joints, actuators),
        observation=tuple(_observations(kind)),
        action=(displacement, gripper),
        gains=None,
        timing=Timing(CONTROL_HZ, 5 / CONTROL_HZ, 0.5 / CONTROL_HZ),
    )


def _observations(kind: Kind) -> Iterator[Observation]:
    yield _position("hand")
    yield Observation(
        "gripper_opening", "robot", (1,), "1", "tool", (_GRIPPER,), 1, (0.0, 1.0)
    )  # fmt: skip
    for thing in kind.things:
        yield _position(thing.name)
        if thing.body is not None:
            name = f"{thing.name}_quaternion_xyzw"
            yield Observation(name, "robot", (4,), "1", "world_from_body", XYZW, 1, None)
    yield _position("goal")


def _position(name: str) -> Observation:
    clip = (-POINT_CLIP, POINT_CLIP)
    return Observation(f"{name}_position", "robot", (3,), "m", "world", XYZ, 1, clip)
