"""``python -m quantexp serve``: the report page, live while a sweep runs, for this machine only."""

import argparse
import errno
import hashlib
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from quantexp.errors import ConfigError, QuantexpError
from quantexp.experiment.outputs import add_argument, cells
from quantexp.figures.draw import DATA, folder

HOST, PORT = "127.0.0.1", 8420
_NAMES = (HOST, "localhost")  # a page of another site that resolves its name to us has neither
_QUIET = 1.0  # seconds between two looks at the records
_SHARE = 5  # and this many times what drawing took, so that it takes a fifth of the time at most
_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def main(argv: Sequence[str]) -> int:
    """Serves until Ctrl-C.

    Raises:
        ConfigError: There is no such sweep, or the port is taken.
    """
    arguments = parser().parse_args(argv)
    outputs: Path = arguments.outputs
    if arguments.sweep is not None:
        cells(outputs, arguments.sweep)  # an unknown one is refused here
    with server(Source(outputs, arguments.sweep), arguments.port) as serving:
        port = serving.server_port
        sweep = f" --sweep {arguments.sweep}" if arguments.sweep else ""
        print(f"serving  {arguments.sweep or 'everything'} in {outputs.resolve()}")
        print(f"open     http://{HOST}:{port}/  (from another machine, after")
        print(f"         ssh -L {port}:{HOST}:{port} THIS-HOST, at the same address)")
        print("end      Ctrl-C", flush=True)
        try:
            serving.serve_forever(poll_interval=0.1)
        except KeyboardInterrupt:
            print(
                f"\nended; as a file: python -m quantexp report{sweep} --format html --to page.html"
            )
    return 0


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        "python -m quantexp serve",
        description="Shows the report page (report --format html) in a browser of this machine "
        "and loads it again as records change. It reads records only and answers nobody but "
        "127.0.0.1; who else is logged in on this machine can read it while it runs.",
    )
    made.add_argument("--sweep", metavar="NAME", help="only the cells of this sweep")
    made.add_argument(
        "--port", type=_port, default=PORT, help=f"default: {PORT}; 0 takes any free one"
    )
    add_argument(made)
    return made


@dataclass(frozen=True)
class Shown:
    """A page; equal pages have equal versions."""

    version: str
    body: bytes


class Source:
    """The page of a sweep, drawn again when its records have changed; safe from several threads."""

    def __init__(self, outputs: Path, sweep: str | None = None) -> None:
        self.outputs, self.sweep = outputs, sweep
        self._lock = threading.Lock()
        self._shown: Shown | None = None
        self._stamp: object = None
        self._next = 0.0
        self._warned: set[str] = set()

    def page(self) -> Shown:
        """The page of now, or of a moment ago."""
        with self._lock:
            start = time.monotonic()
            if self._shown is None or start >= self._next:
                stamp = frozenset(_stamps(self.outputs, self.sweep))
                if self._shown is None or stamp != self._stamp:
                    self._shown, self._stamp = self._draw(), stamp
                taken = time.monotonic() - start
                self._next = time.monotonic() + max(_QUIET, _SHARE * taken)
            return self._shown

    def _draw(self) -> Shown:
        from quantexp.report.averages import with_averages
        from quantexp.report.collect import collect
        from quantexp.report.compare import compare
        from quantexp.report.layout import lay_out
        from quantexp.report.page.build import page

        rows = with_averages(collect(self.outputs, self.sweep, self._warn))
        text = page(rows, lay_out(compare(rows)), self.outputs, self.sweep, live=True)
        version = hashlib.sha256(text.encode()).hexdigest()[:16]
        text = text.replace("<html ", f'<html data-version="{version}" ', 1)
        return Shown(version, text.encode())

    def _warn(self, line: str) -> None:
        """Each warning once, however often the page is drawn."""
        if line not in self._warned:
            self._warned.add(line)
            print(line, file=sys.stderr, flush=True)


def server(source: Source, port: int) -> ThreadingHTTPServer:
    """A server of one page on the loopback interface.

    Raises:
        ConfigError: The port is taken, or not ours to take.
    """
    handler = type("Handler", (_Handler,), {"source": source})
    try:
        return ThreadingHTTPServer((HOST, port), handler)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise ConfigError(
            f"--port={port}: {error.strerror}: give another one, or 0 for any free one"
        ) from error


class _Handler(BaseHTTPRequestHandler):
    source: Source
    timeout = 30  # seconds for a request that does not come
    server_version, sys_version = "quantexp", ""

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_GET  # noqa: N815

    def _answer(self) -> None:
        # a browser that was led here by a name of somebody else's (DNS rebinding) says that name
        if self.headers.get("Host", "").rsplit(":", 1)[0] not in _NAMES:
            self._send(HTTPStatus.FORBIDDEN, f"open http://{HOST}:PORT/ on this machine")
        elif self.path.partition("?")[0] != "/":
            self._send(HTTPStatus.NOT_FOUND, "there is one page only: /")
        else:
            try:
                shown = self.source.page()
            except (QuantexpError, OSError) as error:
                print(f"error: {error}", file=sys.stderr, flush=True)
                self._send(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
                return
            tag = f'"{shown.version}"'
            if tag in self.headers.get("If-None-Match", ""):
                self._send(HTTPStatus.NOT_MODIFIED, b"", {"ETag": tag})
            else:
                self._send(HTTPStatus.OK, shown.body, _HEADERS | {"ETag": tag})

    def _send(
        self, status: HTTPStatus, body: str | bytes, headers: dict[str, str] | None = None
    ) -> None:
        plain = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}
        sent = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        for name, value in (plain if headers is None else headers).items():
            self.send_header(name, value)
        if status != HTTPStatus.NOT_MODIFIED:
            self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(sent)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: a terminal that fills with requests hides what matters."""


def _stamps(outputs: Path, sweep: str | None) -> Iterator[tuple[str, int, int]]:
    """Of every file that the page shows: name, time and size; logs alone change too often."""
    places = [path.parent for path in (outputs / "cells").glob("*/cell.json")]
    if sweep is not None:
        places = cells(outputs, sweep)
    files = [path for place in places for path in (place / "cell.json", place / "status.json")]
    files += [path for place in places for path in (place / "evaluations").glob("*.json")]
    files += (outputs / "calibrations").glob("*/report.json")
    for name in ("sweep.json", "tuning.json"):
        files += (outputs / "sweeps").glob(f"*/{name}")
    for path in [*files, folder(outputs, sweep) / DATA]:
        try:
            found = path.stat()
        except OSError:  # not there yet, or no more
            continue
        yield str(path), found.st_mtime_ns, found.st_size


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port: 0 to 65535")
    return int(text)
