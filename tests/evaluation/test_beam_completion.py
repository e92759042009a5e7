"""GPT-3's beam search: against all texts there are, against a plain search, and from end to end."""

import itertools
import json
import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

from vaswani_cli import main
from vaswani_transformer import VaswaniGPT2Tokenizer, VaswaniGPTConfig, VaswaniGPTForCausalLM
from vaswani_transformer.evaluation import beam_completion, evaluate_few_shot
from vaswani_transformer.evaluation.beam_completion import beam_complete, beam_search, line_ends
from vaswani_transformer.evaluation.free_text import Writer
from vaswani_transformer.evaluation.tasks import Question, Task

SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
ENDS = (3, 5)
MANY = range(0, 40, 5)


def louder(model: Any) -> Any:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def made(kind: str, size: int) -> Any:
    torch.manual_seed(0)
    if kind == "ours":
        return louder(VaswaniGPTForCausalLM(VaswaniGPTConfig(vocab_size=size, max_position_embeddings=64, **SIZES)))
    if kind == "gpt2":
        return louder(
            GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=size,
                    n_positions=64,
                    n_embd=16,
                    n_layer=2,
                    n_head=2,
                    bos_token_id=None,
                    eos_token_id=None,
                )
            )
        )
    if kind == "no cache":
        config = OpenAIGPTConfig(vocab_size=size, n_positions=64, n_embd=16, n_layer=2, n_head=2)
        return louder(OpenAIGPTLMHeadModel(config))
    if kind == "recurrent":
        return louder(MambaForCausalLM(MambaConfig(vocab_size=size, hidden_size=16, num_hidden_layers=2, state_size=4)))
    if kind == "recurrent and attention":
        mixed: dict[str, Any] = {"layer_types": ["linear_attention", "full_attention"], "head_dim": 8, "num_experts": 2}
        heads: dict[str, Any] = {f"linear_num_{kind}_heads": 2 for kind in ("key", "value")}
        widths: dict[str, Any] = {f"linear_{kind}_head_dim": 8 for kind in ("key", "value")}
        small: dict[str, Any] = SIZES | {
            "intermediate_size": 8,
            "moe_intermediate_size": 8,
            "shared_expert_intermediate_size": 8,
        }
        config = Qwen3NextConfig(
            vocab_size=size, num_key_value_heads=1, num_experts_per_tok=1, **mixed, **heads, **widths, **small
        )
        return louder(Qwen3NextForCausalLM(config))
    config = LlamaConfig(vocab_size=size, intermediate_size=32, num_key_value_heads=1, pad_token_id=0, **SIZES)
    return louder(LlamaForCausalLM(config))


KINDS = ("ours", "gpt2", "rotary, grouped", "no cache", "recurrent", "recurrent and attention")
PROMPTS = [[1, 2, 4, 6], [6], [2, 2, 1, 4, 6, 1, 2], [4, 1]]


def batch(prompts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    return ids, torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])


def next_log_probs(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)


def penalised(log_prob: float, length: int) -> float:
    return log_prob / ((5 + length) / 6) ** 0.6


def every_text(model: Any, prompt: list[int], size: int, limit: int) -> list[tuple[float, list[int]]]:
    """All texts that end within the limit, with their scores."""
    found = []
    for length in range(1, limit + 1):
        living = [token for token in range(size) if token not in ENDS]
        for before in itertools.product(living, repeat=length - 1):
            log_prob = 0.0
            for place, token in enumerate(before):
                log_prob += float(next_log_probs(model, [*prompt, *before[:place]])[token])
            last = next_log_probs(model, [*prompt, *before])
            found += [(penalised(log_prob + float(last[end]), length), [*before, end]) for end in ENDS]
    return found


def test_a_search_as_wide_as_all_texts_finds_the_best_of_them():
    model, size = made("gpt2", 7), 7
    ids, mask = batch(PROMPTS)
    found = beam_search(model, ids, mask, new_tokens=3, ends=ENDS, beams=40)
    for prompt, text in zip(PROMPTS, found, strict=True):
        score, best = max(every_text(model, prompt, size, 3))
        if text[-1] in ENDS:
            assert text == best
        assert score > -100
    assert sum(text[-1] in ENDS for text in found) >= 3


def plain_search(model: Any, prompt: list[int], limit: int, *, ends: Sequence[int]) -> list[int]:
    """The same search, a text at a time, without a cache."""
    beams = 4
    living: list[tuple[float, list[int]]] = [(0.0, [])]
    ended: list[tuple[float, list[int]]] = []
    for length in range(1, limit + 1):
        more = []
        for log_prob, text in living:
            values, tokens = next_log_probs(model, prompt + text).topk(min(2 * beams, model.config.vocab_size))
            more += [(log_prob + float(v), [*text, int(t)]) for v, t in zip(values, tokens, strict=True)]
        more = sorted(more, reverse=True)[: 2 * beams]
        ended += [(penalised(value, length), text) for value, text in more if text[-1] in ends]
        living = [(value, text) for value, text in more if text[-1] not in ends][:beams]
    return max(ended or living)[1]


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_of_all_lengths_together_are_answered_as_by_a_plain_search_of_each(kind):
    model = made(kind, 40)
    rng = random.Random(0)
    prompts = PROMPTS + [[rng.randrange(40) for _ in range(rng.randrange(1, 9))] for _ in range(8)]
    ids, mask = batch(prompts)
    lengths = set()
    for ends in (ENDS, MANY):
        found = beam_search(model, ids, mask, new_tokens=7, ends=ends)
        assert found == [plain_search(model, prompt, 7, ends=ends) for prompt in prompts]
        lengths |= {len(text) for text in found}
    assert len(lengths) > 1


def test_a_greater_penalty_finds_longer_texts(monkeypatch):
    model = made("gpt2", 40)
    ids, mask = batch([[number] for number in range(30)])
    found = beam_search(model, ids, mask, new_tokens=7, ends=MANY)
    monkeypatch.setattr(beam_completion, "LENGTH_PENALTY", 3.0)
    longer = beam_search(model, ids, mask, new_tokens=7, ends=MANY)
    assert sum(map(len, longer)) > sum(map(len, found))


@pytest.fixture(scope="module")
def tokenizer() -> VaswaniGPT2Tokenizer:
    return VaswaniGPT2Tokenizer.train(["the cat sat\non the mat.\n\nand so on"] * 20, vocab_size=300)


def test_a_text_ends_with_the_model_or_a_token_that_holds_a_lines_end(tokenizer):
    model = made("gpt2", len(tokenizer))
    model.generation_config.eos_token_id = [7, 8]
    ends = line_ends(model, tokenizer)
    assert {7, 8, tokenizer.eos_token_id} <= set(ends)
    others = set(ends) - {7, 8, tokenizer.eos_token_id}
    assert others == {n for n in range(len(tokenizer)) if "\n" in tokenizer.decode([n])} - {7, 8}
    assert tokenizer("\n")["input_ids"][0] in others


def questions() -> list[Question]:
    rng = random.Random(3)
    words = ("the", "cat", "sat", "on", "mat", "and", "so")
    return [
        Question(str(n), (" ".join(rng.choices(words, k=rng.randint(2, 6))),), (" the mat and so on",))
        for n in range(9)
    ]


WRITTEN = Task(name="written", kind="completion", queries=questions, metrics=("f1", "bleu"), delimiter="\n")


def test_four_beams_are_told_in_the_settings_and_write_each_prompts_best_text(tokenizer, tmp_path):
    model = made("ours", len(tokenizer))
    found = evaluate_few_shot(model, tokenizer, [WRITTEN], shots=(0, 1), beams=4, batch_tokens=200, out=tmp_path / "o")
    assert (found["settings"]["beams"], found["settings"]["length_penalty"]) == (4, 0.6)
    assert {"f1", "f1_stderr", "bleu", "bleu_stderr"} <= set(found["results"]["written"]["1"])
    lines = (tmp_path / "o" / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    ends = line_ends(model, tokenizer)
    new_tokens = len(tokenizer(" the mat and so on")["input_ids"]) + 4
    for record in map(json.loads, lines):
        prompt = tokenizer(record["prompt"])["input_ids"]
        (text,) = beam_complete(model, tokenizer, [prompt], new_tokens=new_tokens, ends=ends)
        assert record["text"] == text.lstrip(" ").partition("\n")[0].strip()
    assert any(record["text"] for record in map(json.loads, lines))


def test_the_verb_takes_beams(tokenizer, tmp_path, capsys):
    made("ours", len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"question": f"who sat {n}", "answer": ["the cat"]} for n in range(3)]
    (tmp_path / "nq.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = ["evaluate", str(tmp_path / "model"), "--tasks", "nq_open", "--data", f"nq_open={tmp_path / 'nq.jsonl'}"]
    assert main([*words, "--shots", "0", "--beams", "4", "--out", str(tmp_path / "out")]) == 0
    assert "nq_open em" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "results.json").read_text())["settings"]["beams"] == 4


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no"), RuntimeError("can't allocate memory: 1 TB")])
@pytest.mark.parametrize("beams", [1, 4])
def test_a_batch_that_memory_does_not_hold_is_written_in_halves(beams, error, tokenizer, monkeypatch, caplog):
    model = made("ours", len(tokenizer))
    prompts = [tokenizer(question.contexts[0])["input_ids"] for question in questions()]
    expected = Writer(model, tokenizer, beams=beams, batch_tokens=4000)(prompts, 6)
    forward, rows = type(model).forward, []

    def short(self: Any, input_ids: torch.Tensor, **more: Any) -> Any:
        if len(input_ids) > 2 * beams:
            raise error
        rows.append(len(input_ids))
        return forward(self, input_ids, **more)

    monkeypatch.setattr(type(model), "forward", short)
    writer = Writer(model, tokenizer, beams=beams, batch_tokens=4000)
    assert writer(prompts, 6) == expected
    assert writer.batch_tokens < 4000
    assert max(rows) <= 2 * beams
    assert "going on with batches of" in caplog.text


def test_another_error_and_a_single_prompt_too_large_are_raised(tokenizer, monkeypatch):
    model = made("ours", len(tokenizer))

    def fail(self: Any, **more: Any) -> Any:
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(type(model), "forward", fail)
    with pytest.raises(torch.OutOfMemoryError):
        Writer(model, tokenizer, beams=4, batch_tokens=99)([[1, 2]], 3)
    monkeypatch.setattr(type(model), "forward", lambda self, **more: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Writer(model, tokenizer, beams=4, batch_tokens=99)([[1, 2], [3]], 3)
