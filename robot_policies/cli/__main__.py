"""`python -m robot_policies.cli`, where no script is installed."""

import sys

from robot_policies.cli import main

if __name__ == "__main__":
    sys.exit(main())
