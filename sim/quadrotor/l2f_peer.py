"""Flies a saved scenario in L2F, the authors' own C++ simulator, for comparison with ours.

L2F is a source-only package (the extra `l2f`, l2f==2.0.18): as shipped its build takes over 13
minutes and 5.6 GB. Under 90 seconds are enough when its source is first trimmed to the batch
sizes 1, 64, 128 and 1024: delete the other vector_factory lines of l2f/interface.cpp and the same
entries of vector_selector in l2f/__init__.py.

It may live in an interpreter of its own. This module therefore needs numpy and l2f alone (to fly
a bundle also onnxruntime and pyyaml, to fly the authors' policy foundation-policy), and exchanges
npz files with the rest:

    python -m sim.quadrotor.l2f_peer replay scenario.npz result.npz   # "action" in the file
    python -m sim.quadrotor.l2f_peer fly scenario.npz result.npz      # "bundle", or the authors'
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

Arrays = Mapping[str, np.ndarray]

GRAVITY = 9.81
EPISODE_STEPS = 500
FINAL_STEPS = 100
SETTLING_STEPS = 100
MAX_FLIGHTS = 1024
POLICY_INPUTS = 22
PREVIOUS_ACTION = slice(18, 22)
_SIGNALS = {
    "position_error": slice(0, 3), "rotation_matrix": slice(3, 12),
    "linear_velocity_error": slice(12, 15), "angular_velocity": slice(15, 18),
}  # fmt: skip
_RAPTOR_LIMITS = (20.0, 2.0, 35.0)
_NO_LIMIT = 1e6  # JSON has no infinity
_XYZW_FROM_WXYZ = [1, 2, 3, 0]
_WXYZ_FROM_XYZW = [3, 0, 1, 2]

_PHYSICAL = (
    "mass", "inertia", "rotor_position", "rotor_direction", "thrust_curve", "torque_constant",
    "rise_time", "fall_time", "force", "uniform_force", "uniform_torque",
)  # fmt: skip

# The published configuration of RAPTOR; the defaults inside the package differ.
_REWARD = {
    "non_negative": False, "scale": 1.0, "constant": 1.5, "termination_penalty": -100.0,
    "position": 1.0, "position_clip": 0.0, "orientation": 0.1, "linear_velocity": 0.0,
    "angular_velocity": 0.0, "linear_acceleration": 0.0, "angular_acceleration": 0.0,
    "action": 0.0, "d_action": 1.0, "position_error_integral": 0.0,
}  # fmt: skip


class Fleet:
    """The N quadrotors of a scenario in L2F's batched simulator.

    `arrays` is what Scenario.arrays() gives. A force that differs between axes goes in as F / m
    added to gravity, which is the same equation: L2F's own disturbance has one mean for all three
    axes. That one pushes where the arrays hold `uniform_force` [N] (N) and `uniform_torque` [N]
    (N m), the same along every axis.

    Raises ImportError where L2F is not installed, ValueError for more quadrotors than it holds.
    """

    def __init__(self, arrays: Arrays) -> None:
        """Set the parameters and the initial state of every quadrotor."""
        l2f = _import_l2f()
        self.count = arrays["mass"].shape[0]
        self._size, self._vector = _smallest_batch(l2f, self.count)
        self._device, self._environment = l2f.Device(), self._vector.VectorEnvironment()
        self._random = self._vector.VectorRng()
        self._vector.initialize_rng(self._device, self._random, 0)
        self._vector.initialize_environment(self._device, self._environment)
        self._parameters = self._make_parameters(l2f, arrays)
        self._state, self._next = self._vector.VectorState(), self._vector.VectorState()
        self._set_state(arrays["state"])

    def state(self) -> np.ndarray:
        """[17, N] in the layout of dynamics.State."""
        return np.array([_state_row(s) for s in self._state.states[: self.count]]).T

    def observation(self) -> np.ndarray:
        """[N, 22] for the policy: position, rotation, velocities, previous raw action."""
        table = np.zeros((self._size, self._environment.OBSERVATION_DIM), np.float32)
        self._vector.observe(
            self._device, self._environment, self._parameters, self._state, table, self._random
        )
        return table[: self.count, :POLICY_INPUTS]

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Advance 10 ms with raw actions [N, 4]; L2F's own reward [N] and termination [N]."""
        padded = np.zeros((self._size, 4), np.float32)
        padded[: self.count] = action
        world = (self._device, self._environment, self._parameters)
        rewards, ended = np.zeros(self._size, np.float32), np.zeros(self._size, bool)
        self._vector.step(*world, self._state, padded, self._next, self._random)
        self._vector.reward(*world, self._state, padded, self._next, rewards, self._random)
        self._vector.terminated(*world, self._next, ended, self._random)
        self._state.assign(self._next)
        return rewards[: self.count], ended[: self.count]

    def advance(self, action: np.ndarray) -> None:
        """Only the equations of motion, for timing; actions [N, 4] where N fills the batch."""
        world = (self._device, self._environment, self._parameters)
        self._vector.step(*world, self._state, action, self._next, self._random)

    def _make_parameters(self, l2f: ModuleType, arrays: Arrays) -> Any:
        environment, nominal = l2f.Environment(), l2f.Parameters()
        l2f.initialize_environment(self._device, environment)
        l2f.initial_parameters(self._device, environment, nominal)
        template = json.loads(l2f.parameters_to_json(self._device, environment, nominal))
        filled = []
        for index in range(self._size):
            text = json.dumps(_describe(template, arrays, min(index, self.count - 1)))
            parameters = l2f.Parameters()
            l2f.parameters_from_json(self._device, environment, text, parameters)
            filled.append(parameters)
        batch = self._vector.VectorParameters()
        batch.parameters = filled
        return batch

    def _set_state(self, table: np.ndarray) -> None:
        # Sampling is what puts the disturbance into the state; the motion is then overwritten.
        self._vector.sample_initial_state(
            self._device, self._environment, self._parameters, self._state, self._random
        )
        states = self._state.states
        for index, state in enumerate(states):
            row = table[:, min(index, self.count - 1)].astype(np.float32)
            state.position = row[0:3]
            state.orientation = row[3:7][_WXYZ_FROM_XYZW]
            state.linear_velocity = row[7:10]
            state.angular_velocity = row[10:13]
            state.rpm = row[13:17]
        self._state.states = states


def version() -> str:
    """The installed version, for example "l2f 2.0.18". Raises ImportError where it is missing."""
    _import_l2f()
    return f"l2f {importlib.metadata.version('l2f')}"


def replay(arrays: Arrays) -> dict[str, np.ndarray]:
    """Apply arrays["action"] [T, N, 4] (raw) to the scenario.

    Returns states [T + 1, 17, N], and L2F's reward [T, N] and terminated [T, N].
    """
    fleet = Fleet(arrays)
    states, rewards, ended = [fleet.state()], [], []
    for action in arrays["action"]:
        reward, terminated = fleet.step(action)
        states.append(fleet.state())
        rewards.append(reward)
        ended.append(terminated)
    return {"state": np.array(states), "reward": np.array(rewards), "terminated": np.array(ended)}


def fly(arrays: Arrays) -> dict[str, np.ndarray]:
    """Fly a policy in the authors' simulator for an episode of 500 steps.

    arrays["bundle"] names a bundle (a path or zoo:NAME), arrays["seed"] its noise; without one
    the authors' numpy policy flies. arrays["limits"] [3] are those of evaluation.Limits, RAPTOR's
    where absent.

    Returns total_reward [N], survived [N], final_distance [N] (m, mean over the last second) and
    tracking_error [N] (m, root mean square after the first second).
    """
    fleet = Fleet(arrays)
    policy = _BundlePolicy(arrays) if "bundle" in arrays else _AuthorsPolicy()
    observation = fleet.observation()
    observation[:, PREVIOUS_ACTION] = 2 * arrays["state"][13:17].T - 1
    policy.reset(observation[:, PREVIOUS_ACTION])
    alive = np.ones(fleet.count, bool)
    total, final, square = np.zeros((3, fleet.count))
    for index in range(EPISODE_STEPS):
        reward, ended = fleet.step(policy.step(observation))
        total += np.where(alive, reward, 0)
        alive &= ~ended
        observation = fleet.observation()
        distance = np.linalg.norm(observation[:, :3], axis=1)
        if index >= EPISODE_STEPS - FINAL_STEPS:
            final += distance / FINAL_STEPS
        if index >= SETTLING_STEPS:
            square += distance**2 / (EPISODE_STEPS - SETTLING_STEPS)
    figures = {"total_reward": total, "survived": alive, "final_distance": final}
    return figures | {"tracking_error": np.sqrt(square)}


class _Policy(Protocol):
    def reset(self, previous_action: np.ndarray) -> None:
        """Begin N episodes; the previous action is raw, [N, 4]."""
        ...

    def step(self, observation: np.ndarray) -> np.ndarray:
        """Observations [N, 22] in, raw actions [N, 4] out."""
        ...


class _AuthorsPolicy:
    """The numpy policy of the package foundation-policy."""

    def __init__(self) -> None:
        from foundation_policy import Raptor

        self._network: Any = Raptor()

    def reset(self, previous_action: np.ndarray) -> None:
        self._network.reset()

    def step(self, observation: np.ndarray) -> np.ndarray:
        return self._network.evaluate_step(observation)


class _BundlePolicy:
    """A bundle, which keeps its previous action itself."""

    def __init__(self, arrays: Arrays) -> None:
        from robot_policies import load_policy

        self._policy = load_policy(str(arrays["bundle"]))
        self._seed = int(arrays.get("seed", 0))

    def reset(self, previous_action: np.ndarray) -> None:
        initial = {"previous_action": previous_action}
        self._policy.reset(len(previous_action), self._seed, initial)

    def step(self, observation: np.ndarray) -> np.ndarray:
        self._policy.step({name: observation[:, rows] for name, rows in _SIGNALS.items()})
        return self._policy.last.raw_action[:, 0]


def measure(arrays: Arrays) -> dict[str, np.ndarray]:
    """Time L2F's step alone for this scenario: env-steps per second [7 repeats] of 0.2 s."""
    fleet = Fleet(arrays)
    action = np.zeros((fleet.count, 4), np.float32)
    rates = []
    for _ in range(7):
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < 0.2:
            fleet.advance(action)
            count += fleet.count
        rates.append(count / (time.perf_counter() - started))
    return {"rate": np.array(rates)}


def run(task: str, arrays: Arrays, python: Path | None) -> dict[str, np.ndarray]:
    """`replay`, `fly` or `measure` in another interpreter; in this one where `python` is None.

    The other interpreter gets one thread. The result also holds `version`. Raises ImportError
    where L2F is missing, ValueError with the other interpreter's message when that fails.
    """
    if python is None:
        return {"version": np.array(version()), **_TASKS[task](arrays)}
    executable = shutil.which(python)
    if executable is None:
        raise ValueError(f"l2f python: expected an executable Python, found none at {python}")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "scenario.npz"), Path(folder, "result.npz")
        np.savez(source, **arrays)  # pyright: ignore[reportArgumentType]
        command = [os.path.abspath(executable), "-m", __name__, task, str(source), str(target)]
        done = subprocess.run(
            command, cwd=Path(__file__).parents[2], env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise ValueError(f"{python} could not run {task} in L2F: {done.stderr.strip()}")
        with np.load(target) as stored:
            return {name: stored[name] for name in stored.files}


_TASKS = {"replay": replay, "fly": fly, "measure": measure}


def _import_l2f() -> ModuleType:
    try:
        import l2f  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "l2f: expected L2F 2.0.18 in this Python; it is not installed. `pip install "
            "l2f==2.0.18` (the extra l2f) builds it in over 13 minutes and 5.6 GB, or in 90 "
            "seconds when trimmed first as sim/quadrotor/l2f_peer.py describes; or name a Python "
            "that has it with --l2f-python"
        ) from error
    return l2f


def _smallest_batch(l2f: ModuleType, count: int) -> tuple[int, Any]:
    sizes = [size for size in sorted(l2f.vector_selector) if size >= count]
    if not sizes:
        largest = max(l2f.vector_selector)
        raise ValueError(f"l2f: expected at most {largest} quadrotors at once, found {count}")
    return sizes[0], l2f.vector_selector[sizes[0]]


def _state_row(state: Any) -> np.ndarray:
    orientation = np.array(state.orientation)[_XYZW_FROM_WXYZ]
    moving = (state.linear_velocity, state.angular_velocity, state.rpm)
    return np.concatenate([state.position, orientation, *moving])


def _describe(template: dict[str, Any], arrays: Arrays, index: int) -> dict[str, Any]:
    """L2F's JSON for quadrotor `index`, RAPTOR's reward, the limits, no randomness."""
    one = {name: arrays[name][..., index].astype(float) for name in _PHYSICAL if name in arrays}
    arms, velocity, rate = (float(limit) for limit in arrays.get("limits", _RAPTOR_LIMITS))
    limits = {
        "position_threshold": arms * float(np.linalg.norm(one["rotor_position"], axis=1).max()),
        "linear_velocity_threshold": velocity,
        "angular_velocity_threshold": rate,
    }
    limits = {name: min(limit, _NO_LIMIT) for name, limit in limits.items()}
    force, torque = (float(one.get(f"uniform_{name}", 0)) for name in ("force", "torque"))
    mdp = template["mdp"] | {
        "reward": _REWARD,
        "termination": template["mdp"]["termination"] | limits,
    }
    return template | {
        "dynamics": template["dynamics"] | _dynamics(one),
        "mdp": mdp,
        "disturbances": {
            "random_force": {"mean": force, "std": 0},
            "random_torque": {"mean": torque, "std": 0},
        },
    }


def _dynamics(one: dict[str, np.ndarray]) -> dict[str, Any]:
    upward = [[0, 0, 1]] * 4
    gravity = one["force"] / one["mass"] - [0, 0, GRAVITY]
    return {
        "rotor_positions": one["rotor_position"].tolist(),
        "rotor_thrust_directions": upward,
        "rotor_torque_directions": [[0, 0, float(sign)] for sign in one["rotor_direction"]],
        "rotor_thrust_coefficients": one["thrust_curve"].tolist(),
        "rotor_torque_constants": one["torque_constant"].tolist(),
        "rotor_time_constants_rising": one["rise_time"].tolist(),
        "rotor_time_constants_falling": one["fall_time"].tolist(),
        "mass": float(one["mass"]),
        "gravity": gravity.tolist(),
        "J": np.diag(one["inertia"]).tolist(),
        "J_inv": np.diag(1 / one["inertia"]).tolist(),
    }


def main(arguments: list[str]) -> int:
    """Command line: replay|fly|measure INPUT.npz OUTPUT.npz."""
    if len(arguments) != 3 or arguments[0] not in _TASKS:
        print(f"usage: python -m sim.quadrotor.l2f_peer {'|'.join(_TASKS)} INPUT.npz OUTPUT.npz")
        return 2
    task, source, target = arguments
    try:
        with np.load(source) as stored:
            arrays = {name: stored[name] for name in stored.files}
        np.savez(target, **run(task, arrays, None))  # pyright: ignore[reportArgumentType]
    except (ImportError, OSError, ValueError, KeyError) as error:
        print(f"l2f_peer: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
