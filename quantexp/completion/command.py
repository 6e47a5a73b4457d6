"""``python -m quantexp completion SHELL``: prints a script that completes our command line."""

import argparse
import sys
from collections.abc import Sequence
from importlib.resources import files

from quantexp.errors import QuantexpError

SHELLS = {
    "bash": "echo 'eval \"$(python -m quantexp completion bash)\"' >> ~/.bashrc",
    "zsh": "echo 'eval \"$(python -m quantexp completion zsh)\"' >> ~/.zshrc  (after compinit)",
    "fish": "python -m quantexp completion fish > ~/.config/fish/conf.d/quantexp.fish",
}


def main(argv: Sequence[str]) -> int:
    """Prints the script of a shell, or for the script what may stand at a place.

    The latter is ``completion --words WORD…``: one line per candidate for the last word, with a tab
    and what it means where that is known. Wrong input has no candidates and no message.
    """
    if list(argv[:1]) == ["--words"]:
        # here, so that a script is printed without the choices being read
        from quantexp.completion.candidates import candidates

        try:
            for text, meaning in candidates(list(argv[1:])):
                print(f"{text}\t{meaning}" if meaning else text)
        except (OSError, QuantexpError):  # half a plugin, a folder that is gone: nothing to offer
            return 1
        return 0
    shell = parser().parse_args(argv).shell
    sys.stdout.write(files(__package__).joinpath(f"completion.{shell}").read_text("utf-8"))
    if sys.stdout.isatty():
        print(f"for every new shell: {SHELLS[shell]}", file=sys.stderr)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    lines = "\n".join(f"  {shell:<5} {line}" for shell, line in SHELLS.items())
    made = argparse.ArgumentParser(
        "python -m quantexp completion",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Prints a script that completes commands, their options, groups and choices, "
        "keys,\nsweeps and cells, behind `python -m quantexp` and `quantexp`. Once:\n\n" + lines,
        epilog="What it offers comes from the quantexp of the python that is called; ./conf, "
        "./sweeps\nand $QUANTEXP_PLUGINS are read as for a run.",
    )
    made.add_argument("shell", choices=sorted(SHELLS))
    return made
