"""Zero-shot through lm-eval: its own numbers, whatever the batch; one record per task, resumed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    calibrated,
    make_config,
    plain_blocks,
    silent,
    spy,
    stored_blocks,
    streamed,
    tiny_llama,
)
from task_rows import write_tasks

from quantexp.errors import DataError
from quantexp.evaluation import task_files, tasks
from quantexp.evaluation.zeroshot import _quiet, zeroshot
from quantexp.experiment.calibrate import calibrate
from quantexp.experiment.cell import Cell
from quantexp.experiment.evaluate import evaluate
from quantexp.models.assemble import assemble


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("zeroshot") / "model")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


def cell(path: Path, outputs: Path, method: str = "none", **evaluation: Any) -> Cell:
    bits = (16, 16, 16, 16) if method == "none" else (4, 8, 4, 4)
    evaluation = {"name": "none", "block_error_windows": 0, **evaluation}
    return Cell(
        make_config(path, method, bits, evaluation=evaluation, paths={"outputs": str(outputs)})
    )


def measured(one: Cell) -> dict[str, dict[str, Any]]:
    if one.quantized:
        calibrate(one, silent)
    for evaluation in one.missing:
        evaluate(one, evaluation, silent)
    assert not one.missing
    found = {e.name: one.result(e) for e in one.evaluations}
    return {name: result for name, result in found.items() if result is not None}


def direct(path: Path, folder: Path, name: str, limit: int | None, scratch: Path) -> dict[str, Any]:
    """lm-eval as its users call it, on the model as transformers loads it, document by document.

    Its built-in task reads the file with the hub's columns by datasets' own loader.
    """
    import lm_eval
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml
    from transformers import AutoModelForCausalLM, AutoTokenizer

    task, file = tasks.TASKS[name], task_files.find(name, str(folder))
    definition = load_yaml(Path(lm_eval.__file__).parent / "tasks" / task.yaml)
    for key in ("tag", "training_split", "validation_split", "test_split"):
        definition.pop(key, None)
    if file.layout.name == "processed":
        del definition["process_docs"]
    rows = scratch / f"{name}.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in task_files.documents(name, file)))
    definition |= {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {task.split: str(rows)}, "cache_dir": str(scratch)},
        f"{task.split}_split": task.split,
    }
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with _quiet():
        result: Any = lm_eval.simple_evaluate(
            HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(path), batch_size=1),
            tasks=[ConfigurableTask(config=definition)],
            limit=limit,
            bootstrap_iters=10,
            task_manager=TaskManager(include_defaults=False),
        )
    found: dict[str, Any] = result["results"][name]
    return found


def test_every_task_gives_the_number_of_a_direct_run(
    path: Path, folder: Path, tmp_path: Path
) -> None:
    found = measured(cell(path, tmp_path, tasks=list(tasks.TASKS), task_data=str(folder)))
    assert list(found) == list(tasks.TASKS)
    for name, record in found.items():
        expected = direct(path, folder, name, None, tmp_path)
        metric = tasks.TASKS[name].metric
        assert (record["kind"], record["metric"]) == ("zeroshot", metric)
        assert record["value"] == expected[f"{metric},none"]
        assert record["stderr"] == expected[f"{metric}_stderr,none"]
        details = record["details"]
        for key in details["metrics"]:
            if key != "perplexity_stderr":  # drawn
                assert details["metrics"][key] == pytest.approx(expected[f"{key},none"]), key
        scores = details["scores"][metric]
        assert sum(scores) / len(scores) == record["value"]
        assert (details["documents"], details["num_fewshot"]) == (6, 0)
        assert details["task_version"] == tasks.TASKS[name].version
        assert details["harness"]["configs"][name]["metadata"]["version"] == details["task_version"]


def test_a_limit_takes_the_first_documents(path: Path, folder: Path, tmp_path: Path) -> None:
    whole = measured(cell(path, tmp_path, tasks=["piqa"], task_data=str(folder)))["piqa"]
    some = cell(path, tmp_path, tasks=["piqa"], task_data=str(folder), task_limit=2)
    assert some.missing  # another number, another record
    details = measured(some)["piqa"]["details"]
    assert details["scores"]["acc"] == whole["details"]["scores"]["acc"][:2]
    assert (details["documents"], details["documents_of"], details["limit"]) == (2, 6, 2)


@pytest.mark.parametrize("bits", [(16, 16, 16, 16), (4, 4, 4, 4)])
def test_padded_batches_equal_batches_of_one(
    bits: tuple[int, int, int, int], path: Path, folder: Path, tmp_path: Path
) -> None:
    config = make_config(path, "none" if bits[0] == 16 else "rtn", bits)
    model = streamed(config)
    blocks = plain_blocks(model)
    if bits[0] < 16:
        checkpoint = calibrated(model, config, None, tmp_path / "c")
        blocks = stored_blocks(model, config, checkpoint)
    # float64: float32 sums are rounded otherwise in another batch, and 4-bit integers may follow
    whole = assemble(model, blocks.__getitem__).double()
    for name in ("arc_easy", "lambada_openai", "boolq"):
        file = task_files.find(name, str(folder))
        alone, padded = (
            zeroshot(whole, model.tokenizer(), name, file, None, size, silent) for size in (1, 7)
        )
        assert padded["value"] == alone["value"]
        for key, scores in alone["details"]["scores"].items():  # LAMBADA's are log-likelihoods
            assert padded["details"]["scores"][key] == pytest.approx(scores, rel=1e-9)


def test_another_batch_size_is_another_record(path: Path, folder: Path, tmp_path: Path) -> None:
    one, eight = (
        cell(path, tmp_path, tasks=["piqa"], task_data=str(folder), batch_size=size).evaluations[0]
        for size in (1, 8)
    )
    assert one.file_name != eight.file_name


def test_one_range_for_a_whole_batch_means_batches_of_one(
    path: Path, folder: Path, tmp_path: Path
) -> None:
    config = make_config(
        path, "rtn", (4, 8, 16, 16), tensors={"activation": {"granularity": "per_tensor"}},
        evaluation={"name": "none", "block_error_windows": 0, "tasks": ["piqa"],
                    "task_data": str(folder)},
        paths={"outputs": str(tmp_path)},
    )  # fmt: skip
    assert measured(Cell(config))["piqa"]["details"]["batch_size"] == 1


def test_a_finished_task_is_not_run_again(
    path: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import quantexp.evaluation.zeroshot as module

    measured(cell(path, tmp_path, tasks=["piqa"], task_data=str(folder)))
    both = cell(path, tmp_path, tasks=["piqa", "copa"], task_data=str(folder))
    ran: list[str] = []
    spy(module, "zeroshot", monkeypatch, lambda *args: ran.append(args[2]))
    assert set(measured(both)) == {"piqa", "copa"}
    assert ran == ["copa"]


@pytest.mark.parametrize("name", ["copa", "hellaswag"])
def test_other_columns_ask_the_model_the_same(
    name: str, path: Path, folder: Path, tmp_path: Path
) -> None:
    other = write_tasks(tmp_path / "other", layouts="other")
    built_in = measured(cell(path, tmp_path, tasks=[name], task_data=str(folder)))[name]
    found = measured(cell(path, tmp_path, tasks=[name], task_data=str(other)))[name]
    assert found["details"]["text_hash"] == built_in["details"]["text_hash"]
    assert found["details"]["scores"] == built_in["details"]["scores"]
    assert (found["details"]["layout"], built_in["details"]["layout"]) != ("hub", "hub")
    assert found["details"]["note"]
    assert not built_in["details"]["note"]


def test_another_file_is_another_evaluation(path: Path, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    same = cell(path, tmp_path, tasks=["piqa"], task_data=str(copy)).evaluations
    assert same[0].inputs == (
        cell(path, tmp_path, tasks=["piqa"], task_data=str(folder)).evaluations[0].inputs
    )
    with (copy / "piqa.jsonl").open("a") as file:
        file.write('{"goal": "w3", "sol1": "w4", "sol2": "w5", "label": 0}\n')
    other = cell(path, tmp_path, tasks=["piqa"], task_data=str(copy)).evaluations
    assert other[0].file_name != same[0].file_name


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def refuse(*_: Any, **__: Any) -> Any:
        raise ConnectionError("Couldn't reach 'baber/piqa' on the Hub (OfflineModeIsEnabled)")

    monkeypatch.setattr(datasets, "load_dataset", refuse)


def test_the_hubs_documents_give_the_same_record(
    path: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    rows = task_files.documents("arc_easy", task_files.find("arc_easy", str(folder)))
    asked = []

    def load(path: str, name: str, **_: Any) -> Any:
        asked.append((path, name))
        found = datasets.Dataset.from_list(rows)
        return datasets.DatasetDict({"train": found, "validation": found, "test": found})

    monkeypatch.setattr(datasets, "load_dataset", load)
    hub = measured(cell(path, tmp_path, tasks=["arc_easy"]))["arc_easy"]
    local = measured(cell(path, tmp_path, tasks=["arc_easy"], task_data=str(folder)))["arc_easy"]
    assert asked == [("allenai/ai2_arc", "ARC-Easy")]
    assert hub["inputs"]["data"] == {"hub": "allenai/ai2_arc"}
    assert hub["details"]["text_hash"] == local["details"]["text_hash"]
    assert hub["value"] == local["value"]


@pytest.mark.usefixtures("unreachable")
def test_without_network_the_error_names_the_folder_to_give(path: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"task piqa \(baber/piqa on the hub\) cannot be had") as e:
        measured(cell(path, tmp_path, tasks=["piqa"]))
    assert "evaluation.task_data=DIR" in str(e.value)


@pytest.mark.slow
def test_the_real_files_give_the_numbers_of_a_direct_run(reference: str, tmp_path: Path) -> None:
    root = Path(reference)
    path, folder = root / "models" / "stories260K", root / "tasks"
    found = measured(
        cell(path, tmp_path, tasks=list(tasks.TASKS), task_data=str(folder), task_limit=20)
    )
    for name, record in found.items():
        expected = direct(path, folder, name, 20, tmp_path)
        for key, value in record["details"]["metrics"].items():
            if not key.startswith("perplexity"):
                assert value == expected[f"{key},none"], (name, key)
        assert record["details"]["documents"] == 20
