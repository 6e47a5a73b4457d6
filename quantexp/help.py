"""The text of ``--help``; the choices are read from conf/'s file names, so it cannot go stale."""

import textwrap
from collections.abc import Mapping

from quantexp.grid.files import descriptions
from quantexp.resources import GROUPS, choices

MEANING = {
    "model": "which checkpoint",
    "method": "how it is quantized",
    "bits": "precision of weights, activations, keys, values",
    "data": "calibration text",
    "evaluation": "what is measured",
    "protocol": "how numbers are made comparable",
    "cluster": "where jobs run",
    "tracker": "mirror of the records",
}

_TEXT = """\
quantexp: experiments in post-training quantization of large language models

  python -m quantexp method=flatquant bits=w4a4
      one experiment (a cell), here and now
  python -m quantexp method=rtn,flatquant bits=w4a4 -m
      a grid: every combination of the comma lists, and the unquantized baseline to compare with
  python -m quantexp sweep=flatquant_table1 model=demo
      a named sweep; overrides apply to all of its cells

The same command again runs only what is missing or failed. Without overrides the embedded demo
model is rounded to w4a4: no network, no download.

Choices (GROUP=CHOICE, or GROUP=A,B with -m):
{groups}

Sweeps (sweep=NAME):
{sweeps}

Any single value: KEY=VALUE with dots, e.g. bits.weight.group_size=32 method.epochs=5
  model=local model.path=FOLDER          your checkpoint     model=hf model.path=ORG/NAME
  data=local data.path=FILE              your calibration text (.txt, .jsonl, or token ids .json)
  evaluation=local evaluation.path=FILE  perplexity on your text
  rounding=rtn|gptq   seed=0   keep=checkpoint|records   name=SWEEP   paths.outputs=FOLDER

Commands (each has --help):
{commands}

Options:
  -m, --multirun  run a grid          --cfg job  print the composed configuration
  --dry-run       print the plan and start nothing (with --json: for programs)
  -h, --help      this text           --version  print the version

Results are JSON files under ./outputs (or $QUANTEXP_OUTPUTS, or paths.outputs=FOLDER).
A folder ./conf with the same groups adds your own choices, ./sweeps your own sweeps.
plugins=[FOLDER] adds methods of your own (NAME.py and NAME.yaml each, see CONTRIBUTING.md).
Exit code: 0 all done, 1 a cell failed, 2 refused before any work, 130 interrupted."""


def text(commands: Mapping[str, str]) -> str:
    """The whole help text.

    Args:
        commands: Name → one line, for every subcommand.
    """
    groups = []
    for group in GROUPS:
        groups.append(f"  {group + '=':<12}{MEANING[group]}")
        groups += textwrap.wrap(
            " ".join(choices(group)), 98, initial_indent=" " * 14, subsequent_indent=" " * 14
        )
    lines = (f"  {name:<12}{line}" for name, line in commands.items())
    sweeps = []
    for name, line in descriptions().items():
        sweeps += textwrap.wrap(
            line, 98, initial_indent=f"  {name:<28}", subsequent_indent=" " * 30
        )
    return _TEXT.format(
        groups="\n".join(groups), sweeps="\n".join(sweeps), commands="\n".join(lines)
    )
