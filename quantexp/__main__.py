"""The command line: ``python -m quantexp <overrides> [-m]``, and small commands on records.

Nothing heavy is imported before it is known to be needed: ``--help`` takes a moment, not seconds.
"""

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

from quantexp.errors import Detached, QuantexpError, did_you_mean

# Name → module with main(argv) -> exit code, and the line that --help shows.
COMMANDS = {
    "report": ("quantexp.report.cli", "tables of finished cells; --format html: a page"),
    "serve": ("quantexp.report.serve", "the report page in a browser, live while a sweep runs"),
    "figures": ("quantexp.figures.cli", "figures of finished cells: PNG, SVG, PDF"),
    "status": ("quantexp.cluster.status", "what each cell is doing, or why it failed"),
    "sync": ("quantexp.tracking.sync", "uploads to W&B what ran offline"),
    "dashboard": ("quantexp.tracking.dashboard", "a W&B workspace and report for the results"),
    "logs": ("quantexp.cluster.logs", "what a cell's job printed"),
    "cancel": ("quantexp.cluster.cancel", "stops the jobs of a sweep or of a cell"),
    "retry": ("quantexp.cluster.retry", "runs what is missing or failed of a sweep"),
    "doctor": ("quantexp.cluster.doctor", "checks this machine, and the cluster by a short job"),
    "prefetch": (
        "quantexp.prefetch.command",
        "fetches what a sweep needs, so that jobs run offline",
    ),
    "completion": (
        "quantexp.completion.command",
        "completes all this in bash, zsh and fish",
    ),
    "clean": ("quantexp.experiment.clean", "frees the space of quantized checkpoints"),
}
OK, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: Arguments without the program's name; ``None`` takes the process's own.

    Returns:
        The exit code: 0 all done, 1 some cell failed, 2 refused before any work, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except Detached as left:
        print(left)
        return OK
    except QuantexpError as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt as left:
        said = (
            str(left) or "interrupted: finished work is kept; the same command continues from there"
        )
        with suppress(OSError):  # of a terminal that has hung up
            print(f"\n{said}", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as leave:  # argparse of a command
        return leave.code if isinstance(leave.code, int) else FAILED
    except BrokenPipeError:  # `… | head` closed the pipe; nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception:
        traceback.print_exc()
        print("error: this is a fault of quantexp, please report it", file=sys.stderr)
        return FAILED


def _as_ctrl_c(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _dispatch(arguments: list[str]) -> int:
    first = arguments[0] if arguments else ""
    if first in COMMANDS:
        code = importlib.import_module(COMMANDS[first][0]).main(arguments[1:])
        return int(code)
    if {"-h", "--help"} & set(arguments):
        from quantexp.help import text
        from quantexp.plugins import active

        with active.active(active.given(arguments)):
            print(text({name: line for name, (_, line) in COMMANDS.items()}))
        return OK
    if "--version" in arguments:
        from quantexp import __version__

        print(f"quantexp {__version__}")
        return OK
    if first and not first.startswith(("-", "+", "~")) and "=" not in first:
        raise QuantexpError(
            f"'{first}' is neither a command nor an override: "
            f"{did_you_mean(first, COMMANDS)}commands: {', '.join(COMMANDS)}; "
            "overrides look like method=flatquant"
        )
    # A terminated launcher, or one whose terminal hung up, does as with Ctrl-C.
    for name in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(name) != signal.SIG_IGN:  # nohup
            signal.signal(name, _as_ctrl_c)
    from quantexp.application import run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
