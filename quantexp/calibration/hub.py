"""Where a corpus of the hub lies on this machine, and how it gets there; no torch.

Planning asks only :func:`cached`, which never touches the network. Files are fetched by
:func:`fetch` before the first job starts, so that compute nodes need no network.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from quantexp.errors import DataError

_ON = {"1", "ON", "YES", "TRUE"}


@dataclass(frozen=True)
class HubFile:
    """One file of a dataset repository, pinned by commit."""

    repo: str
    revision: str
    name: str

    @property
    def command(self) -> str:
        """The command line that fetches it."""
        return f"hf download {self.repo} {self.name} --repo-type dataset --revision {self.revision}"

    @property
    def cached(self) -> Path | None:
        """The file in the hub's cache (``HF_HOME``), or ``None``; asks no network."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(
            self.repo, self.name, revision=self.revision, repo_type="dataset"
        )
        return Path(found) if isinstance(found, str) else None

    @property
    def path(self) -> Path:
        """The file in the cache.

        Raises:
            DataError: It is not there; the message holds the command that fetches it.
        """
        found = self.cached
        if found is None:
            raise DataError(f"{self.repo}: {self.name} is not in the hub's cache. {_how([self])}")
        return found


def offline() -> bool:
    """Whether the user forbade the network, by ``HF_HUB_OFFLINE`` or ``HF_DATASETS_OFFLINE``."""
    from huggingface_hub import constants

    switches = (os.environ.get("HF_HUB_OFFLINE", ""), os.environ.get("HF_DATASETS_OFFLINE", ""))
    return bool(constants.HF_HUB_OFFLINE) or any(value.upper() in _ON for value in switches)


def fetch(files: Iterable[HubFile]) -> None:
    """Downloads what the cache lacks.

    Raises:
        DataError: Something is missing and the network is forbidden or fails.
    """
    missing = [file for file in dict.fromkeys(files) if file.cached is None]
    if not missing:
        return
    names = ", ".join(f"{file.repo} {file.name}" for file in missing)
    if offline():
        raise DataError(f"not in the hub's cache, and the network is off: {names}. {_how(missing)}")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    for file in missing:
        print(f"fetching {file.repo} {file.name}")
        try:
            hf_hub_download(file.repo, file.name, revision=file.revision, repo_type="dataset")
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
            raise DataError(
                f"could not fetch {file.repo} {file.name} ({type(error).__name__}). {_how(missing)}"
            ) from error


def _how(missing: list[HubFile]) -> str:
    commands = "".join(f"\n         {file.command}" for file in missing)
    return (
        "Fetch it on a machine with network, into the same HF_HOME, by 'python -m quantexp "
        f"prefetch' with the same arguments or:{commands}"
    )
