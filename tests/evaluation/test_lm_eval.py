"""Our scorer inside lm-eval against lm-eval's own `hf` model on the same requests, and what is said without lm-eval."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from vaswani_cli import main
from vaswani_transformer import VaswaniGPT2Tokenizer, VaswaniGPTConfig, VaswaniGPTForCausalLM

ROOT = Path(__file__).resolve().parent.parent.parent
NEEDED = "compares with lm-eval: needs the package lm-eval, of the extra `lm-eval`"
WORDS = ("the", "cat", "dog", "sat", "ran", "on", "mat", "house", "red", "old", "new", "saw", "was", "good", "bad")
CONTEXT = 48
TASK = {
    "task": "toy",
    "dataset_path": "json",
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "{{text}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{right}}",
    "metadata": {"version": 1},
}


def text(rng: random.Random, least: int = 2, most: int = 6) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(least, most)))


@pytest.fixture(scope="module")
def tokenizer() -> VaswaniGPT2Tokenizer:
    rng = random.Random(0)
    return VaswaniGPT2Tokenizer.train([text(rng, 9, 20) + "\nQ: A:" for _ in range(50)], vocab_size=320)


def build(kind: str, tokenizer: VaswaniGPT2Tokenizer) -> Any:
    torch.manual_seed(0)
    ends: dict[str, Any] = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    if kind == "gpt2":
        sizes: dict[str, Any] = {"n_positions": CONTEXT, "n_embd": 32, "n_layer": 2, "n_head": 2}
        made: Any = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes, **ends))
    else:
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": len(tokenizer)}
        sizes |= {"max_position_embeddings": CONTEXT} | ends
        if kind == "llama":
            made = LlamaForCausalLM(LlamaConfig(intermediate_size=64, num_key_value_heads=1, **sizes))
        else:
            made = VaswaniGPTForCausalLM(VaswaniGPTConfig(norm_order="pre", **sizes))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return made.eval()


@pytest.fixture(scope="module", params=["ours", "gpt2", "llama"])
def pair(request, tokenizer) -> tuple[Any, Any]:
    """Our lm-eval model and lm-eval's own, of the same weights."""
    huggingface = pytest.importorskip("lm_eval.models.huggingface", reason=NEEDED)
    from vaswani_transformer.evaluation.lm_eval_model import VaswaniLM

    model = build(request.param, tokenizer)
    theirs = huggingface.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3, device="cpu")
    return VaswaniLM(model, tokenizer=tokenizer, batch_tokens=150), theirs


def instances(kind: str, arguments: list[Any]) -> list[Any]:
    from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]

    return [Instance(kind, {}, given, number) for number, given in enumerate(arguments)]


def choices(rng: random.Random, contexts: list[str]) -> list[tuple[str, str]]:
    return [(context, f" {text(rng)}") for context in contexts for _ in range(3)]


def equal(pair: tuple[Any, Any], requests: list[tuple[str, str]]) -> None:
    ours, theirs = (side.loglikelihood(instances("loglikelihood", requests), disable_tqdm=True) for side in pair)
    assert len(ours) == len(requests)
    assert [score for score, _ in ours] == pytest.approx([score for score, _ in theirs], abs=1e-4)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


def test_log_likelihoods_of_choices_are_those_of_lm_evals_own_model(pair):
    rng = random.Random(1)
    equal(pair, choices(rng, [text(rng) for _ in range(8)]))


def test_log_likelihoods_behind_shots_that_all_questions_share_are_too(pair):
    rng = random.Random(2)
    shots = text(rng, 20, 20)
    equal(pair, choices(rng, [f"{shots}\n{text(rng)}" for _ in range(5)]))


def test_the_choices_of_a_question_are_one_row_whatever_their_contexts_and_have_lm_evals_likelihood(pair, monkeypatch):
    from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]

    rng, requests = random.Random(8), []
    for doc in range(4):  # contexts that differ within a question, then its continuation alone
        shots, ending = text(rng, 12, 12), f" {text(rng)}"
        contexts = [f"{shots}\nthe {word} sat" for word in ("cat", "dog")] + ["", ""]
        for number, context in enumerate(contexts):
            given = (context, ending if context else f" {text(rng)}")
            requests.append(Instance("loglikelihood", {}, given, number, metadata=("toy", doc, 1)))
    sizes: list[int] = []
    scorer = pair[0].scorer
    monkeypatch.setattr(pair[0], "scorer", lambda groups: sizes.extend(map(len, groups)) or scorer(groups))
    ours, theirs = (side.loglikelihood(requests, disable_tqdm=True) for side in pair)
    assert sizes == [2] * 8
    assert [score for score, _ in ours] == pytest.approx([score for score, _ in theirs], abs=1e-4)


def test_an_empty_context_a_space_at_its_end_and_a_start_token_in_it_are_lm_evals(pair, tokenizer):
    rng = random.Random(3)
    requests = choices(rng, ["", "the cat ", f"{tokenizer.bos_token}the cat", "the dog\n\n"])
    equal(pair, [*requests, ("", f"{tokenizer.bos_token}the mat")])


def test_a_context_too_long_is_cut_like_lm_evals_and_told(pair, caplog):
    rng = random.Random(4)
    equal(pair, choices(rng, [text(rng, 90, 90), text(rng, 60, 60)]))
    assert "6 of 6 requests are longer than 48 tokens" in caplog.text


def test_whole_texts_longer_than_the_context_have_lm_evals_likelihood(pair):
    rng = random.Random(5)
    requests = instances("loglikelihood_rolling", [(text(rng, size, size),) for size in (3, 60, 200, 1)] + [("",)])
    ours, theirs = (side.loglikelihood_rolling(requests, disable_tqdm=True) for side in pair)
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_text_is_written_like_lm_evals_up_to_a_stop(pair):
    rng = random.Random(6)
    how = [{"until": ["\n", " the"], "max_gen_toks": 12}, {"until": [], "max_gen_toks": 5, "do_sample": False}]
    requests = instances("generate_until", [(text(rng, 2, 70), how[i % 2]) for i in range(9)])
    ours, theirs = (side.generate_until(requests, disable_tqdm=True) for side in pair)
    assert ours == theirs
    assert any(ours)


def test_no_room_for_new_tokens_is_told_with_the_way_out(pair):
    with pytest.raises(ValueError, match="max_gen_toks=256 of 48"):
        pair[0].generate_until(instances("generate_until", [("the cat", {"until": ["\n"]})]))


@pytest.fixture(scope="module")
def asked(tokenizer, tmp_path_factory) -> Path:
    """A folder with a model and a task of lm-eval's form."""
    pytest.importorskip("lm_eval", reason=NEEDED)
    path = tmp_path_factory.mktemp("asked")
    build("ours", tokenizer).save_pretrained(path / "model")
    tokenizer.save_pretrained(path / "model")
    rng = random.Random(7)
    rows = [{"text": text(rng), "choices": [text(rng) for _ in range(3)], "right": i % 3} for i in range(9)]
    (path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = TASK | {"dataset_kwargs": {"data_files": {"test": str(path / "rows.jsonl")}}}
    (path / "tasks").mkdir()
    (path / "tasks" / "toy.yaml").write_text(json.dumps(task), encoding="utf-8")
    return path


def words(asked: Path, model: str, out: Path) -> list[str]:
    given = ["run", "--model", model, "--model_args", f"pretrained={asked / 'model'}", "--tasks", "toy"]
    given += ["--include_path", str(asked / "tasks"), "--num_fewshot", "2", "--device", "cpu"]
    return ["lm-eval", *given, "--output_path", str(out), "--log_samples"]


def samples(out: Path) -> list[tuple[Any, list[float]]]:
    (path,) = out.rglob("samples_toy_*.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows.sort(key=lambda row: row["doc_id"])
    return [(row["arguments"], [float(answer[0][0]) for answer in row["resps"]]) for row in rows]


def same(found: list[tuple[Any, list[float]]], expected: list[tuple[Any, list[float]]]) -> None:
    assert [prompt for prompt, _ in found] == [prompt for prompt, _ in expected]
    for (_, scores), (_, others) in zip(found, expected, strict=True):
        assert scores == pytest.approx(others, abs=1e-4)


def run(command: list[str], asked: Path, **more: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    environment |= {"HF_HOME": str(asked / "cache")} | more
    done = subprocess.run(
        [sys.executable, "-m", *command], env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_command_runs_a_task_of_lm_eval_in_one_and_two_processes_like_lm_evals_own_model(asked, tmp_path):
    assert "vaswani (" in run(["vaswani_cli", *words(asked, "vaswani", tmp_path / "one")], asked)
    run(["vaswani_cli", *words(asked, "hf", tmp_path / "hf")], asked)
    expected = samples(tmp_path / "hf")
    assert len(expected) == 9
    same(samples(tmp_path / "one"), expected)
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "--module"]
    two = [*launch, "vaswani_cli", *words(asked, "vaswani", tmp_path / "two")]
    assert run(two, asked, ACCELERATE_USE_CPU="1").count("vaswani (") == 1
    same(samples(tmp_path / "two"), expected)


def test_without_lm_eval_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval", None)  # importing it fails, as where it is not installed
    for name in [name for name in sys.modules if name.startswith("lm_eval.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "vaswani_transformer.evaluation.lm_eval_model", raising=False)
    assert main(["lm-eval", "run", "--tasks", "hellaswag"]) == 2
    assert "pip install 'vaswani-transformer[lm-eval]'" in capsys.readouterr().err
