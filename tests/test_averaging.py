"""The mean of several models: by hand, of any numbers and types, whole and still tied; what has none."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM

from vaswani_transformer import VaswaniTransformerConfig, VaswaniTransformerForConditionalGeneration
from vaswani_transformer.averaging import average_checkpoints
from vaswani_transformer.checkpoints import last_checkpoints

from .test_checkpoints import _flip, contents, names, save


def folders_with(tmp_path: Path, *weights: dict[str, torch.Tensor]) -> list[Path]:
    folders = []
    for index, tensors in enumerate(weights):
        folder = tmp_path / f"m{index}"
        folder.mkdir()
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps({"index": index}))
        folders.append(folder)
    return folders


def test_the_average_is_the_mean_by_hand_and_takes_the_last_ones_configuration(tmp_path):
    weights = [{"a": torch.randn(3, 5), "b": torch.randn(2)} for _ in range(3)]
    out = average_checkpoints(folders_with(tmp_path, *weights), tmp_path / "out")
    mean = load_file(out / "model.safetensors")
    for name in ("a", "b"):
        torch.testing.assert_close(mean[name], torch.stack([w[name] for w in weights]).mean(0))
    assert json.loads((out / "config.json").read_text()) == {"index": 2}
    assert names(out) == ["config.json", "model.safetensors"]


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=6))
def test_the_average_of_any_numbers_is_their_mean(tmp_path_factory, values):
    tmp_path = tmp_path_factory.mktemp("average")
    folders = folders_with(tmp_path, *({"a": torch.tensor([value])} for value in values))
    mean = load_file(average_checkpoints(folders, tmp_path / "out") / "model.safetensors")["a"]
    torch.testing.assert_close(mean.item(), float(np.mean(values)), rtol=1e-5, atol=1e-3)


def test_bfloat16_is_summed_in_float32_and_stays_bfloat16(tmp_path):
    values = [256.0, *[1.0] * 7]  # in bfloat16 256 + 1 is 256
    folders = folders_with(tmp_path, *({"a": torch.tensor([v], dtype=torch.bfloat16)} for v in values))
    mean = load_file(average_checkpoints(folders, tmp_path / "out") / "model.safetensors")["a"]
    assert mean.dtype == torch.bfloat16
    assert mean.item() == torch.tensor(263 / 8, dtype=torch.bfloat16).item() != 32.0


def test_the_inputs_of_an_average_are_not_changed(tmp_path):
    folders = folders_with(tmp_path, {"a": torch.ones(2)}, {"a": torch.zeros(2)})
    before = [contents(folder) for folder in folders]
    average_checkpoints(folders, tmp_path / "out")
    assert [contents(folder) for folder in folders] == before


def test_an_average_leaves_other_files_of_its_folder_alone_and_no_training_state(tmp_path):
    folder, out = tmp_path / "checkpoints", tmp_path / "run"
    out.mkdir()
    (out / "run.json").write_text("{}")
    save(folder, 1, 3)
    average_checkpoints(last_checkpoints(folder, 2), out)
    assert names(out) == ["model.safetensors", "run.json"]
    assert load_file(out / "model.safetensors")["weight"].unique().tolist() == [2.0]
    assert names(tmp_path) == ["checkpoints", "run"]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"a": torch.zeros(2), "c": torch.zeros(1)}, "differ in"),
        ({"a": torch.zeros(3), "n": torch.tensor([1])}, r"a: \(2,\) in .*m0, \(3,\) in .*m1"),
        ({"a": torch.zeros(2), "n": torch.tensor([2])}, r"torch\.int64.*got n"),
    ],
)
def test_models_that_differ_in_more_than_values_are_not_averaged(tmp_path, second, message):
    folders = folders_with(tmp_path, {"a": torch.zeros(2), "n": torch.tensor([1])}, second)
    with pytest.raises(ValueError, match=message):
        average_checkpoints(folders, tmp_path / "out")
    assert names(tmp_path) == ["m0", "m1"]


def test_a_damaged_checkpoint_is_not_averaged(tmp_path):
    paths = save(tmp_path, 1, 2)
    _flip(paths[0] / "model.safetensors")
    with pytest.raises(ValueError, match=r"step-00000001: model\.safetensors has other contents"):
        average_checkpoints(paths, tmp_path / "out")


@pytest.mark.parametrize(
    ("paths", "out", "message"),
    [
        ([], "out", "at least one"),
        (["m0"], "m0", "must not overwrite"),
        (["m9"], "out", "m9"),
        (["empty"], "out", "neither"),
    ],
)
def test_paths_that_make_no_average_are_refused(tmp_path, paths, out, message):
    folders_with(tmp_path, {"a": torch.zeros(2)})
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        average_checkpoints([tmp_path / path for path in paths], tmp_path / out)


def test_an_average_is_not_written_beside_weights_of_another_split(tmp_path):
    folders = folders_with(tmp_path, {"a": torch.zeros(2)})
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model-00001-of-00002.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="00001-of-00002"):
        average_checkpoints(folders, tmp_path / "out")


def seq2seq_model(seed: int) -> VaswaniTransformerForConditionalGeneration:
    torch.manual_seed(seed)
    config = VaswaniTransformerConfig(
        vocab_size=60, d_model=16, d_ff=16, num_heads=2, d_k=8, d_v=8, num_encoder_layers=1, num_decoder_layers=1
    )
    return VaswaniTransformerForConditionalGeneration(config)


@pytest.mark.parametrize("shard", ["50GB", "2KB"])
def test_an_averaged_model_loads_through_its_auto_class_with_its_weights_still_tied(tmp_path, shard):
    models = [seq2seq_model(seed) for seed in (1, 2)]
    for index, network in enumerate(models):
        network.save_pretrained(tmp_path / f"m{index}", max_shard_size=shard)
    assert (shard == "2KB") == (tmp_path / "m0" / "model.safetensors.index.json").exists()
    out = average_checkpoints([tmp_path / "m0", tmp_path / "m1"], tmp_path / "out")
    loaded, info = AutoModelForSeq2SeqLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert loaded.get_output_embeddings().weight.data_ptr() == loaded.get_input_embeddings().weight.data_ptr()
    first, second = (dict(network.named_parameters()) for network in models)
    for name, weight in loaded.named_parameters():
        torch.testing.assert_close(weight, (first[name] + second[name]) / 2)
