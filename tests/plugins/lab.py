"""A plugin that does nothing but is one, and the command line that runs it."""

from collections.abc import Callable
from pathlib import Path

CODE = """
from dataclasses import dataclass
from quantexp.methods.base import Method

@dataclass(frozen=True)
class Options:
    scale: float = 0.5

class Mine(Method):
    Options = Options
"""
Write = Callable[..., Path]
BASE = ["model=local", "model.path=model", "data=local", "data.path=text.txt", "data.seq_len=8"]
BASE += ["evaluation=local", "evaluation.path=text.txt", "evaluation.seq_len=8"]
BASE += ["cluster=debug", "tracker=none"]
MINE = [*BASE, "plugins=[lab]", "method=mine"]
