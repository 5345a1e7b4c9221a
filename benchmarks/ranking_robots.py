"""The experiment of benchmarks/ranking.py: how policies were trained, and on what they are to run.

Training settings are 20 mixtures of five groups of randomisation, each group at some strength.
Robots differ from the model by what is said here and nothing else. Those to choose by and those to
report differ in kind or in size; nothing was tuned on the latter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sim import engines
from sim.draws import Distribution
from sim.randomization_terms import Operation, Spec, Term
from sim.runs import write_atomically

MIXTURES: dict[str, dict[str, float]] = {
    "nothing": {},
    "body": {"body": 1}, "body, wide": {"body": 2},
    "actuators": {"actuators": 1}, "actuators, wide": {"actuators": 2},
    "friction": {"friction": 1}, "friction, wide": {"friction": 2},
    "delay": {"delay": 1}, "delay, wide": {"delay": 2},
    "sensors": {"sensors": 1}, "sensors, wide": {"sensors": 2},
    "body and actuators": {"body": 1, "actuators": 1},
    "actuators and delay": {"actuators": 1, "delay": 1},
    "delay and sensors": {"delay": 1, "sensors": 1},
    "sensors and body": {"sensors": 1, "body": 1},
    "friction and delay": {"friction": 1, "delay": 1},
    "all but delay": {"body": 1, "actuators": 1, "friction": 1, "sensors": 1},
    "all, narrow": dict.fromkeys(("body", "actuators", "friction", "delay", "sensors"), 0.5),
    "all": dict.fromkeys(("body", "actuators", "friction", "delay", "sensors"), 1),
    "all, wide": dict.fromkeys(("body", "actuators", "friction", "delay", "sensors"), 2),
}  # fmt: skip
"""Setting -> group -> strength."""
WIDE = "all, wide"
"""Of a simulation that covers what might be."""


@dataclass(frozen=True)
class Robot:
    """What a policy is to run on, and was not made for."""

    terms: tuple[Term, ...] = ()
    """The same in every episode, but for noise and pushes."""
    engine: str | None = None
    """None: the task's."""
    change: Mapping[str, Any] = field(default_factory=dict)
    """Of the model itself: what no randomisation has."""


@dataclass(frozen=True)
class Experiment:
    """A task with its policies and robots."""

    task: str
    engine: str
    behaviour: str
    """What made the real data, and the references."""
    group: Callable[[str, float], list[Term]]
    """Terms of a group at some strength."""
    model: Callable[[Mapping[str, Any], Path], Path]
    """Writes the robot with some changes into a folder; its YAML."""
    environments: int
    iterations: int
    choosing: Mapping[str, Robot]
    hidden: Mapping[str, Robot]

    def setting(self, name: str) -> Spec:
        """What is randomised in training."""
        mixture = MIXTURES[name].items()
        return Spec(
            tuple(term for group, strength in mixture for term in self.group(group, strength))
        )


def term(
    parameter: str, names: tuple[str, ...], operation: Operation, distribution: Distribution,
    shared: bool = False, interval_s: tuple[float, float] | None = None,
) -> Term:  # fmt: skip
    """Named by its parameter and the first of its names."""
    name = f"{parameter} {names[0]}"
    return Term(name, parameter, names, operation, distribution, shared, interval_s)


def fixed(
    parameter: str, names: tuple[str, ...], operation: Operation, value: float
) -> Term:  # fmt: skip
    """Always this."""
    always: Distribution = {"choice": (value,), "probabilities": (1.0,)}
    return term(parameter, names, operation, always, shared=True)


def uniform(low: float, high: float) -> Distribution:
    return {"uniform": (low, high)}


def about_one(most: float) -> Distribution:
    """As likely from 1 / most to 1 as from 1 to most."""
    return {"log_uniform": (1 / most, most)}


def steps(strength: float) -> Distribution:
    """Of delay: none to 1, 2 or 4, all as likely."""
    most = round(2 * strength)
    return {"choice": tuple(range(most + 1)), "probabilities": (1 / (most + 1),) * (most + 1)}


# The arm.

JOINTS = tuple(f"joint{n}" for n in range(1, 8))
LINKS = tuple(f"link{n}" for n in range(1, 7))
TOOL = ("link7",)
ENCODERS = ("joint_position",)
MEASURED = ("joint_position", "joint_velocity", "hand_position")


def arm_group(group: str, s: float) -> list[Term]:
    """See MIXTURES."""
    return {
        "body": [
            term("mass_and_inertia", LINKS, "scale", about_one(1 + 0.3 * s)),
            term("mass", TOOL, "add", uniform(0.0, 1.0 * s)),
        ],
        "actuators": [
            term("kp", JOINTS, "scale", about_one(1 + 0.5 * s)),
            term("kd", JOINTS, "scale", about_one(1 + 0.5 * s)),
        ],
        "friction": [term("damping", JOINTS, "scale", about_one(1 + 2 * s), shared=True)],
        "delay": [term("actuator_delay", JOINTS, "set", steps(s), shared=True)],
        "sensors": [
            term("observation_noise", ENCODERS, "set", uniform(0.0, 0.01 * s)),
            term("observation_bias", ENCODERS, "set", {"normal": (0.0, 0.01 * s)}),
            term("observation_latency", MEASURED, "set", steps(s / 2), shared=True),
        ],
    }[group]  # fmt: skip


def arm_model(change: Mapping[str, Any], folder: Path) -> Path:
    """The arm with stiction (frictionloss, N m of the large joints) or another gravity."""
    text = engines.ARM.read_text()
    if "stiction_n_m" in change:
        before, after = (
            '<joint type="hinge" damping="1"',
            f'frictionloss="{change["stiction_n_m"]}"',
        )
        text = _replaced(text, before, f"{before} {after}")
    if "gravity" in change:
        before = '<option timestep="0.002"'
        gravity = " ".join(map(str, change["gravity"]))
        text = _replaced(text, before, f'{before} gravity="{gravity}"')
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / engines.ARM.name, text)
    document = yaml.safe_load((CONFIG / "arm_example.yaml").read_text())
    write_atomically(folder / "arm.yaml", yaml.safe_dump(document | {"model": engines.ARM.name}))
    return folder / "arm.yaml"


def _replaced(text: str, before: str, after: str) -> str:
    assert text.count(before) == 1, before
    return text.replace(before, after)


CONFIG = Path(__file__).parents[1] / "config"
LATE_2 = fixed("actuator_delay", JOINTS, "set", 2)
ARM = Experiment(
    "arm-reach", "mujoco", "expert", arm_group, arm_model, environments=128, iterations=200,
    choosing={
        "tool of 1 kg, weak servos": Robot((
            fixed("mass", TOOL, "add", 1.0), fixed("kp", JOINTS, "scale", 0.6),
        )),
        "commands 40 ms late": Robot((LATE_2,)),
        "encoders off by 0.03 rad": Robot((fixed("observation_bias", ENCODERS, "set", 0.03),)),
        "cold gears": Robot((fixed("damping", JOINTS, "scale", 3.0),)),
        "stiction": Robot(change={"stiction_n_m": 1.5}),
        "underdamped servos": Robot((fixed("kd", JOINTS, "scale", 0.4),)),
    },
    hidden={
        "tool of 2 kg": Robot((fixed("mass", TOOL, "add", 2.0),)),
        "heavy links": Robot((fixed("mass_and_inertia", LINKS, "scale", 1.6),)),
        "soft servos": Robot((fixed("kp", JOINTS, "scale", 0.35),)),
        "worn gears": Robot((fixed("damping", JOINTS, "scale", 6.0),)),
        "commands 60 ms late": Robot((fixed("actuator_delay", JOINTS, "set", 3),)),
        "measurements 60 ms late": Robot((fixed("observation_latency", MEASURED, "set", 3),)),
        "encoders off by 0.06 rad": Robot((fixed("observation_bias", ENCODERS, "set", 0.06),)),
        "noisy encoders": Robot((fixed("observation_noise", ENCODERS, "set", 0.03),)),
        "strong stiction": Robot(change={"stiction_n_m": 4.0}),
        "springs in the joints": Robot((fixed("stiffness", JOINTS, "add", 60.0),)),
        "tilted by 20 degrees, late": Robot(
            (LATE_2,), change={"gravity": (3.355, 0.0, -9.218)}
        ),
        "all at once": Robot((
            fixed("mass", TOOL, "add", 0.7), fixed("kp", JOINTS, "scale", 0.6), LATE_2,
            fixed("observation_bias", ENCODERS, "set", 0.03),
        ), change={"stiction_n_m": 1.0}),
        "Genesis, commands 40 ms late": Robot((LATE_2,), engine="genesis"),
        "Genesis, tool of 1 kg, soft servos": Robot((
            fixed("mass", TOOL, "add", 1.0), fixed("kp", JOINTS, "scale", 0.5),
        ), engine="genesis"),
    },
)  # fmt: skip


# The quadrotor.

BODY = ("quadrotor",)
MOTORS = ("front_right", "back_right", "back_left", "front_left")
POSITION, ATTITUDE = ("position_error",), ("rotation_matrix",)
SPEED, RATES = ("linear_velocity_error",), ("angular_velocity",)
ALL = POSITION + ATTITUDE + SPEED + RATES


def quadrotor_group(group: str, s: float) -> list[Term]:
    """See MIXTURES; friction is that of the air: gusts."""
    return {
        "body": [
            term("mass", BODY, "scale", about_one(1 + 0.15 * s)),
            term("inertia", BODY, "scale", about_one(1 + 0.5 * s)),
        ],
        "actuators": [
            # For one step a rotor now and then does as it likes.
            term("random_action", MOTORS, "set", {"choice": (1, 2), "probabilities": (0.5, 0.5)},
                 shared=True, interval_s=(0.4 / s, 1.0 / s)),
        ],
        "friction": [
            term("push", BODY, "set", uniform(-0.01 * s, 0.01 * s), interval_s=(0.2, 0.6))
        ],
        "delay": [term("actuator_delay", MOTORS, "set", steps(s), shared=True)],
        "sensors": [
            term("observation_noise", POSITION + SPEED, "set", uniform(0.0, 0.03 * s)),
            term("observation_noise", RATES, "set", uniform(0.0, 0.2 * s)),
            term("observation_bias", RATES, "set", {"normal": (0.0, 0.1 * s)}),
            term("observation_latency", ALL, "set", steps(s / 2), shared=True),
        ],
    }[group]  # fmt: skip


def quadrotor_model(change: Mapping[str, Any], folder: Path) -> Path:
    """The Crazyflie with some keys multiplied."""
    document = yaml.safe_load((CONFIG / "airframe_example.yaml").read_text())
    for key, factor in change.items():
        value = document[key]
        document[key] = [v * factor for v in value] if isinstance(value, list) else value * factor
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "airframe.yaml", yaml.safe_dump(document))
    return folder / "airframe.yaml"


LATE_1 = fixed("actuator_delay", MOTORS, "set", 1)
QUADROTOR = Experiment(
    "quadrotor", "torch", "zoo:quadrotor", quadrotor_group, quadrotor_model,
    environments=256, iterations=300,
    choosing={
        "payload of 15 %": Robot((fixed("mass", BODY, "scale", 1.15),)),
        "commands 10 ms late": Robot((LATE_1,)),
        "gyroscope off by 0.15 rad/s": Robot((fixed("observation_bias", RATES, "set", 0.15),)),
        "tired battery": Robot(change={"thrust_curve": 0.9}),
        "slow rotors": Robot(change={"rise_time": 1.5}),
        "gusts": Robot((
            term("push", BODY, "set", uniform(-0.015, 0.015), interval_s=(0.2, 0.6)),
        )),
    },
    hidden={
        "payload of 30 %": Robot((fixed("mass", BODY, "scale", 1.3),)),
        "twice the inertia": Robot((fixed("inertia", BODY, "scale", 2.0),)),
        "weak battery": Robot(change={"thrust_curve": 0.8}),
        "rotors half as fast": Robot(change={"rise_time": 2.0, "fall_time": 2.0}),
        "longer arms": Robot(change={"arm": 1.5}),
        "commands 20 ms late": Robot((fixed("actuator_delay", MOTORS, "set", 2),)),
        "measurements 20 ms late": Robot((fixed("observation_latency", ALL, "set", 2),)),
        "gyroscope off by 0.3 rad/s": Robot((fixed("observation_bias", RATES, "set", 0.3),)),
        "attitude off by 0.05": Robot((fixed("observation_bias", ATTITUDE, "set", 0.05),)),
        "noisy gyroscope": Robot((fixed("observation_noise", RATES, "set", 0.6),)),
        "strong gusts": Robot((
            term("push", BODY, "set", uniform(-0.03, 0.03), interval_s=(0.2, 0.6)),
        )),
        "all at once": Robot((
            fixed("mass", BODY, "scale", 1.1), LATE_1,
            fixed("observation_bias", RATES, "set", 0.1),
        ), change={"rise_time": 1.3}),
    },
)  # fmt: skip
EXPERIMENTS = {"arm": ARM, "quadrotor": QUADROTOR}
