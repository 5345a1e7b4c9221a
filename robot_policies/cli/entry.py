"""From arguments to an exit code: the subcommands, what they print, and failures in words."""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, OmitSubcommandPrefixes

from robot_policies.cli.bundles import Doctor, Export, Import, Sign, Verify
from robot_policies.cli.calibrate import Calibrate
from robot_policies.cli.collect import Collect
from robot_policies.cli.command import (
    BAD_INPUT,
    INTERNAL,
    INTERRUPTED,
    NOBODY_READS,
    REFUSED,
    Command,
    Outcome,
    bullets,
)
from robot_policies.cli.evaluate import Evaluate
from robot_policies.cli.rank import Rank
from robot_policies.cli.train import Train
from robot_policies.strict import ContractError, InputError

if TYPE_CHECKING:
    from rich.console import RenderableType

EXTRAS = {
    "cryptography": "sign", "mcap": "logs", "mcap_ros2": "logs", "matplotlib": "logs",
    "ray": "ray", "stable_baselines3": "sac", "l2f": "l2f",
}  # fmt: skip
"""Which extra brings a package, where it is not the one that trains and exports."""
DEBUG = "ROBOT_POLICIES_DEBUG"

Subcommand = (
    Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
    | Annotated[Sign, tyro.conf.subcommand("sign")]
    | Annotated[Collect, tyro.conf.subcommand("collect")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Calibrate, tyro.conf.subcommand("calibrate")]
    | Annotated[Rank, tyro.conf.subcommand("rank")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    command: Command = tyro.cli(
        Subcommand,  # type: ignore[arg-type]
        prog="robot-policies",
        description="Make, check and sign bundles of robot policies.",
        args=arguments,
        config=(OmitSubcommandPrefixes, OmitArgPrefixes, FlagCreatePairsOff),
    )
    failed = False
    try:
        with redirect_stdout(sys.stderr), warnings.catch_warnings():
            # Warnings of libraries tell users nothing that they could mend.
            warnings.simplefilter("default" if DEBUG in os.environ else "ignore")
            outcome = command.run()
    except (Exception, KeyboardInterrupt) as error:
        outcome, failed = _failure(error), True
    try:
        if command.json:
            print(json.dumps(outcome.document, indent=1, default=str), flush=True)
        else:
            _show(outcome.shown, to_stderr=failed)
    except BrokenPipeError:
        # What is still in the buffer would fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOBODY_READS
    return outcome.code


def _failure(error: BaseException) -> Outcome:
    """Say what went wrong in words; the traceback is for those who ask for it."""
    if DEBUG in os.environ:
        traceback.print_exception(error)
    if isinstance(error, ContractError):
        listed = {"violations": [vars(violation) for violation in error.violations]}
        code = BAD_INPUT if isinstance(error, InputError) else REFUSED
        return Outcome(code, {"ok": False} | listed, bullets(error.violations))
    if isinstance(error, KeyboardInterrupt):
        return _error(INTERRUPTED, "interrupted")
    if isinstance(error, ModuleNotFoundError):
        if error.name is None:
            return _error(BAD_INPUT, str(error))
        extra = EXTRAS.get(error.name.split(".")[0], "train")
        mend = f"pip install '.[{extra}]' in the checkout"
        return _error(BAD_INPUT, f"the package {error.name} is not installed; {mend}")
    # FloatingPointError: a training run that diverged.
    if isinstance(error, OSError | ValueError | FloatingPointError):
        return _error(BAD_INPUT, str(error))
    text = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    ask = f"report it with `robot-policies doctor --json` and what {DEBUG}=1 prints"
    return _error(INTERNAL, f"internal error: {text}; {ask}, to the maintainers (setup.py)")


def _error(code: int, text: str) -> Outcome:
    return Outcome(code, {"ok": False, "error": text}, [f"error: {text}"])


def _show(items: Sequence[RenderableType], to_stderr: bool) -> None:
    from rich.console import Console

    class PlainConsole(Console):
        def on_broken_pipe(self) -> None:  # rich itself would end with the code of a failed gate
            raise BrokenPipeError

    # Without emoji: ":x:" in a name is what it is.
    console = PlainConsole(stderr=to_stderr, highlight=False, soft_wrap=True, emoji=False)
    for item in items:
        console.print(item, markup=False)
