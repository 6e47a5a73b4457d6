"""A served page is for this machine, says what the records say now, and ends with Ctrl-C."""

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from fake_outputs import FakeOutputs

from quantexp.__main__ import main
from quantexp.report import serve
from quantexp.report.serve import Source, server

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
Answer = tuple[int, dict[str, str], str]


@contextmanager
def served(source: Source) -> Iterator[int]:
    with server(source, 0) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield found.server_port
        finally:
            found.shutdown()
            thread.join()


def ask(port: int, path: str = "/", method: str = "GET", **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, {k.lower(): v for k, v in answer.getheaders()}, body


@pytest.fixture
def filled(outputs: FakeOutputs) -> FakeOutputs:
    outputs.sweep("demo", [outputs.cell("rtn", ppl=7.25), outputs.cell("awq", state="running")])
    return outputs


def test_a_page_changes_with_its_records_and_not_otherwise(
    filled: FakeOutputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "_QUIET", 0.0)
    monkeypatch.setattr(serve, "_SHARE", 0)
    with served(Source(filled.root, "demo")) as port:
        status, headers, text = ask(port)
        assert (status, "7.25" in text, "6.125" in text) == (200, True, False)
        tag = headers["etag"]
        assert f"data-version={tag}" in text
        assert "connect-src 'self'" in text
        unchanged = ask(port, method="HEAD", If_None_Match=tag)
        assert (unchanged[0], unchanged[1]["etag"], unchanged[2]) == (304, tag, "")
        filled.cell("awq", ppl=6.125)
        changed = ask(port, method="HEAD", If_None_Match=tag)
        assert (changed[0], changed[2]) == (200, "")
        assert changed[1]["etag"] != tag
        assert "6.12" in ask(port)[2]


def test_records_are_looked_at_now_and_then_however_many_ask(
    filled: FakeOutputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str | None] = []
    monkeypatch.setattr(serve, "_QUIET", 60.0)
    monkeypatch.setattr(serve, "_stamps", lambda outputs, sweep: iter(looks.append(sweep) or ()))
    with served(Source(filled.root, "demo")) as port:
        for _ in range(5):
            assert ask(port)[0] == 200
    assert looks == ["demo"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("localhost:9999", 200),  # through a tunnel
        ("evil.example:{port}", 403),
        ("127.0.0.1.evil.example", 403),
        ("[::1]:{port}", 403),
        ("", 403),
    ],
)
def test_only_those_who_mean_this_machine_are_answered(
    filled: FakeOutputs, host: str, status: int
) -> None:
    with served(Source(filled.root)) as port:
        found, headers, body = ask(port, Host=host.format(port=port))
        assert found == status
        assert ("7.25" in body) == (status == 200)
        assert "access-control-allow-origin" not in headers
        if status == 200:
            assert headers["x-frame-options"] == "DENY"
            assert headers["cross-origin-resource-policy"] == "same-origin"


def test_nothing_but_the_page_is_served(filled: FakeOutputs) -> None:
    with served(Source(filled.root)) as port:
        for path in ("/cells", "/../cells", "//etc/passwd", "/favicon.ico", "http://127.0.0.1/"):
            assert ask(port, path)[0] == 404
        assert ask(port, "/?anything")[0] == 200
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert ask(port, method=method)[0] == 501


def test_no_other_interface_listens(filled: FakeOutputs) -> None:
    with server(Source(filled.root), 0) as found:
        assert found.socket.getsockname()[0] == "127.0.0.1"
        with pytest.raises(OSError), socket.create_connection(("127.0.0.2", found.server_port), 1):  # noqa: PT011
            pass


def test_wrong_words_and_a_taken_port_are_refused(
    filled: FakeOutputs, capsys: pytest.CaptureFixture[str]
) -> None:
    there = ["--outputs", str(filled.root)]
    assert main(["serve", "--sweep", "demmo", *there]) == 2
    assert "did you mean 'demo'" in capsys.readouterr().err
    assert main(["serve", "--port", "70000", *there]) == 2
    assert "70000 is no port" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "--port", str(taken.getsockname()[1]), *there]) == 2
    assert "or 0 for any free one" in capsys.readouterr().err


def test_records_that_vanish_are_said_and_stop_nothing(
    filled: FakeOutputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "_QUIET", 0.0)
    monkeypatch.setattr(serve, "_SHARE", 0)
    sweep = filled.root / "sweeps" / "demo" / "sweep.json"
    with served(Source(filled.root, "demo")) as port:
        assert ask(port)[0] == 200
        text = sweep.read_text()
        sweep.unlink()
        status, _, body = ask(port)
        assert (status, "unknown sweep 'demo'" in body) == (500, True)
        sweep.write_text(text)
        assert ask(port)[0] == 200


def test_it_starts_before_there_are_records_imports_no_torch_and_ends_with_ctrl_c(
    tmp_path: Path,
) -> None:
    outputs = FakeOutputs(tmp_path / "outputs")
    code = (
        "import sys; from quantexp.__main__ import main; code = main(sys.argv[1:]); "
        "sys.exit('torch' if 'torch' in sys.modules else code)"
    )
    command = [sys.executable, "-c", code, "serve", "--port", "0", "--outputs", str(outputs.root)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    started = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        # a script that runs in the background hands down an ignored Ctrl-C
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    with started as process, closing(process):
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        port = next(int(m[1]) for line in lines if (m := re.search(r"127\.0\.0\.1:(\d+)/", line)))
        assert "no cells yet" in ask(port)[2]
        outputs.cell("rtn", ppl=7.25)
        end = time.monotonic() + 30
        while "7.25" not in ask(port)[2]:
            assert time.monotonic() < end
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=30)[0]
    assert process.returncode == 0
    assert "ended; as a file: python -m quantexp report" in rest


@contextmanager
def closing(process: "subprocess.Popen[str]") -> Iterator[None]:
    """Ends a process that a failed assertion leaves."""
    try:
        yield
    finally:
        process.kill()


class _Later(Source):
    """A record comes after the page was drawn for the first time."""

    def page(self) -> serve.Shown:
        first = self._shown is None
        shown = super().page()
        if first:
            FakeOutputs(self.outputs).cell("awq", ppl=6.125)
        return shown


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_an_open_page_shows_new_results_by_itself(
    filled: FakeOutputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "_QUIET", 0.0)
    monkeypatch.setattr(serve, "_SHARE", 0)
    with served(_Later(filled.root)) as port:
        command = [
            *(str(CHROMIUM), "--headless", "--disable-gpu", f"--user-data-dir={tmp_path / 'p'}"),
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
            *("--virtual-time-budget=12000", "--dump-dom", f"http://127.0.0.1:{port}/#find=awq"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    text = done.stdout
    assert "6.12" in text, done.stderr[-2000:]
    assert "1 of 2 rows" in text  # the view came through the reload
    assert "Live: it loads again" in text
