"""Engines: MuJoCo against MuJoCo itself, Genesis against MuJoCo, refusals."""

import importlib
import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch

from robot_policies.strict import InputError
from sim import engines, tasks
from sim.channels import ActionChannel, ObservationChannel
from sim.engines import ARM, ARM_PUSH
from sim.randomization import Randomization
from sim.randomization_terms import Spec, load

EXAMPLE = Path(__file__).parents[2] / "config" / "randomization_example.yaml"
N = 8
ALL = np.arange(N)
BENT = np.tile([0.0, 0.5, 0.0, 1.5, 0.0, 0.8, 0.0], (N, 1))
STILL = np.zeros((N, 7))
IN_THE_AIR = np.tile([1.0, 0.5, 2.0], (N, 1, 1))


def mujoco_engine(path=ARM_PUSH, **changes):
    options = {"count": N, "timestep": 0.002, "substeps": 10, "threads": 1} | changes
    return engines.create("mujoco", path, **options)


@pytest.fixture(scope="module")
def genesis():
    """One scene for all tests: to build it takes seconds, for the first time on a machine more."""
    if importlib.util.find_spec("genesis") is None:  # to import it is for the engine: see there
        pytest.skip("needs the extra train")
    return engines.create("genesis", ARM_PUSH, N, timestep=0.002, substeps=10, threads=1)


@pytest.fixture(params=["mujoco", "genesis"])
def engine(request):
    if request.param == "genesis":
        engine = request.getfixturevalue("genesis")
        restore(engine)
    else:
        engine = mujoco_engine()
    engine.reset(ALL, BENT, STILL, IN_THE_AIR)
    return engine


def restore(engine):
    """Nominal parameters again."""
    for parameter in engine.capabilities:
        kind = {"friction": "geoms", "kp": "actuators", "kd": "actuators"}.get(parameter)
        kind = kind or ("joints" if parameter in JOINT_VALUES else "bodies")
        names = engine.names(kind)
        nominal = engine.nominal(parameter, names)
        engine.set(parameter, names, ALL, np.repeat(nominal[None], N, 0))


def smooth_targets(step, period=100):
    """From where it stands, every environment its own way: [N, 7]."""
    turn = 1 - np.cos(2 * np.pi * step / period)
    return BENT + 0.1 * turn * np.sin(1 + np.arange(7 * N)).reshape(N, 7)


def randomized(engine, *, seed=0, only=None):
    """The example on an engine; the task's own channels take their part."""
    spec = load(EXAMPLE)
    if only is not None:
        spec = Spec(tuple(term for term in spec.terms if only(term)))
    signals = {"joint_position": 7, "joint_velocity": 7}
    observation = ObservationChannel(signals, N, seed, spec.longest("observation_latency"))
    action = ActionChannel(engine.names("actuators"), N, spec.longest("actuator_delay"))
    return Randomization(spec, seed, N, [engine, observation, action])


# The model.


def test_the_arm_has_the_size_and_mass_of_a_franka():
    engine = mujoco_engine(ARM)
    assert engine.names("joints") == engine.names("actuators")
    assert engine.names("joints") == tuple(f"joint{i}" for i in range(1, 8))
    assert 17 < engine.nominal("mass", engine.names("bodies")).sum() < 20
    engine.reset(ALL, STILL, STILL)
    assert engine.read("site_position", ["hand"])[0, 0] == pytest.approx([0, 0, 1.23])
    assert engine.model.mj.nmesh == 0


def test_parameters_are_named_and_have_the_values_in_the_file(engine):
    assert engine.names("free_bodies") == ("box",)
    assert engine.names("propellers") == ()
    assert engine.nominal("kp", ["joint1", "joint7"]).tolist() == [2000, 800]
    assert engine.nominal("kd", ["joint1"]).tolist() == [200]
    assert engine.nominal("mass", ["box"]).tolist() == [0.5]
    assert engine.nominal("inertia", ["box", "link1"]).shape == (2, 3)
    assert engine.nominal("push", ["box"]).tolist() == [[0, 0, 0]]


# MuJoCo, against a loop over MjData.


def run_alone(model, state, steps=3, substeps=10):
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = state
    for step in range(steps):
        data.ctrl[:] = smooth_targets(step)[1]
        for _ in range(substeps):
            mujoco.mj_step(model, data)
    return data


def start(engine):
    mj = engine.model.mj
    qpos, qvel = mj.qpos0.copy(), np.zeros(mj.nv)
    qpos[:7] = BENT[1]
    return qpos, qvel


def test_mujoco_steps_as_mujoco_does():
    engine = mujoco_engine()
    engine.reset(ALL, BENT, STILL)
    for step in range(3):
        engine.step(smooth_targets(step))
    alone = run_alone(engine.model.mj, start(engine))
    np.testing.assert_array_equal(engine.read("joint_position")[1], alone.qpos[:7])
    np.testing.assert_array_equal(engine.read("joint_velocity")[1], alone.qvel[:7])
    mujoco.mj_forward(engine.model.mj, alone)  # poses now, not a substep ago
    np.testing.assert_array_equal(engine.read("body_position")[1], alone.xpos[1:])
    hand = engine.read("site_position", ["hand"])[1, 0]
    np.testing.assert_allclose(hand, alone.site_xpos[0], rtol=0, atol=1e-12)


BODY_VALUES = {
    "mass": (["link5", "box"], "body_mass", np.array([3.0, 2.0])),
    "inertia": (["link5"], "body_inertia", np.array([[0.03, 0.03, 0.01]])),
    "centre_of_mass": (["link5", "box"], "body_ipos", np.array([[0.02, 0, -0.1], [0.01, 0, 0]])),
}
JOINT_VALUES = {
    "damping": ("dof_damping", 4.0),
    "armature": ("dof_armature", 0.3),
    "stiffness": ("jnt_stiffness", 50.0),
}


@pytest.mark.parametrize("parameter", BODY_VALUES)
def test_mujoco_takes_a_body_for_what_it_was_set_to(parameter):
    names, field, values = BODY_VALUES[parameter]
    engine = mujoco_engine()
    engine.set(parameter, names, np.array([1]), values[None])
    expected = engine.model.mj.__copy__()
    getattr(expected, field)[engine.model.ids("bodies", names)] = values
    check_against(expected, engine)


@pytest.mark.parametrize("parameter", JOINT_VALUES)
def test_mujoco_takes_a_joint_for_what_it_was_set_to(parameter):
    field, value = JOINT_VALUES[parameter]
    engine = mujoco_engine()
    engine.set(parameter, ["joint2", "joint4"], np.array([1]), np.array([[value, 2 * value]]))
    expected = engine.model.mj.__copy__()
    getattr(expected, field)[[1, 3]] = [value, 2 * value]
    check_against(expected, engine)


def test_mujoco_takes_a_servo_for_what_it_was_set_to():
    engine = mujoco_engine()
    engine.set("kp", ["joint4"], np.array([1]), np.array([[500.0]]))
    engine.set("kd", ["joint4"], np.array([1]), np.array([[60.0]]))
    expected = engine.model.mj.__copy__()
    expected.actuator_gainprm[3, 0] = 500
    expected.actuator_biasprm[3, 1:3] = -500, -60
    check_against(expected, engine)


def check_against(model, engine):
    """Environment 1 moves as `model` does alone; 0 as if nothing had been set."""
    mujoco.mj_setConst(model, mujoco.MjData(model))
    nominal = mujoco_engine()
    for one in (engine, nominal):
        one.reset(ALL, BENT, STILL)
        for step in range(3):
            one.step(smooth_targets(step))
    qpos = engine._batch.qpos
    np.testing.assert_array_equal(qpos[0], nominal._batch.qpos[0])
    np.testing.assert_array_equal(qpos[1], run_alone(model, start(engine)).qpos)
    assert not np.array_equal(qpos[1], nominal._batch.qpos[1])


def test_the_number_of_threads_changes_nothing():
    found = []
    for threads in (1, 2):
        engine = mujoco_engine(threads=threads)
        randomized(engine).reset(ALL, 0)
        engine.reset(ALL, BENT, STILL)
        for step in range(5):
            engine.step(smooth_targets(step))
        found.append(engine.read("joint_position"))
    np.testing.assert_array_equal(*found)


def test_mujoco_runs_without_torch():
    code = (
        "import sys; from sim import engines; "
        "engines.create('mujoco', engines.ARM, 1, timestep=0.002, substeps=1, threads=1); "
        "print(sorted({'torch', 'genesis'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Every engine.


def test_poses_are_where_the_joints_put_them(engine):
    yaw = BENT.copy()
    yaw[:, 0] = np.pi / 2
    engine.reset(ALL[2:], yaw[2:], STILL[2:], IN_THE_AIR[2:])
    hand = engine.read("site_position", ["hand"])[:, 0]
    assert hand[0] == pytest.approx([0.5667, 0, 0.2649], abs=1e-4)
    assert hand[0, :2] == pytest.approx([hand[2, 1], 0], abs=1e-5)
    assert hand[2, 0] == pytest.approx(0, abs=1e-5)
    turned = engine.read("body_quaternion_xyzw", ["link1"])[:, 0]
    assert abs(turned[0]) == pytest.approx([0, 0, 0, 1], abs=1e-6)
    assert abs(turned[2]) == pytest.approx([0, 0, 0.5**0.5, 0.5**0.5], abs=1e-6)
    site = engine.read("site_quaternion_xyzw", ["hand"])
    np.testing.assert_allclose(site, engine.read("body_quaternion_xyzw", ["link7"]), atol=1e-6)


def test_a_push_changes_momentum_during_one_step_only(engine):
    engine.set("push", ["box"], ALL[:1], np.array([[[0.2, 0.0, 0.0]]]))
    x = []
    for _ in range(3):
        engine.step(BENT)
        x.append(engine.read("body_position", ["box"])[:, 0, 0])
    speed = np.diff(x, axis=0) / engine.control_period_s
    assert speed[:, 0] == pytest.approx([0.2 / 0.5, 0.2 / 0.5], rel=1e-3)
    assert speed[:, 1] == pytest.approx([0, 0], abs=1e-5)


def test_a_reset_forgets_everything_but_parameters(engine):
    def run():
        engine.reset(ALL[:4], BENT[:4], STILL[:4], IN_THE_AIR[:4])
        for step in range(4):
            engine.step(smooth_targets(step))
        return engine.read("joint_position")[:4]

    first = run()
    engine.set("push", ["link5"], ALL, np.ones((N, 1, 3)))
    np.testing.assert_array_equal(run(), first)


def test_a_diverged_environment_is_named_and_the_others_go_on(engine):
    fast = STILL.copy()
    fast[3] = 1e30
    engine.reset(ALL, BENT, fast, IN_THE_AIR)
    for step in range(12):
        engine.step(smooth_targets(step))
    assert engine.diverged().tolist() == [3]
    found = engine.read("joint_position")
    engine.reset(np.array([3]), BENT[3:4], STILL[3:4], IN_THE_AIR[3:4])
    assert engine.diverged().tolist() == []
    assert engine.read("joint_position")[3] == pytest.approx(BENT[3], abs=1e-6)
    engine.reset(ALL, BENT, STILL, IN_THE_AIR)
    for step in range(12):
        engine.step(smooth_targets(step))
    others = ALL[ALL != 3]
    np.testing.assert_array_equal(engine.read("joint_position")[others], found[others])


def test_the_box_comes_to_rest_on_the_floor(engine):
    engine.reset(ALL, BENT, STILL, np.tile([1.0, 0.5, 0.05], (N, 1, 1)))
    for _ in range(50):
        engine.step(BENT)
    height = engine.read("body_position", ["box"])[:, 0, 2]
    assert height == pytest.approx(np.full(N, 0.03), abs=2e-3)


def test_commands_are_limited_to_the_range_in_the_file(engine):
    far = BENT.copy()
    far[:4, 6] = 9.0  # beyond 2.9
    far[4:, 6] = 2.9
    for _ in range(3):
        engine.step(far)
    position = engine.read("joint_position", ["joint7"])[:, 0]
    np.testing.assert_allclose(position[:4], position[4:], rtol=0, atol=1e-6)


# Genesis against MuJoCo.


def test_both_engines_get_the_same_draws(genesis):
    drawn = [randomized(e, seed=3).reset(ALL, 7) for e in (mujoco_engine(), genesis)]
    assert drawn[0].keys() == drawn[1].keys()
    for term, values in drawn[0].items():
        np.testing.assert_array_equal(values, drawn[1][term])


def test_genesis_takes_every_value_that_was_drawn(genesis):
    randomization = randomized(genesis, seed=4)
    told = randomization.values(randomization.reset(ALL, 0))
    terms = {term.name: term for term in load(EXAMPLE).terms}
    for name, parameters in told.items():
        for parameter, values in parameters.items():
            if parameter in genesis.capabilities:
                found = genesis.current(parameter, terms[name].names)
                np.testing.assert_allclose(found, values, rtol=2e-6, atol=1e-7)


def test_genesis_derives_what_contacts_need_from_new_parameters(genesis):
    restore(genesis)
    genesis.step(BENT)
    solver, link = genesis._solver, genesis._map.link[genesis.model.ids("bodies", ["link7"])]
    before = solver.get_links_invweight(link)
    heavy = np.full((3, 1), 3 * genesis.nominal("mass", ["link7"])[0])
    genesis.set("mass", ["link7"], ALL[:3], heavy)
    genesis.step(BENT)
    ours = solver.get_links_invweight(link)
    assert (ours[:3] < 0.99 * before[:3]).all()
    np.testing.assert_array_equal(ours[3:], before[3:])
    solver.set_links_mass(torch.tensor(heavy, dtype=torch.float32), link.tolist(), ALL[:3])
    np.testing.assert_allclose(ours, solver.get_links_invweight(link), rtol=1e-4)


def test_torch_can_still_compile_where_genesis_runs(genesis):
    importlib.import_module("torch.utils.cpp_extension")


@pytest.mark.parametrize("with_randomization", [False, True])
def test_both_engines_move_alike_without_contact(genesis, with_randomization):
    restore(genesis)
    found = []
    for engine in (mujoco_engine(), genesis):
        if with_randomization:
            randomized(engine, seed=5).reset(ALL, 0)
        engine.reset(ALL, BENT, STILL, IN_THE_AIR)
        path = []
        for step in range(25):
            engine.step(smooth_targets(step))
            path.append(engine.read("joint_position"))
        found.append(np.stack(path))
    assert np.abs(found[0] - BENT).max() > 0.01
    np.testing.assert_allclose(*found, rtol=0, atol=1e-5)


# Refusals.


def test_an_unknown_engine_or_device_is_refused():
    with pytest.raises(ValueError, match="expected one of mujoco, genesis; found bullet"):
        engines.create("bullet", ARM, 1, timestep=0.002, substeps=1, threads=1)
    with pytest.raises(ValueError, match="expected cpu"):
        engines.create("mujoco", ARM, 1, timestep=0.002, substeps=1, threads=1, device="gpu")
    with pytest.raises(ValueError, match="count >= 1"):
        mujoco_engine(count=0)
    with pytest.raises(ValueError, match="threads"):
        mujoco_engine(threads=0)


def test_a_parameter_that_an_engine_lacks_is_refused_with_those_that_have_it(monkeypatch):
    monkeypatch.setitem(engines.ENGINES, "mujoco", frozenset({"mass"}))
    engine = mujoco_engine()
    with pytest.raises(ValueError, match=r"found kp\. Engines that have it: genesis"):
        engine.set("kp", ["joint1"], ALL, np.ones((N, 1)))
    with pytest.raises(ValueError, match=r"found actuator_delay\. Engines that have it: none"):
        engine.nominal("actuator_delay", ["joint1"])
    kp = next(term for term in load(EXAMPLE).terms if term.parameter == "kp")
    with pytest.raises(InputError, match="engines that have it: genesis"):
        Randomization(Spec((replace(kp, interval_s=None),)), 0, N, [engine])


def test_a_task_runs_on_genesis_as_on_mujoco(genesis, monkeypatch):
    """With an engine that is built already: a build takes minutes where nothing is cached."""
    restore(genesis)
    given = {"count": N, "seed": 0, "threads": 1, "randomization": load(EXAMPLE)}
    both = [tasks.make("arm-push", engine="mujoco", **given)]
    monkeypatch.setattr(engines, "create", lambda *_, **__: genesis)
    both.append(tasks.make("arm-push", engine="genesis", **given))
    for task in both:
        task.reset(seed=0)
    for _ in range(20):
        told = [task.step(np.full((N, 7), 0.1, np.float32))[0] for task in both]
    np.testing.assert_array_equal(both[0].parameters, both[1].parameters)
    np.testing.assert_allclose(told[0]["policy"], told[1]["policy"], atol=2e-3)


def test_unknown_names_and_impossible_values_are_refused(engine):
    with pytest.raises(ValueError, match=r"such as link5.*found link55"):
        engine.nominal("mass", ["link55"])
    with pytest.raises(ValueError, match=r"above zero; found .* from -1"):
        engine.set("mass", ["link5"], ALL, np.full((N, 1), -1.0))
    with pytest.raises(ValueError, match=r"environments 0 to 7; found .8"):
        engine.set("mass", ["link5"], np.array([8]), np.ones((1, 1)))
    with pytest.raises(ValueError, match="expected one of joint_position"):
        engine.read("joint_torque")


def test_commands_and_states_of_other_shapes_or_not_finite_are_refused(engine):
    with pytest.raises(ValueError, match=r"\[8, 7\]; found \[7, 8\]"):
        engine.step(BENT.T)
    bad = BENT.copy()
    bad[5, 0] = np.nan
    with pytest.raises(ValueError, match=r"finite numbers; found others in rows \[5\]"):
        engine.step(bad)
    with pytest.raises(ValueError, match="finite"):
        engine.reset(ALL, bad, STILL)


@pytest.mark.parametrize(
    ("inside", "complaint"),
    [
        ("<joint name='j'/>", "found spin; use <position>"),
        ("<joint name='j' type='ball'/>", "found j, mjJNT_BALL"),
        ("<joint name='j'/><geom size='0.1' shape='x'/>", "expected an MJCF model"),
    ],
)
def test_a_model_that_engines_cannot_simulate_is_refused(tmp_path, inside, complaint):
    path = tmp_path / "robot.xml"
    motor = "<motor name='spin' joint='j'/>"
    body = f"<body name='b'>{inside}<geom size='0.1'/></body>"
    path.write_text(f"<mujoco><worldbody>{body}</worldbody><actuator>{motor}</actuator></mujoco>")
    with pytest.raises(InputError, match=complaint):
        mujoco_engine(path)


def test_a_missing_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected an MJCF file"):
        mujoco_engine(tmp_path / "none.xml")
