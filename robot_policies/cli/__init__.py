"""The command robot-policies: every subcommand is a frozen dataclass, and imports late.

Exit codes: 0 pass, 1 a gate fails, 2 usage or bad input, 3 contract refused, 70 internal error,
130 interrupted, 141 nobody reads the output any more.
Standard output carries the result (with --json ONE document), standard error all the rest.
"""

from robot_policies.cli.entry import main

__all__ = ["main"]
