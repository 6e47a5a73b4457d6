"""Files of writers that were killed: removed when the next attempt begins, those at work left."""

import os
import subprocess
import sys
from pathlib import Path

from quantexp.experiment import record


def test_what_a_killed_writer_left_goes_and_what_is_being_written_stays(tmp_path: Path) -> None:
    blocks = tmp_path / "blocks"
    blocks.mkdir()
    code = (
        "import os, sys; from pathlib import Path; from quantexp.experiment import record; "
        "record.partial_path(Path(sys.argv[1])).write_text('half'); os.kill(os.getpid(), 9)"
    )
    for path in (tmp_path / "status.json", blocks / "00003.safetensors"):
        subprocess.run(
            [sys.executable, "-c", code, str(path)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=False,
        )
    assert len(list(tmp_path.rglob(".*.tmp"))) == 2
    mine = record.partial_path(tmp_path / "status.json")
    mine.write_text("being written")
    record.write(tmp_path / "status.json", {"state": "running"})
    record.remove_partials(tmp_path)
    assert list(tmp_path.rglob(".*.tmp")) == [mine]
    assert record.read(tmp_path / "status.json") == {"state": "running"}
    record.remove_partials(tmp_path / "nowhere")
