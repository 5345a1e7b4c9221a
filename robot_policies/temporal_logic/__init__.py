"""Signal temporal logic: what a robot must do, as text; how robustly it did, as a number.

    signals = {"tilt": "rad", "position_error": "m"}
    text = '''
        always (tilt < 0.6 rad)                                         # never near upside down
        and eventually[0, 5 s](always[0, 1 s](position_error < 0.1 m))  # arrives, and stays
    '''
    specification = parse(text, signals, dt=0.01)
    specification.robustness({"tilt": tilt, "position_error": error}, 1)[:, 0]  # of [B, T]

    monitor = specification.monitor()                                # onboard, one by one
    monitor.update({"tilt": 0.1, "position_error": 0.4})             # None until it can tell

Positive robustness: it holds; negative: it does not; the size says by how much. A comparison's
robustness is its distance from the threshold in shares of a scale, so that metres and radians
can be weighed: of the threshold's size where none is given (`height > 0 m scale 0.1 m`).

    expression              holds at time t where
    SIGNAL < 0.6 rad        so it is; also <=, > and >= (equality does not count); abs(SIGNAL)
    always[a, b s] p        p at all times from t + a to t + b, both included; without []: all
                            that come
    eventually[a, b s] p    p at one of those times
    p until[a, b s] q       q at one of those times, and p at all times from t to before that one
    historically, once, since    the same in the past: from t - b to t - a
    not, and, or, implies   what begins with a word binds first, then until, and, or, implies

Robustness is that of Donze and Maler, 2010 (10.1007/978-3-642-15297-9_9), in discrete time. What
lies beyond a trace's ends neither helps nor harms: `always` asks only for what there is,
`eventually` finds nothing there.
"""

from robot_policies.temporal_logic.formulas import Specification
from robot_policies.temporal_logic.monitor import Monitor
from robot_policies.temporal_logic.parser import parse, read

__all__ = ["Monitor", "Specification", "parse", "read"]
