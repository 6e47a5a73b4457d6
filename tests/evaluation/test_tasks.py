"""Task files are checked before any work, and the table says what lm-eval's definitions say."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import make_config, tiny_llama
from task_rows import write_rows, write_tasks

from quantexp.errors import ConfigError, DataError
from quantexp.evaluation import tasks
from quantexp.evaluation.task_files import documents, find
from quantexp.evaluation.tasks import TASKS, unreachable
from quantexp.experiment import preflight
from quantexp.experiment.cell import Cell


def config(**evaluation: Any) -> Any:
    return make_config("model", evaluation={"name": "none", **evaluation})


def test_the_table_agrees_with_the_harness() -> None:
    import lm_eval
    from lm_eval.tasks._yaml_loader import load_yaml

    for name, task in TASKS.items():
        path = Path(lm_eval.__file__).parent / "tasks" / task.yaml
        found = load_yaml(path, resolve_func=False)
        metrics = [item["metric"] for item in found["metric_list"]]
        assert found["task"] == name
        assert found["dataset_path"] == task.hub
        assert found["metadata"]["version"] == task.version
        assert found.get("num_fewshot", 0) == 0
        assert task.metric == ("acc_norm" if "acc_norm" in metrics else "acc")
        # the harness measures the test split where there is one
        assert task.split == ("test" if found.get("test_split") else "validation")


@pytest.mark.parametrize("name", TASKS)
def test_rows_as_on_the_hub_pass_unchanged(name: str, tmp_path: Path) -> None:
    folder = write_tasks(tmp_path)
    file = find(name, str(folder))
    rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    assert (file.layout.name, file.rows, documents(name, file)) == ("hub", 6, rows)


def test_copa_is_read_back_from_queries(tmp_path: Path) -> None:
    query = {"query": "The tap ran, therefore", "choices": ["a.", "b."], "label": 1}
    write_rows(tmp_path, "copa", [query])
    assert documents("copa", find("copa", str(tmp_path))) == [
        {
            "premise": "The tap ran.", "question": "effect",
            "choice1": "a.", "choice2": "b.", "label": 1,
        }
    ]  # fmt: skip
    write_rows(tmp_path, "copa", [query | {"query": "The tap ran"}])
    with pytest.raises(DataError, match=r"copa.jsonl', line 1: a query must end in ', because'"):
        find("copa", str(tmp_path))


def test_a_text_with_unusual_line_ends_is_one_row(tmp_path: Path) -> None:
    (tmp_path / "lambada_openai.jsonl").write_text('{"text": "a\u2028b\x85c"}\n', encoding="utf-8")
    file = find("lambada_openai", str(tmp_path))
    assert documents("lambada_openai", file) == [{"text": "a\u2028b\x85c"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"has no arc_easy.jsonl \(it has copa\): add the file, or leave the task out"),
        ("", "arc_easy.jsonl' is empty"),
        ("{}\n{\n", "line 1 has : arc_easy needs the columns question, choices, answerKey"),
        ("{", r"line 1 is no JSON object: '\{'"),
        ('{"question": "a", "choices": {}}', "line 1 has question, choices: arc_easy needs"),
    ],
)
def test_a_file_that_cannot_feed_its_task_is_refused(
    content: str | None, message: str, tmp_path: Path
) -> None:
    (tmp_path / "copa.jsonl").write_text("{}")
    if content is not None:
        (tmp_path / "arc_easy.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        find("arc_easy", str(tmp_path))


def test_a_folder_that_is_not_there_is_refused() -> None:
    with pytest.raises(DataError, match=r"has no piqa.jsonl \(no such folder in "):
        find("piqa", "nowhere")


def test_names_and_limits_are_checked() -> None:
    with pytest.raises(ConfigError, match="did you mean 'arc_easy'"):
        config(tasks=["arc_eazy"])
    with pytest.raises(ConfigError, match="names 'piqa' twice"):
        config(tasks=["piqa", "piqa"])
    with pytest.raises(ConfigError, match=r"task_limit=0 is too small"):
        config(tasks=["piqa"], task_limit=0)
    with pytest.raises(ConfigError, match=r"batch_size=0 is too small"):
        config(tasks=["piqa"], batch_size=0)
    with pytest.raises(ConfigError, match="task_data=x is read by no task"):
        config(task_data="x")


def test_preflight_needs_the_file_or_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_llama(tmp_path / "model")

    def found(**evaluation: Any) -> list[str]:
        chosen = {"name": "none", "block_error_windows": 0, "tasks": ["piqa"], **evaluation}
        paths = {"outputs": str(tmp_path / "outputs")}
        return preflight.problems(Cell(make_config(path, evaluation=chosen, paths=paths)))

    assert found(task_data=str(write_tasks(tmp_path / "tasks"))) == []
    assert "has no piqa.jsonl" in found(task_data=str(tmp_path))[0]
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    monkeypatch.setattr(tasks, "network", lambda: None)
    assert found() == []  # with network, the harness fetches it
    monkeypatch.setattr(tasks, "network", lambda: "the hub cannot be reached")
    assert "the hub cannot be reached, and it is not cached" in found()[0]
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    (message,) = found()
    assert message == unreachable("piqa", "no network is asked for, and it is not cached")
    assert "evaluation.task_data=DIR" in message
    (tmp_path / "datasets" / "baber___piqa").mkdir(parents=True)
    assert found() == []


def test_checking_tasks_imports_no_torch(tmp_path: Path) -> None:
    folder = write_tasks(tmp_path / "tasks")
    code = (
        "import sys; from quantexp.evaluation import task_files; import quantexp.report.averages\n"
        f"task_files.find('piqa', {str(folder)!r})\n"
        "print(sorted({'torch', 'lm_eval', 'datasets', 'transformers'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert run.stdout.strip() == "[]"


def test_any_answer_of_the_hub_is_reachable_and_none_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import http.server
    import threading

    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    tasks.network.cache_clear()
    assert tasks.network() is None  # 501: it does not know HEAD
    server.shutdown()
    server.server_close()
    tasks.network.cache_clear()
    assert "cannot be reached" in str(tasks.network())
    tasks.network.cache_clear()
