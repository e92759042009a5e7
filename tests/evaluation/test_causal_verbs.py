"""`vaswani generate` and `vaswani perplexity`, against transformers' generate and the function of the figures."""

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from tokenizers.processors import TemplateProcessing

from vaswani_cli import main
from vaswani_transformer import (
    VaswaniGPT2Tokenizer,
    VaswaniGPTConfig,
    VaswaniGPTForCausalLM,
    VaswaniGPTForSequenceClassification,
)
from vaswani_transformer.data.gpt_inputs import add_special_tokens
from vaswani_transformer.evaluation.causal_lm import load_causal_lm
from vaswani_transformer.evaluation.completion import SAMPLING, prompt_ids, search_options
from vaswani_transformer.evaluation.perplexity import perplexity
from vaswani_transformer.models.tokenization_gpt import _english_words

PROMPTS = ["a hat and a dog", "a", "a dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy GPT with its tokenizer; its texts start behind <|endoftext|>."""
    torch.manual_seed(0)
    tokenizer = VaswaniGPT2Tokenizer.train(["a hat, a dog and a hat"], vocab_size=264)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    sizes |= {"vocab_size": 264, "max_position_embeddings": 32, "eos_token_id": tokenizer.eos_token_id}
    config = VaswaniGPTConfig(**sizes, norm_order="pre")
    model = VaswaniGPTForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("gpt")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def expected(folder: Path):
    """What transformers' own search writes behind a prompt, and the prompt."""
    model, tokenizer = load_causal_lm(folder)

    def write(prompt: str, **options: Any) -> tuple[str, str]:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        found = model.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **options)[0]
        decode: Any = tokenizer.decode
        return decode(found, skip_special_tokens=True), decode(found[ids.shape[1] :], skip_special_tokens=True)

    return write


def typed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


# --- generate --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "options"),
    [
        (["--greedy"], {"do_sample": False}),
        (["--beams", "3"], {"do_sample": False, "num_beams": 3}),
        ([], {"do_sample": True, "temperature": 0.8, "top_k": 40, "top_p": 0.95}),
        (["--temperature", "1.5", "--top-k", "0", "--top-p", "1"], {"do_sample": True, "temperature": 1.5, "top_k": 0}),
    ],
)
def test_a_prompt_is_gone_on_with_as_transformers_does(folder, expected, capsys, flags, options):
    assert main(["generate", str(folder), PROMPTS[0], "--max-new-tokens", "9", "--seed", "5", *flags]) == 0
    torch.manual_seed(5)
    assert capsys.readouterr().out == expected(PROMPTS[0], max_new_tokens=9, **options)[0] + "\n"


def test_the_text_is_written_token_by_token(folder, monkeypatch):
    writes: list[str] = []
    sink = SimpleNamespace(write=writes.append, flush=lambda: None)
    monkeypatch.setattr(sys, "stdout", sink)
    assert main(["generate", str(folder), "a dog", "--greedy", "--max-new-tokens", "12"]) == 0
    streamed = len([text for text in writes if text.strip()])
    writes.clear()
    assert main(["generate", str(folder), "a dog", "--beams", "2", "--max-new-tokens", "12"]) == 0
    assert streamed > len(writes) == 1  # a beam search writes at its end


def test_several_prompts_are_several_texts(folder, expected, capsys):
    assert main(["generate", str(folder), *PROMPTS, "--greedy", "--max-new-tokens", "4"]) == 0
    whole = [expected(prompt, max_new_tokens=4, do_sample=False)[0] for prompt in PROMPTS]
    assert capsys.readouterr().out == "".join(f"{text}\n" for text in whole)


def test_standard_input_is_one_prompt_with_its_line_breaks(folder, expected, capsys, monkeypatch):
    typed(monkeypatch, b"a hat\na dog\n")
    assert main(["generate", str(folder), "--greedy", "--max-new-tokens", "4"]) == 0
    assert capsys.readouterr().out == expected("a hat\na dog", max_new_tokens=4, do_sample=False)[0] + "\n"


def test_at_a_terminal_every_line_is_answered_and_a_bad_one_does_not_end_it(folder, expected, capsys, monkeypatch):
    lines = iter(["a hat\n", "a dog " * 40 + "\n", "a dog\n", ""])
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True, readline=lambda: next(lines)))
    assert main(["generate", str(folder), "--greedy", "--max-new-tokens", "4"]) == 0
    shown = capsys.readouterr()
    new = [expected(prompt, max_new_tokens=4, do_sample=False)[1] for prompt in ("a hat", "a dog")]
    assert shown.out == "".join(f"{text}\n" for text in new)
    assert "must fit the model's context of 32" in shown.err


@pytest.mark.parametrize("batch_tokens", ["1", "40", "4096"])
def test_a_file_is_written_in_batches_and_in_order(folder, expected, tmp_path, batch_tokens):
    (tmp_path / "prompts.txt").write_text("".join(f"{prompt}\n" for prompt in PROMPTS))
    words = ["--file", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "out.jsonl")]
    more = ["--greedy", "--max-new-tokens", "6", "--batch-tokens", batch_tokens]
    assert main(["generate", str(folder), *words, *more]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    new = [expected(prompt, max_new_tokens=6, do_sample=False)[1] for prompt in PROMPTS]
    assert rows == [{"prompt": prompt, "text": text} for prompt, text in zip(PROMPTS, new, strict=True)]


def test_a_bad_line_of_a_file_is_told_by_its_number(folder, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a\n" + "a dog " * 40 + "\n")
    assert main(["generate", str(folder), "--file", str(tmp_path / "prompts.txt"), "--greedy"]) == 2
    assert "prompts.txt:2: prompt and new tokens must fit" in capsys.readouterr().err


def test_the_same_seed_draws_the_same_text_and_none_draws_another(folder, capsys):
    found = []
    for flags in (["--seed", "1"], ["--seed", "1"], [], []):
        assert main(["generate", str(folder), "a", *flags]) == 0
        found.append(capsys.readouterr())
    assert found[0].out == found[1].out
    assert found[2].out != found[3].out
    seed = found[2].err.split("--seed ")[1].split()[0]
    assert main(["generate", str(folder), "a", "--seed", seed]) == 0
    assert capsys.readouterr().out == found[2].out


def test_an_empty_prompt_starts_at_the_models_end_of_text(folder, capsys):
    model, tokenizer = load_causal_lm(folder)
    assert main(["generate", str(folder), "", "--greedy", "--max-new-tokens", "5"]) == 0
    ids = model.generate(torch.tensor([[tokenizer.eos_token_id]]), max_new_tokens=5, do_sample=False)[0]
    assert capsys.readouterr().out == f"{tokenizer.decode(ids, skip_special_tokens=True)}\n"


@pytest.mark.parametrize("template", ["<bos> $A", "<bos> $A <eos>", "$A <eos>", "$A"])
@pytest.mark.parametrize("prompt", ["a hat", "", "<eos>"])
def test_what_a_tokenizer_puts_behind_a_text_ends_no_prompt_and_what_it_puts_before_one_stays(folder, template, prompt):
    model, tokenizer = load_causal_lm(folder)
    tokenizer.add_special_tokens({"bos_token": "<bos>", "eos_token": "<eos>"})
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<bos>", "<eos>")]
    backend: Any = tokenizer.backend_tokenizer  # pyright: ignore[reportAttributeAccessIssue]
    backend.post_processor = TemplateProcessing(single=template, special_tokens=special)
    text = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    expected = [tokenizer.bos_token_id] * (template[0] == "<" or not prompt) + text
    assert prompt_ids(model, tokenizer, prompt, new_tokens=1) == expected


@pytest.mark.parametrize("prompt", ["a hat", ""])
def test_a_fine_tuned_folder_goes_on_behind_its_start_token_and_the_prompt(folder, tmp_path, capsys, prompt):
    tokenizer = VaswaniGPT2Tokenizer.from_pretrained(folder)
    classifier = VaswaniGPTForSequenceClassification.from_pretrained(folder, lm_loss_weight=0.5)
    add_special_tokens(tokenizer, classifier)
    classifier.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert main(["generate", str(tmp_path), prompt, "--greedy", "--max-new-tokens", "5"]) == 0
    ids = [tokenizer.bos_token_id, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    asked = {"attention_mask": torch.ones(1, len(ids)), "max_new_tokens": 5, "do_sample": False}
    found = load_causal_lm(tmp_path)[0].generate(torch.tensor([ids]), **asked)[0]
    assert capsys.readouterr().out == tokenizer.decode(found, skip_special_tokens=True) + "\n"


def test_the_models_own_settings_come_before_the_defaults(folder):
    model, _ = load_causal_lm(folder)
    assert search_options(model) == {"do_sample": True, "num_beams": 1, **SAMPLING}
    model.generation_config.update(do_sample=True, top_p=0.5)
    assert search_options(model, temperature=2.0) == {**search_options(model), "temperature": 2.0, "top_p": 0.5}


@pytest.mark.parametrize("name", ["GPT2", "OpenAIGPT"])
def test_a_folder_of_transformers_gpts_is_read_as_ours(tmp_path, folder, capsys, name):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")
    fields = {"vocab_size": 264, "n_embd": 16, "n_head": 2, "n_layer": 1, "n_positions": 32}
    peer = getattr(transformers, f"{name}LMHeadModel")(config(**fields, bos_token_id=0, eos_token_id=0)).eval()
    peer.save_pretrained(tmp_path)
    tokenizer = VaswaniGPT2Tokenizer.from_pretrained(folder)
    tokenizer.save_pretrained(tmp_path)
    assert type(load_causal_lm(tmp_path)[0]) is VaswaniGPTForCausalLM
    assert main(["generate", str(tmp_path), "a dog", "--greedy", "--max-new-tokens", "5"]) == 0
    ids = tokenizer("a dog", return_tensors="pt")["input_ids"]
    found = peer.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0)[0]
    assert capsys.readouterr().out == tokenizer.decode(found, skip_special_tokens=True) + "\n"


def test_a_gpt2_whose_switches_are_not_ours_stays_transformers(tmp_path, folder):
    fields: dict[str, Any] = {"vocab_size": 264, "n_embd": 16, "n_head": 2, "n_layer": 1, "n_positions": 32}
    fields["scale_attn_by_inverse_layer_idx"] = True
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**fields)).save_pretrained(tmp_path)
    VaswaniGPT2Tokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    assert type(load_causal_lm(tmp_path)[0]) is transformers.GPT2LMHeadModel


def save_gpt1(folder: Path) -> None:
    """A toy of OpenAI's repository on the Hub: weights, vocab.json, merges.txt."""
    vocab = ["<unk>", "d", "o</w>", "n", "'", "t</w>", "'t</w>", "n't</w>", "do</w>", "on"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(vocab)}))
    (folder / "merges.txt").write_text("#version: 0.2\n' t</w>\nn 't</w>\nd o</w>\n")
    sizes: dict[str, Any] = {"vocab_size": len(vocab), "n_embd": 16, "n_head": 2, "n_layer": 1, "n_positions": 8}
    transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig(**sizes)).save_pretrained(folder)


def test_gpt1s_own_folder_is_read_with_the_words_it_has_learnt(tmp_path):
    pytest.importorskip("spacy", reason="GPT's tokenizer of 2018 needs spaCy, of the extra `gpt1`")
    pytest.importorskip("ftfy", reason="GPT's tokenizer of 2018 needs ftfy, of the extra `gpt1`")
    save_gpt1(tmp_path)
    _, tokenizer = load_causal_lm(tmp_path)
    assert tokenizer.convert_ids_to_tokens(tokenizer("don't")["input_ids"]) == ["do</w>", "n't</w>"]


def test_without_the_extra_gpt1_gets_the_stock_tokenizer_and_a_warning(tmp_path, monkeypatch, caplog):
    save_gpt1(tmp_path)
    monkeypatch.setitem(sys.modules, "ftfy", None)
    _english_words.cache_clear()
    _, tokenizer = load_causal_lm(tmp_path)
    assert type(tokenizer).__name__.startswith("OpenAIGPTTokenizer")
    assert "vaswani-transformer[gpt1]" in caplog.text


# --- perplexity ------------------------------------------------------------------------------------------------------


def documents() -> list[str]:
    return ["a hat\n\nand a dog, a dog, a dog", "a dog", "a hat, a hat"]


def test_a_file_of_rows_is_scored_and_the_figures_are_written(folder, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"body": text}) + "\n" for text in documents()))
    words = [str(rows), "--column", "body", "--window", "9", "--stride", "4", "--out", str(tmp_path / "found.json")]
    assert main(["perplexity", str(folder), *words]) == 0
    expected = perplexity(*load_causal_lm(folder), documents(), window=9, stride=4)
    written = json.loads((tmp_path / "found.json").read_text())
    assert {name: written[name] for name in expected.as_dict()} == pytest.approx(expected.as_dict())
    assert written["model"] == str(folder)
    shown = capsys.readouterr().out
    assert f"{expected.nats_per_token:.4f} nats a token" in shown
    assert f"perplexity {expected.per_word:.2f} of 15 words" in shown


def test_text_files_are_a_document_each_with_their_line_breaks(folder, tmp_path, capsys):
    paths = [tmp_path / f"{number}.txt" for number in range(3)]
    for path, text in zip(paths, documents(), strict=True):
        path.write_text(text + "\n")
    assert main(["perplexity", str(folder), *map(str, paths)]) == 0
    expected = perplexity(*load_causal_lm(folder), documents())
    assert f"perplexity {expected.per_token:.2f} of {expected.tokens} tokens" in capsys.readouterr().out


def test_the_last_rows_of_a_folder_are_named_in_datasets_words(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    lines = [json.dumps({"text": text}) + "\n" for text in ["a", *documents()[1:], "b"] * 10]
    (tmp_path / "data" / "rows.jsonl").write_text("".join(lines))
    assert main(["perplexity", str(folder), str(tmp_path / "data"), "--split", "train[95%:]"]) == 0
    expected = perplexity(*load_causal_lm(folder), [documents()[2], "b"])
    assert f"perplexity {expected.per_token:.2f} of {expected.tokens} tokens" in capsys.readouterr().out
