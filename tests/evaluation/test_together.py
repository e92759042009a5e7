"""Questions answered by two processes on a CPU: the numbers and files of one, going on, stopping, errors."""

import importlib.util
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from vaswani_cli import main
from vaswani_transformer import VaswaniGPT2Tokenizer, VaswaniGPTConfig, VaswaniGPTForCausalLM, world
from vaswani_transformer.evaluation import evaluate_few_shot

TESTS = Path(__file__).resolve().parent.parent
SCRIPT = TESTS / "evaluate_in_two_processes.py"
WORDS = ("the", "cat", "dog", "sat", "ran", "on", "mat", "house", "red", "old", "new", "saw", "was", "good", "bad")
YAML = """
task: capitals
output_type: multiple_choice
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
doc_to_text: "{{text}}"
doc_to_choice: choices
doc_to_target: right
"""


def two_processes(words: list[str]) -> str:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS.parent)}
    done = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    rng = random.Random(0)
    texts = [" ".join(rng.choice(WORDS) for _ in range(20)) + "\nQ: What is 1 plus 2? A: 3" for _ in range(50)]
    tokenizer = VaswaniGPT2Tokenizer.train(texts, vocab_size=320)
    torch.manual_seed(0)
    ends: dict[str, Any] = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = VaswaniGPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        norm_order="pre",
        **ends,
    )
    model = VaswaniGPTForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def same(found: Any, expected: Any) -> None:
    """Equal, floats but for the rounding of other batches."""
    if isinstance(expected, float):
        assert found == pytest.approx(expected, abs=1e-4)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            same(found[name], value)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for value, other in zip(found, expected, strict=True):
            same(value, other)
    else:
        assert found == expected


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "questions.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_command_in_two_processes_writes_the_files_of_one(folder, tmp_path, capsys):
    rng = random.Random(1)
    rows = [
        {"text": " ".join(rng.choices(WORDS, k=i + 2)), "choices": rng.sample(WORDS, 3), "right": i % 3}
        for i in range(9)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    (tmp_path / "capitals.yaml").write_text(YAML, encoding="utf-8")
    words = ["evaluate", str(folder), "--tasks", f"{tmp_path / 'capitals.yaml'},arithmetic_2da,lambada_openai"]
    words += ["--data", f"lambada_openai={tmp_path / 'rows.jsonl'}", "--shots", "0,1,3", "--seeds", "2", "--limit", "7"]
    words += ["--batch-tokens", "200"]
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    table = capsys.readouterr().out
    assert two_processes(["--module", "vaswani_cli", *words, "--out", str(tmp_path / "two")]) == table
    assert len(lines(tmp_path / "one")) == 3 * 7 * (1 + 2 + 2)
    same(lines(tmp_path / "two"), lines(tmp_path / "one"))
    one, two = (json.loads((tmp_path / name / "results.json").read_text(encoding="utf-8")) for name in ("one", "two"))
    same(two, one)


def test_one_process_where_the_launcher_was_asked_for_two_is_refused(folder, monkeypatch, capsys):
    monkeypatch.setattr(world, "_parent_words", lambda: ["accelerate", "launch", "--num_processes", "2"])
    assert main(["evaluate", str(folder), "--shots", "0", "--limit", "1"]) == 2
    assert "was asked for 2 processes and started 1" in capsys.readouterr().err


@pytest.fixture(scope="module")
def seen(folder, tmp_path_factory) -> tuple[list[dict[str, Any]], Path]:
    out = tmp_path_factory.mktemp("out")
    two_processes([str(SCRIPT), str(folder), str(out)])
    return [json.loads((out / f"seen-{rank}.json").read_text()) for rank in range(2)], out


def test_a_stop_of_one_process_stops_both_behind_the_same_batch_and_keeps_it(seen):
    for told in seen[0]:
        assert told["stopped"].startswith(f"KeyboardInterrupt: stopped after {told['then']} answers; --resume goes on")
        assert 0 < told["then"] < 2 * 11 * 3


def test_both_go_on_to_the_results_and_lines_of_one_process(seen, folder, tmp_path):
    spec = importlib.util.spec_from_file_location("evaluate_in_two_processes", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    tasks = [script.WRITTEN, script.PICK]
    model, tokenizer = script.load(str(folder))
    expected = evaluate_few_shot(model, tokenizer, tasks, out=tmp_path / "one", **script.HOW)
    for told in seen[0]:
        same(told["resumed"], json.loads(json.dumps(expected["results"])))
    same(lines(seen[1] / "few"), lines(tmp_path / "one"))


def test_a_folder_with_answers_is_refused_in_both(seen):
    for told in seen[0]:
        assert told["again"].startswith("ValueError: the folder of results must be new")


def test_a_question_that_one_process_cannot_ask_ends_both(seen):
    words = [told["long"] for told in seen[0]]
    assert words[0] == f"RuntimeError: process 1 could not go on: {words[1]}"
    assert "question far of long" in words[1]
