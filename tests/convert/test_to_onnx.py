"""Graphs for onnxruntime: the same outputs at every size, and texts written with onnxruntime alone."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, GenerationConfig

import vaswani_transformer
from vaswani_cli import main
from vaswani_transformer import (
    VaswaniBertConfig,
    VaswaniGPTConfig,
    VaswaniTransformerConfig,
    VaswaniTransformerForConditionalGeneration,
    VaswaniTransformerTokenizer,
)
from vaswani_transformer.convert import export_to_onnx, to_onnx

NEEDS = "graphs need onnx, onnxscript and onnxruntime, of the extra `onnx`"
ort = pytest.importorskip("onnxruntime", reason=NEEDS)
pytest.importorskip("onnxscript", reason=NEEDS)

SIZES: dict[str, Any] = {"vocab_size": 270, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
SIZES |= {"max_position_embeddings": 20}
TEXTS = ["a hat", "a dog and a hat"]


def randomised(model: Any) -> Any:
    """The model in eval mode with every weight random."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def session(path: Path) -> Any:
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(graph: Any, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A graph's outputs by name; of the inputs those that it has."""
    given = {value.name: inputs[value.name] for value in graph.get_inputs()}
    names = [value.name for value in graph.get_outputs()]
    return dict(zip(names, graph.run(names, given), strict=True))


def empty_cache(graph: Any, rows: int) -> dict[str, np.ndarray]:
    """A cache without a token, of the shapes that the graph asks for."""
    caches = [value for value in graph.get_inputs() if "past_sequence" in value.shape]
    return {value.name: np.zeros((rows, value.shape[1], 0, value.shape[3]), np.float32) for value in caches}


def cached(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a graph put into its cache, as the next call takes it."""
    return {
        name.replace("present", "past_key_values"): value for name, value in outputs.items() if name[:7] == "present"
    }


def ended(ids: list[np.ndarray], end: int, pad: int) -> np.ndarray:
    """Written tokens [B, T] with padding behind the first end."""
    written = np.stack(ids, axis=1)
    after = np.cumsum(written == end, axis=1) - (written == end) > 0
    return np.where(after, pad, written)


@pytest.fixture(scope="module")
def translator(tmp_path_factory) -> tuple[Any, Path]:
    """A translation model, with heads of their own widths, and its graphs."""
    folder = tmp_path_factory.mktemp("translator")
    sizes: dict[str, Any] = {
        "d_model": 16,
        "d_ff": 24,
        "num_heads": 4,
        "d_v": 3,
        "num_encoder_layers": 1,
        "num_decoder_layers": 2,
    }
    config = VaswaniTransformerConfig(vocab_size=270, **sizes)
    model = randomised(VaswaniTransformerForConditionalGeneration(config))
    model.save_pretrained(folder / "ours")
    VaswaniTransformerTokenizer.train(TEXTS, vocab_size=270).save_pretrained(folder / "ours")
    return model, export_to_onnx(folder / "ours", folder / "out")


def test_onnxruntime_alone_translates_greedily_as_our_model_does(translator):
    model, out = translator
    encoder, decoder = session(out / "encoder_model.onnx"), session(out / "decoder_with_past_model.onnx")
    tokenizer, settings = AutoTokenizer.from_pretrained(out), json.loads((out / "generation_config.json").read_text())
    batch = dict(tokenizer(TEXTS, padding=True, return_tensors="np"))
    assert (batch["attention_mask"] == 0).any()
    source = run(encoder, batch)
    ids, written = np.full((2, 1), settings["decoder_start_token_id"]), []
    inputs = {"encoder_attention_mask": batch["attention_mask"], **cached(source), **empty_cache(decoder, 2)}
    for _ in range(12):
        outputs = run(decoder, {**inputs, "input_ids": ids})
        ids = outputs["logits"][:, -1:].argmax(-1)
        written.append(ids[:, 0])
        inputs |= cached(outputs)
    tensors = {name: torch.from_numpy(value) for name, value in batch.items()}
    expected = model.generate(**tensors, num_beams=1, min_new_tokens=0, max_new_tokens=12)[:, 1:].numpy()
    found = ended(written, settings["eos_token_id"], settings["pad_token_id"])
    assert np.array_equal(found[:, : expected.shape[1]], expected)


def test_the_encoders_states_are_our_encoders(translator):
    model, out = translator
    ids = torch.randint(3, 270, (3, 5))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1]])  # padding on either side
    found = run(session(out / "encoder_model.onnx"), {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    with torch.no_grad():
        expected = model.model.encoder(ids, mask).last_hidden_state
    np.testing.assert_allclose(found["last_hidden_state"], expected.numpy(), rtol=0, atol=1e-5)
    assert found["present.1.encoder.key"].shape == (3, 4, 5, 4)
    assert found["present.1.encoder.value"].shape == (3, 4, 5, 3)


def test_nothing_of_this_machine_and_no_code_is_in_the_folder(translator):
    _, out = translator
    for path in out.iterdir():
        assert b"modeling_transformer.py" not in path.read_bytes(), path  # what the exporter notes of each node
    assert "auto_map" not in json.loads((out / "config.json").read_text())
    assert not list(out.glob("*.py"))


def test_onnxruntime_alone_goes_on_with_prompts_as_our_gpt_does(tmp_path, capsys):
    bands: dict[str, Any] = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 3}
    model = randomised(vaswani_transformer.VaswaniGPTForCausalLM(VaswaniGPTConfig(**SIZES, **bands)))
    model.generation_config = GenerationConfig(eos_token_id=7, pad_token_id=0)
    model.save_pretrained(tmp_path / "ours")
    assert main(["export", str(tmp_path / "ours"), "--to", "onnx", "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    graph = session(tmp_path / "out" / "model.onnx")
    prompts, mask = torch.tensor([[0, 0, 5, 6], [8, 9, 10, 11]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    inputs, written = {"attention_mask": mask.numpy(), **empty_cache(graph, 2)}, []
    ids = prompts.numpy()
    for _ in range(10):
        outputs = run(graph, {**inputs, "input_ids": ids})
        ids = outputs["logits"][:, -1:].argmax(-1)
        written.append(ids[:, 0])
        inputs = {"attention_mask": np.pad(inputs["attention_mask"], ((0, 0), (0, 1)), constant_values=1)}
        inputs |= cached(outputs)
    expected = model.generate(prompts, attention_mask=mask, do_sample=False, max_new_tokens=10)[:, 4:].numpy()
    assert np.array_equal(ended(written, 7, 0)[:, : expected.shape[1]], expected)


def test_berts_masked_words_come_out_at_any_size_from_weights_beside_the_graph(tmp_path, monkeypatch):
    monkeypatch.setattr(to_onnx, "ONE_FILE", 0)  # as of more than a GiB
    model = randomised(vaswani_transformer.VaswaniBertForMaskedLM(VaswaniBertConfig(**SIZES, intermediate_size=24)))
    model.save_pretrained(tmp_path / "ours")
    out = export_to_onnx(tmp_path / "ours", tmp_path / "out")
    assert (out / "model.onnx.data").stat().st_size > 4 * 270 * 16  # the embedding, for one
    graph = session(out / "model.onnx")
    for shape in ((1, 1), (4, 3), (2, 20)):
        ids, types = torch.randint(0, 270, shape), torch.randint(0, 2, shape)
        mask = torch.ones(shape, dtype=torch.long)
        mask[0, shape[1] // 2 + 1 :] = 0
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        found = run(graph, {name: value.numpy() for name, value in inputs.items()})["logits"]
        with torch.no_grad():
            expected = model(**inputs).logits
        real = mask.bool().numpy()
        np.testing.assert_allclose(found[real], expected.numpy()[real], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("head", "fields", "shape"),
    [
        ("BertForMultipleChoice", {"intermediate_size": 24}, (2, 4, 6)),
        ("GPTForSequenceClassification", {"both_orders": True, "pad_token_id": 0}, (4, 2, 6)),
    ],
)
def test_several_texts_a_row_may_be_of_any_number(tmp_path, head, fields, shape):
    config: Any = VaswaniBertConfig if "Bert" in head else VaswaniGPTConfig
    model = randomised(getattr(vaswani_transformer, f"Vaswani{head}")(config(**SIZES, **fields)))
    model.save_pretrained(tmp_path / "ours")
    graph = session(export_to_onnx(tmp_path / "ours", tmp_path / "out") / "model.onnx")
    ids = torch.randint(1, 270, shape)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    types = {"token_type_ids": np.zeros(shape, np.int64)}
    found = run(graph, {name: value.numpy() for name, value in inputs.items()} | types)["logits"]
    with torch.no_grad():
        np.testing.assert_allclose(found, model(**inputs).logits.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_without_a_library_the_extra_is_named(tmp_path, monkeypatch, name):
    randomised(vaswani_transformer.VaswaniGPTModel(VaswaniGPTConfig(**SIZES))).save_pretrained(tmp_path / "ours")
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"needs {name}.*pip install 'vaswani-transformer\[onnx\]'"):
        export_to_onnx(tmp_path / "ours", tmp_path / "out")
    assert not (tmp_path / "out").exists()
