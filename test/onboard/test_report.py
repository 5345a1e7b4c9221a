"""A flight's figures, checked on flights whose errors are known by construction."""

import json

import numpy as np
import pytest

from robot_policies import report
from robot_policies.logs import Log, LogError, Topic

MOTORS = ("front_right", "back_right", "back_left", "front_left")
PHASES = {"take-off": 4.0, "hover": 6.0, "figure-eight": 17.0, "push": 5.0}
PUSH_S = 27.0
END_S = 32.0
RATE_HZ = 100.0


def status(name, level=0, message="", **values):
    return {"name": name, "level": level, "message": message, "hardware_id": "", "values": values}


def path(time):
    """The mission: 1 m up, stay, then two figure-eights [T, 3]."""
    angle = 2 * np.pi * np.clip(time - 10, 0, 16) / 8
    return np.stack([np.sin(angle), 0.5 * np.sin(2 * angle), np.clip(time / 4, 0, 1)], axis=1)


def push_error(time):
    """0.3 m that halve every 0.5 s after the push."""
    return np.where(time < PUSH_S, 0.0, 0.3 * 0.5 ** ((time - PUSH_S) / 0.5))


def flight_log(offset=0.03, latency_s=0.002, trips=0, states=("OK",), **replaced):
    """A flight that is `offset` (m) off along x, with one push along y."""
    time = np.arange(0, END_S, 1 / RATE_HZ)
    count = len(time)
    flown = path(time) + np.stack([np.full(count, offset), push_error(time), 0 * time], axis=1)
    level = np.tile([0.0, 0.0, 0.0, 1.0], (count, 1))
    still = np.zeros((count, 3))
    setpoint_time = np.arange(-0.05, END_S + 0.05, 0.02)
    commands = np.full((count, 4), 0.5)
    commands[: count // 10, 0] = 1.0
    wanted = np.gradient(path(setpoint_time), setpoint_time, axis=0)
    starts = np.cumsum([0.0, *PHASES.values()])[:-1]
    reports = np.linspace(0, END_S - 0.1, len(states) + 1)
    diagnostics = [
        [
            status("policy_node", state=state, reason="" if state == "OK" else "stale input"),
            status("guard_node", state="PASSING", reason="", trips=str(trips)),
            status("robot_node", missed_deadlines="3", commands="3200"),
        ]
        for state in (states[0], *states)
    ]
    odometry = {"position": flown, "quaternion_xyzw": level, "linear_velocity": still}
    setpoint = {"position": path(setpoint_time), "linear_velocity": wanted}
    topics = {
        "/odometry": Topic("/odometry", "", time, odometry),
        "/setpoint": Topic("/setpoint", "", setpoint_time, setpoint),
        "/policy/motors": Topic("/policy/motors", "", time + latency_s / 2, {"data": commands}),
        "/motors": Topic("/motors", "", time + latency_s, {"data": commands}, MOTORS),
        "/push": Topic("/push", "", np.array([PUSH_S]), {"force": np.array([[0.0, 0.15, 0.0]])}),
        "/phase": Topic("/phase", "", starts, {"data": list(PHASES)}),
        "/diagnostics": Topic("/diagnostics", "", reports, {"status": diagnostics}),
    }
    return Log(0, {name: t for name, t in (topics | replaced).items() if t is not None})


def test_errors_are_those_that_were_flown():
    flight = report.flight(flight_log(offset=0.03))
    assert [phase.name for phase in flight.phases] == list(PHASES)
    assert flight.hover_error_m == pytest.approx(0.03)
    assert flight.figure_eight_rmse_m == pytest.approx(0.03, abs=1e-3)  # 50 Hz set-points
    assert flight.push_peak_m == pytest.approx(np.hypot(0.03, 0.3))
    crossing = 0.5 * np.log2(0.3 / np.sqrt(0.1**2 - 0.03**2))
    assert flight.push_recovery_s == pytest.approx(crossing, abs=1.1 / RATE_HZ)
    assert flight.ok


def test_latency_counts_from_each_odometry_to_its_first_command():
    flight = report.flight(flight_log(latency_s=0.004))
    by_source = {latency.source: latency for latency in flight.latencies}
    assert by_source["odometry to policy's command, by the log"].p50_ms == pytest.approx(2.0)
    assert by_source["odometry to guard's command, by the log"].p99_ms == pytest.approx(4.0)
    assert (flight.missed_deadlines, flight.commands) == (3, 3200)


def test_saturation_and_states_are_reported():
    flight = report.flight(flight_log(states=("OK", "HOLD", "OK")))
    assert [motor.name for motor in flight.motors] == list(MOTORS)
    assert flight.motors[0].high == pytest.approx(0.1, abs=0.01)
    assert flight.motors[1].high == 0
    policy = [change for change in flight.states if change.node == "policy_node"]
    assert [(change.state, change.reason) for change in policy] == [
        ("OK", ""),
        ("HOLD", "stale input"),
        ("OK", ""),
    ]


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({"offset": 0.08}, "hover error (last 2 s)"),
        ({"offset": 0.12}, "push: recovery"),
        ({"trips": 1}, "guard trips"),
        ({"states": ("OK", "FALLBACK")}, "states of the policy"),
    ],
)
def test_a_flight_that_breaks_a_limit_fails_by_name(changes, failed):
    flight = report.flight(flight_log(**changes))
    assert not flight.ok
    assert failed in {figure.name for figure in flight.figures if figure.passed is False}


def test_what_is_reported_after_the_last_setpoint_is_not_the_flights():
    log = flight_log()
    times, statuses = log["/diagnostics"].time, log["/diagnostics"]["status"]
    late = [status("guard_node", state="TRIPPED", reason="no command", trips="1")]
    after = Topic("/diagnostics", "", np.append(times, END_S + 1), {"status": [*statuses, late]})
    assert report.flight(flight_log(**{"/diagnostics": after})).guard_trips == 0


def test_a_damaged_log_is_no_evidence():
    log = flight_log()
    flight = report.flight(Log(0, log.topics, damage="4096 of 9000 bytes are lost"))
    assert not flight.ok


def test_gaps_in_the_odometry_are_counted():
    whole = flight_log()["/odometry"]
    keep = (whole.time < 12.0) | (whole.time > 12.5)
    fields = {name: values[keep] for name, values in whole.fields.items()}
    cut = Topic("/odometry", "", whole.time[keep], fields)
    odometry = report.flight(flight_log(**{"/odometry": cut})).odometry
    assert odometry.gaps == 1
    assert odometry.longest_gap_s == pytest.approx(0.51, abs=0.02)


def test_a_position_that_is_not_finite_is_counted_and_left_out():
    log = flight_log()
    log["/odometry"]["position"][50:60] = np.nan
    flight = report.flight(log)
    assert flight.odometry.not_finite == 10
    (line,) = [figure for figure in flight.figures if figure.name == "odometry"]
    assert "10 not finite" in line.value
    assert flight.phases[0].rmse_m == pytest.approx(0.03, abs=1e-3)


def test_what_is_demanded_and_not_in_the_log_fails():
    absent = {"/phase": None, "/push": None, "/diagnostics": None, "/motors": None}
    flight = report.flight(flight_log(**absent))
    assert flight.hover_error_m is None and flight.guard_trips is None and flight.phases == ()
    verdicts = flight.to_dict()["verdicts"]
    names = ("hover error (last 2 s)", "guard trips", "states of the policy", "robot")
    assert verdicts == {"log": True} | dict.fromkeys(names, False)
    assert not flight.ok
    assert {f.value for f in flight.figures if f.passed is False} == {"not in the log"}


@pytest.mark.parametrize("position", [None, np.zeros((3, 2)), ["a", "b", "c"]])
def test_odometry_without_positions_is_refused_by_name(position):
    fields = {} if position is None else {"position": position}
    odometry = Topic("/odometry", "", np.arange(3.0), fields)
    with pytest.raises(LogError, match=r"/odometry: expected positions \[T, 3\]"):
        report.flight(flight_log(**{"/odometry": odometry}))


def test_without_a_setpoint_there_is_nothing_to_compare_with():
    with pytest.raises(LogError, match=r"needs /setpoint, found .*/odometry"):
        report.flight(flight_log(**{"/setpoint": None}))


def test_the_report_is_a_json_document():
    document = json.loads(json.dumps(report.flight(flight_log()).to_dict(), allow_nan=False))
    assert document["ok"] is True
    assert document["phases"][1]["name"] == "hover"


def test_the_table_names_figures_limits_and_verdicts():
    from rich.console import Console

    console = Console(width=140)
    with console.capture() as capture:
        console.print(report.flight(flight_log(trips=2)).table())
    (line,) = [line for line in capture.get().splitlines() if "guard trips" in line]
    assert "<= 0" in line and "FAIL" in line


def test_the_page_stands_alone_and_names_every_unit():
    report_page = pytest.importorskip("robot_policies.report_page", exc_type=ImportError)
    log = flight_log(states=("OK", "HOLD <b>", "OK"))
    page = report_page.page(report.flight(log), log)
    assert page.count("<svg") == 7
    for label in ("time (s)", "position error (m)", "(m/s)", "tilt (degrees)", "(ms)", "x (m)"):
        assert label in page
    assert "<script" not in page and "@import" not in page
    assert 'src="' not in page and 'href="http' not in page.replace('xlink:href="#', "")
    assert "HOLD &lt;b&gt;" in page and "HOLD <b>" not in page


def test_a_page_of_a_log_with_odometry_and_setpoint_only():
    report_page = pytest.importorskip("robot_policies.report_page", exc_type=ImportError)
    topics = flight_log().topics
    log = Log(0, {name: topics[name] for name in ("/odometry", "/setpoint")})
    page = report_page.page(report.flight(log), log)
    assert page.count("Not in the log.") == 3
