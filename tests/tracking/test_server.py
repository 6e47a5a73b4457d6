"""Online: against a server that speaks W&B's protocol, and against servers that misbehave.

The server is openwandb (for tests only, no dependency); OPENWANDB names its executable, for
instance X/bin/openwandb after ``python -m venv X && X/bin/pip install openwandb==0.5.25``.
"""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fake_outputs import FakeOutputs

from quantexp.__main__ import main
from quantexp.config import TrackerConfig
from quantexp.experiment import record
from quantexp.report.averages import with_averages
from quantexp.report.collect import collect
from quantexp.tracking import mirror
from quantexp.tracking.content import content, results

SERVER = os.environ.get("OPENWANDB")
KEY = "local" + 40 * "0"  # the one key that openwandb starts with
pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as door:
        return int(door.getsockname()[1])


class Server:
    """openwandb on loopback, and its database."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{free_port()}"

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with sqlite3.connect(self.folder / "openwandb.db") as database:
            return list(database.execute(sql, values))

    def summary(self, run: str) -> dict[str, Any]:
        ((text,),) = self.query("select summary_json from runs where run_id = ?", run)
        found: dict[str, Any] = json.loads(text)
        return found

    def file(self, run: str, name: str) -> str:
        rows = self.query("select name, path from files where run_id = ?", run)
        (path,) = [path for shown, path in rows if name in shown]
        return (self.folder / "files" / path).read_text()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if SERVER is None:
        pytest.skip("set OPENWANDB to the executable of openwandb")
    found = Server(tmp_path_factory.mktemp("server"))
    port = found.url.rpartition(":")[2]
    command = [SERVER, "serve", "--host", "127.0.0.1", "--port", port,
               "--data-dir", str(found.folder), "--base-url", found.url]  # fmt: skip
    with (found.folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                try:
                    socket.create_connection(("127.0.0.1", int(port)), 1).close()
                    break
                except OSError:
                    time.sleep(0.2)
            yield found
        finally:
            process.terminate()
            process.wait()


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeOutputs:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    return FakeOutputs(tmp_path / "outputs")


def small_sweep(outputs: FakeOutputs) -> list[str]:
    cells = [
        outputs.cell("none", "w16a16", 5.0),
        outputs.cell("flatquant", "w4a4kv4", 5.6),
        outputs.cell("rtn", "w4a4kv4", float("inf")),
    ]
    outputs.calibration(cells[1])
    outputs.block_error(cells[1])
    outputs.sweep("table1", cells)
    return cells


def test_synced_runs_hold_every_number_of_the_table(
    server: Server, outputs: FakeOutputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    cells = small_sweep(outputs)
    assert main(["sync", "--outputs", str(outputs.root)]) == 0
    rows = with_averages(collect(outputs.root))
    for cell in cells:
        own = {k: str(v) for k, v in results(r for r in rows if r.cell == cell).items()}
        shown = server.summary(cell)
        assert own.items() <= {k: _plain(v) for k, v in shown.items()}.items()
    (sweep,) = [run for (run,) in server.query("select run_id from runs") if "sweep" in run]
    table = json.loads(server.file(sweep, "media/table"))
    column = table["columns"].index("pydocs/ppl")
    assert {line[column] for line in table["data"]} == {5.0, 5.6, "inf"}
    kinds = server.query("select artifact_type from artifacts where run_id = ?", sweep)
    assert ("records",) in kinds


def _plain(value: Any) -> str:
    """A number as the server has it: whole ones without a point, broken ones as text."""
    return {"Infinity": "inf"}.get(value, value) if isinstance(value, str) else str(float(value))


def test_a_second_sync_uploads_nothing_and_a_new_result_no_curve_again(
    server: Server, outputs: FakeOutputs, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    cell = outputs.cell("flatquant", "w4a4", 6.5)
    outputs.calibration(cell)
    assert main(["sync", "--outputs", str(outputs.root)]) == 0
    points = server.query("select count(*) from metrics where run_id = ?", cell)
    assert points > [(0,)]
    assert main(["sync", "--outputs", str(outputs.root)]) == 0
    assert "0 runs uploaded, 1 were online already" in capsys.readouterr().out
    outputs.evaluation(cell, 7.5, "c4")
    assert main(["sync", "--outputs", str(outputs.root)]) == 0
    assert server.summary(cell)["c4/ppl"] == 7.5
    assert server.query("select count(*) from metrics where run_id = ?", cell) == points


def test_offline_runs_are_also_what_wandb_sync_takes(
    server: Server, outputs: FakeOutputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    cell = outputs.cell("smoothquant", "w8a8", 5.5)
    tracker = TrackerConfig("wandb", "offline")
    mirror.show(
        lambda: content(outputs.root, cell, None),
        outputs.folder(cell), outputs.root, tracker, "offline", 60,
    )  # fmt: skip
    (run,) = (outputs.root / "wandb").glob("offline-run-*")
    wandb = str(Path(sys.executable).with_name("wandb"))
    subprocess.run([wandb, "sync", "--yes", str(run)], check=True, capture_output=True)
    assert server.summary(cell)["pydocs/ppl"] == 5.5


class _Fault(BaseHTTPRequestHandler):
    status, body = 500, b"{}"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    do_GET = do_POST = do_PUT = _answer  # noqa: N815 - http.server's names

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


FAULTS = {
    "server error": (500, b"oops"),
    "bad key": (401, b'{"errors": [{"message": "user is not logged in"}]}'),
    "deleted run": (
        409,
        b'{"errors": [{"message": "run was previously created and deleted; try a new run name"}]}',
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_refuses_costs_a_line_and_the_run_stays_here(
    fault: str, outputs: FakeOutputs, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    status, body = FAULTS[fault]
    handler = type("Handler", (_Fault,), {"status": status, "body": body})
    stub = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=stub.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{stub.server_address[1]}")
    cell = outputs.cell("rtn", "w4a4", 9.0)
    start = time.monotonic()
    assert main(["sync", "--outputs", str(outputs.root)]) == 1
    stub.shutdown()
    assert time.monotonic() - start < mirror.BOUND_SECONDS
    said = capfd.readouterr().err
    assert f"W&B: {cell} is offline: " in said
    assert "the same command continues there" in said
    assert (record.read(outputs.folder(cell) / "mirror.json") or {})["mode"] == "offline"
    assert list((outputs.root / "wandb").glob("offline-run-*"))
