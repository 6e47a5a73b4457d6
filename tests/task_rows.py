"""A few made-up documents of every zero-shot task, in words that the tests' tokenizer knows."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from quantexp.evaluation.tasks import TASKS


def write_tasks(folder: Path, count: int = 6, layouts: str = "hub") -> Path:
    """``arc_easy.jsonl``, … with ``count`` rows each; ``layouts="other"`` where there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in TASKS:
        draw = random.Random(name)
        rows = [_row(name, draw, layouts) for _ in range(count)]
        write_rows(folder, name, rows)
    return folder


def write_rows(folder: Path, task: str, rows: list[dict[str, Any]]) -> None:
    """One task's file."""
    (folder / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _row(task: str, draw: random.Random, layouts: str) -> dict[str, Any]:

    def text(most: int = 7) -> str:
        return " ".join(f"w{draw.randrange(3, 96)}" for _ in range(draw.randint(1, most)))

    if task in ("arc_easy", "arc_challenge", "openbookqa"):
        question = "question_stem" if task == "openbookqa" else "question"
        choices = {"text": [text() for _ in range(4)], "label": list("ABCD")}
        return {question: text(9), "choices": choices, "answerKey": draw.choice("ABCD")}
    if task == "boolq":
        return {"passage": text(12), "question": text(), "label": draw.randrange(2)}
    if task == "piqa":
        return {"goal": text(), "sol1": text(), "sol2": text(), "label": draw.randrange(2)}
    if task == "winogrande":
        sentence = f"{text()} _ {text()}"
        return {"sentence": sentence, "option1": "w5", "option2": "w7", "answer": draw.choice("12")}
    if task == "lambada_openai":
        return {"text": f"{text(12)} w{draw.randrange(3, 96)}"}
    if task == "hellaswag":
        row = {
            "activity_label": "w4", "ctx_a": text(), "ctx_b": text(),
            "endings": [text() for _ in range(4)], "label": str(draw.randrange(4)),
        }  # fmt: skip
        return row if layouts == "hub" else _processed(row)
    assert task == "copa"
    row = {
        "premise": f"{text()}.", "choice1": text(), "choice2": text(),
        "question": draw.choice(["cause", "effect"]), "label": draw.randrange(2),
    }  # fmt: skip
    return row if layouts == "hub" else _query(row)


def _processed(row: dict[str, Any]) -> dict[str, Any]:
    query = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    return {"query": query, "choices": row["endings"], "label": int(row["label"])}


def _query(row: dict[str, Any]) -> dict[str, Any]:
    connector = {"cause": "because", "effect": "therefore"}[row["question"]]
    query = f"{row['premise'].removesuffix('.')}, {connector}"
    return {"query": query, "choices": [row["choice1"], row["choice2"]], "label": row["label"]}
