"""The process that talks to W&B: it writes one run and ends.

It is a script of its own, started by path (:mod:`quantexp.tracking.process`), and imports nothing
of this package: whatever W&B does, it does not happen in the process that measures.

Reads a request (JSON) from standard input and answers with one line of JSON: ``mode``,
``directory``, ``url`` and ``why`` it is offline; or ``error``.
"""

import json
import netrc
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import wandb

PROBE_SECONDS = 2.0
INIT_SECONDS = 10.0  # W&B's default is 90; with a server that hangs it takes about twice this


def main() -> dict[str, Any]:
    """Writes the requested run, offline where online does not work."""
    request = json.load(sys.stdin)
    # the parent kills this process in time; if the parent itself was killed, the clock does
    signal.alarm(int(request["seconds"]) + 5)
    why = offline_because(request["mode"])
    if why is None:
        try:
            return _write(request, "online")
        except Exception as error:
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            wandb.teardown()
    os.environ.pop("WANDB_API_KEY", None)  # no use offline
    return {**_write(request, "offline"), "why": why}


def offline_because(mode: str) -> str | None:
    """Why there is no point in going online, or ``None``; an empty text where nobody asked."""
    if mode == "offline":
        return ""
    settings = wandb.setup().settings
    url = urlsplit(settings.base_url)
    if not (settings.api_key or settings.identity_token_file or _in_netrc(url.netloc)):
        return "there is no API key (`wandb login` stores one)"
    proxy = None if proxy_bypass(url.hostname or "") else getproxies().get(url.scheme)
    door = urlsplit(proxy) if proxy else url
    port = door.port or (80 if door.scheme == "http" else 443)
    try:
        socket.create_connection((door.hostname or "", port), PROBE_SECONDS).close()
    except OSError as error:
        return f"{door.hostname} cannot be reached ({error})"
    return None


def _in_netrc(host: str) -> bool:
    """Whether ``wandb login`` has stored a key; api.wandb.ai is the former name of the service."""
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        stored = netrc.netrc(path)
    except (OSError, netrc.NetrcParseError):
        return False
    return any(stored.hosts.get(name) for name in (host, "api.wandb.ai"))


def _write(request: dict[str, Any], mode: str) -> dict[str, Any]:
    content = request["content"]
    folder = Path(request["outputs"]) / "wandb"
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):  # W&B would go to a temporary folder, where nobody looks
        raise PermissionError(f"{folder} cannot be written")
    run = wandb.init(
        project=request["project"],
        entity=request["entity"],
        dir=request["outputs"],  # W&B adds the folder "wandb"
        id=content["id"],
        # a finished run is continued where only results were added, else written anew
        resume="allow" if request["continues"] else None,
        name=content["name"],
        group=content["group"],
        job_type=content["job_type"],
        tags=content["tags"],
        config=content["config"],
        # Always a new object: W&B writes the run's id into it. Nothing is collected on its own
        # account: what matters is in the records, and machines' names and commands are private.
        settings=wandb.Settings(
            mode=mode,
            init_timeout=INIT_SECONDS,
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            save_code=False,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
        ),
    )
    # Curves have an axis of their own, and leave the summary to results.
    for axis, curves in (("block", "block/*"), ("epoch", "loss/*")):
        run.define_metric(axis, hidden=True, summary="none")
        run.define_metric(curves, step_metric=axis, summary="none")
    if not (request["continues"] and mode == "online"):
        for line in [*content.get("blocks", ()), *content.get("losses", ())]:
            run.log(line)
    _log_media(run, content)
    run.summary.update(content["summary"])
    directory, url = str(Path(run.dir).parent), run.url if mode == "online" else None
    run.finish(exit_code=int(content["failed"]))
    return {"mode": mode, "directory": directory, "url": url, "why": None}


def _log_media(run: Any, content: dict[str, Any]) -> None:
    """Tables, pages, pictures and files, where there are any."""
    media: dict[str, Any] = {
        key: wandb.Table(columns=table["columns"], data=table["data"], allow_mixed_types=True)
        for key, table in content.get("tables", {}).items()
    }
    media |= {key: wandb.Html(text) for key, text in content.get("html", {}).items()}
    media |= {key: wandb.Image(path) for key, path in content.get("images", {}).items()}
    if media:
        run.log(media)
    for item in content.get("artifacts", ()):
        artifact = wandb.Artifact(item["name"], type=item["type"])
        for name, path in item["files"].items():
            artifact.add_file(path, name=name)
        run.log_artifact(artifact)


if __name__ == "__main__":
    try:
        answer = main()
    except Exception as problem:
        answer = {"error": f"{type(problem).__name__}: {problem}"}
    print(json.dumps(answer))
