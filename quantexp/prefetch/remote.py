"""What the hub says and sends; every way in which it refuses has its own sentence.

The token comes from the environment alone (``HF_TOKEN``), and no message holds it.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from quantexp.errors import DataError
from quantexp.prefetch.needed import MODEL, TASK, Need

T = TypeVar("T")

_PATIENCE = 30.0  # seconds that the hub may take to answer a question
_ATTEMPTS = 3  # of a download; each goes on where the one before broke off
_PAUSE = 2.0  # seconds between two attempts


@dataclass(frozen=True)
class Listing:
    """What there is to fetch: the commit that a revision stands for, and its files' sizes."""

    commit: str
    sizes: dict[str, int | None]


def token() -> str | bool:
    """The token of the environment; ``False`` keeps the hub's library from looking elsewhere."""
    return os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN") or False


def ask(need: Need) -> Listing:
    """Resolves the revision and lists the files that are needed.

    Raises:
        DataError: Gated, not found, no such revision, no answer: each told apart.
    """
    return _telling(need, lambda: _list(need))


def download(need: Need, listing: Listing) -> None:
    """Fetches what the cache lacks; a transfer that breaks off goes on where it stopped.

    Raises:
        DataError: As :func:`ask`, or the transfer broke off every time.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _telling(need, lambda: _download(need, listing))
        except InterruptedTransferError as error:
            if attempt == _ATTEMPTS:
                raise
            print(f"         {error}: going on, attempt {attempt + 1} of {_ATTEMPTS}", flush=True)
            time.sleep(_PAUSE)
    raise AssertionError


class InterruptedTransferError(DataError):
    """The connection failed; another attempt may do better."""


def _list(need: Need) -> Listing:
    from fnmatch import fnmatch

    from huggingface_hub import HfApi

    api = HfApi(token=token())
    if need.kind == MODEL:
        info: Any = api.model_info(
            need.repo, revision=need.revision, files_metadata=True, timeout=_PATIENCE
        )
        sizes = {
            file.rfilename: file.size
            for file in info.siblings or ()
            if any(fnmatch(file.rfilename, pattern) for pattern in need.files)
        }
        return Listing(info.sha, sizes)
    commit, names = need.revision, list(need.files)
    if need.kind == TASK:
        found: Any = api.dataset_info(need.repo, revision=need.revision, timeout=_PATIENCE)
        commit = found.sha
        names = _task_files(need, str(commit))
    assert commit is not None
    paths = api.get_paths_info(need.repo, names, revision=commit, repo_type="dataset")
    there = {path.path: getattr(path, "size", None) for path in paths}
    missing = [name for name in names if name not in there]
    if missing:
        raise DataError(f"{need.label} has no {', '.join(missing)} at {commit}: please report it")
    return Listing(commit, there)


def _download(need: Need, listing: Listing) -> None:
    from huggingface_hub import hf_hub_download, snapshot_download

    if need.kind == MODEL:
        # by the revision's name, so that the cache knows later what the name stood for
        snapshot_download(
            need.repo,
            revision=need.revision,
            allow_patterns=list(need.files),
            token=token(),
        )
        return
    for name in listing.sizes:
        hf_hub_download(
            need.repo, name, revision=listing.commit, repo_type="dataset", token=token()
        )
    if need.kind == TASK:
        _builder(need, listing.commit).download_and_prepare()


def _task_files(need: Need, commit: str) -> list[str]:
    """Data files of a task's configuration, as the data set's card or layout names them."""
    files = _builder(need, commit).config.data_files or {}
    head = f"hf://datasets/{need.repo}@{commit}/"
    return sorted({str(url).removeprefix(head) for urls in files.values() for url in urls})


def _builder(need: Need, commit: str) -> Any:
    from datasets import disable_progress_bars, load_dataset_builder

    disable_progress_bars()
    return load_dataset_builder(need.repo, need.config, revision=commit, token=token())


def _telling(need: Need, work: Callable[[], T]) -> T:
    """Does something with the hub, and says in our words why it did not work."""
    from huggingface_hub import errors

    try:
        return work()
    except errors.GatedRepoError as error:
        raise DataError(_gated(need, _status(error))) from None
    except errors.RevisionNotFoundError:
        key = "model.revision" if need.kind == MODEL else "the pinned revision"
        raise DataError(
            f"{need.label} has no revision '{need.revision}' (404): {key} must be a branch, a tag "
            "or a whole commit"
        ) from None
    except errors.RepositoryNotFoundError:
        raise DataError(_not_found(need)) from None
    except errors.HfHubHTTPError as error:
        code = _status(error)
        if code == 401:
            raise DataError(
                f"{need.label}: the hub does not accept the token in HF_TOKEN (401): it is "
                "mistyped or has expired; make a new one at https://huggingface.co/settings/tokens"
            ) from None
        raise InterruptedTransferError(f"{need.label}: the hub answers {code}") from None
    except DataError:
        raise
    except Exception as error:
        # The library's causes differ by version and lie in chains: a cause of ours comes first.
        for cause in _chain(error):
            if isinstance(cause, errors.HfHubHTTPError):

                def again(cause: Exception = cause) -> T:
                    raise cause

                return _telling(need, again)
        raise InterruptedTransferError(
            f"{need.label}: the connection to the hub failed ({type(error).__name__})"
        ) from None


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    following = error.__cause__ or error.__context__
    while following is not None and following not in found:
        found.append(following)
        following = following.__cause__ or following.__context__
    return found


def _status(error: Any) -> int:
    return int(getattr(error.response, "status_code", 0))


def _gated(need: Need, status: int) -> str:
    page = f"https://huggingface.co/{'' if need.kind == MODEL else 'datasets/'}{need.repo}"
    if not token():
        return (
            f"{need.label} is gated and nobody is logged in ({status}): accept its licence at "
            f"{page}, then set HF_TOKEN to a token of yours"
        )
    return (
        f"{need.label} is gated, and the account of HF_TOKEN has no access ({status}): accept its "
        f"licence at {page} and wait until it is granted; a fine-grained token also needs the "
        "right to read gated repositories"
    )


def _not_found(need: Need) -> str:
    key = "model.path" if need.kind == MODEL else "the data set"
    if not token():
        return (
            f"{need.label} does not exist or is private (401/404; without a token the hub does "
            f"not say which): check the name in {key}; if it is private, set HF_TOKEN"
        )
    return (
        f"{need.label} does not exist (404), or the account of HF_TOKEN may not see it: check the "
        f"name in {key}, or take a token with access"
    )
