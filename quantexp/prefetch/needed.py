"""What configurations read from the hub: models, corpora, data sets of zero-shot tasks."""

from collections.abc import Iterable
from dataclasses import dataclass

from quantexp.calibration.data import find, find_set
from quantexp.config import ExperimentConfig
from quantexp.evaluation.tasks import TASKS
from quantexp.models.source import HUB_FILES
from quantexp.registry import method

MODEL, CORPUS, TASK = "model", "corpus", "task"


@dataclass(frozen=True, order=True)
class Need:
    """Files of one repository.

    Attributes:
        kind: ``model``, ``corpus`` or ``task``.
        repo: ``ORG/NAME``.
        revision: Commit, branch or tag; ``None`` is ``main``.
        files: Names; a model's are patterns. Empty for a task: its data set says which.
        config: Of a task's data set, as ``datasets`` calls it.
    """

    kind: str
    repo: str
    revision: str | None
    files: tuple[str, ...] = ()
    config: str | None = None

    @property
    def repo_type(self) -> str:
        """As the hub calls it."""
        return "model" if self.kind == MODEL else "dataset"

    @property
    def label(self) -> str:
        """For messages."""
        part = f" ({self.config})" if self.config else ""
        return f"{self.kind} {self.repo}{part}"


def needs(configs: Iterable[ExperimentConfig]) -> list[Need]:
    """Everything that the cells of these configurations may read from the hub, each once.

    Raises:
        DataError: A local text is missing or of an unknown kind.
    """
    found: dict[tuple[str, str, str | None, str | None], set[str]] = {}

    def add(
        kind: str, repo: str, revision: str | None, files: Iterable[str], config: str | None
    ) -> None:
        found.setdefault((kind, repo, revision, config), set()).update(files)

    for config in dict.fromkeys(configs):
        model, evaluation = config.model, config.evaluation
        if model.source == "hf":
            add(MODEL, str(model.path), model.revision, HUB_FILES, None)
        sources = [find_set(item) for item in evaluation.perplexity]
        if config.method.name != "none" and _reads_text(config):
            sources.append(find(config.data))
        for file in (source.file for source in sources if source.file is not None):
            add(CORPUS, file.repo, file.revision, [file.name], None)
        for name in evaluation.tasks if evaluation.task_data is None else ():
            add(TASK, TASKS[name].hub, None, [], TASKS[name].config)
    return sorted(
        (Need(*key[:3], tuple(sorted(files)), key[3]) for key, files in found.items()),
        key=lambda need: (need.kind != MODEL, need.kind, need.repo, str(need.config)),
    )


def _reads_text(config: ExperimentConfig) -> bool:
    streams = method(config.method.name)(config.method.options).streams
    wants = bool(streams) or config.rounding == "gptq" or config.bits.static
    return wants or bool(config.evaluation.block_error_windows)
