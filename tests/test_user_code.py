"""What people write themselves around the model: Trainer, PEFT, device maps, pipelines, the Auto classes."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    pipeline,
)

from vaswani_transformer import (
    VaswaniTransformerConfig,
    VaswaniTransformerForConditionalGeneration,
    VaswaniTransformerModel,
    VaswaniTransformerTokenizer,
)

SOURCES = [
    "white dog",
    "boy",
    "the man in the street",
    "a hat",
    "green grass and a fence",
    "two boys",
    "dog",
    "a man runs",
]
SIZES = {"d_model": 16, "d_ff": 32, "num_heads": 2, "num_encoder_layers": 2, "num_decoder_layers": 2, "dropout": 0.0}


class Sentences(Dataset):
    """Eight pairs of different length, tokenised as the documentation of transformers does."""

    def __init__(self, tokenizer):
        self.rows = [tokenizer(text, text_target=text.upper()) for text in SOURCES]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


@pytest.fixture(scope="module")
def tokenizer():
    return VaswaniTransformerTokenizer.train(SOURCES + [text.upper() for text in SOURCES], vocab_size=300)


@pytest.fixture(scope="module")
def untrained(tokenizer):
    torch.manual_seed(0)
    model = VaswaniTransformerForConditionalGeneration(VaswaniTransformerConfig(vocab_size=len(tokenizer), **SIZES))
    model.generation_config.update(max_extra_tokens=4)  # an untrained model runs to its limit
    return model


@pytest.fixture
def model(untrained):
    return copy.deepcopy(untrained)


@pytest.fixture(scope="module")
def folder(untrained, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    untrained.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def trainer_of(model, tokenizer, folder: Path, **settings) -> Seq2SeqTrainer:
    settings = {"report_to": [], "disable_tqdm": True, "save_strategy": "no", "use_cpu": True, "seed": 1} | settings
    rows = Sentences(tokenizer)
    return Seq2SeqTrainer(
        model=model,
        args=Seq2SeqTrainingArguments(output_dir=str(folder), **settings),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        processing_class=tokenizer,
    )


def test_the_seq2seq_collator_shifts_labels_as_the_model_does(model, tokenizer):
    batch = DataCollatorForSeq2Seq(tokenizer, model=model)([Sentences(tokenizer)[index] for index in (0, 2)])
    assert torch.equal(batch["decoder_input_ids"], model.prepare_decoder_input_ids_from_labels(batch["labels"]))
    alone = {name: value for name, value in batch.items() if name != "decoder_input_ids"}
    assert torch.equal(model(**batch).loss, model(**alone).loss)


def gradients_under_trainer(model, tokenizer, folder, **settings) -> dict[str, torch.Tensor]:
    """One update by plain gradient descent at rate 1: what the weights lost is the gradient."""
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    settings |= {"max_steps": 1, "learning_rate": 1.0, "lr_scheduler_type": "constant", "optim": "sgd"}
    trainer = trainer_of(model, tokenizer, folder, max_grad_norm=0.0, weight_decay=0.0, **settings)
    trainer.train()
    return {name: before[name] - weight.detach() for name, weight in model.named_parameters()}


def test_trainers_gradient_is_the_same_for_one_batch_of_eight_and_four_of_two(untrained, tokenizer, tmp_path):
    whole, parts = (
        gradients_under_trainer(
            copy.deepcopy(untrained),
            tokenizer,
            tmp_path,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=8 // size,
        )
        for size in (8, 2)
    )
    assert max(float(gradient.abs().max()) for gradient in whole.values()) > 1e-2
    for name, gradient in whole.items():
        assert torch.allclose(gradient, parts[name], atol=1e-5), name


def test_seq2seq_trainer_learns_and_predicts_with_generate(model, tokenizer, tmp_path):
    settings = {"num_train_epochs": 30, "learning_rate": 1e-2, "per_device_train_batch_size": 4}
    trainer = trainer_of(
        model,
        tokenizer,
        tmp_path,
        predict_with_generate=True,
        per_device_eval_batch_size=4,
        logging_steps=10,
        **settings,
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before - 1.0
    predictions = np.asarray(trainer.predict(Sentences(tokenizer)).predictions)  # type: ignore[arg-type]
    assert predictions.shape[0] == len(SOURCES)
    rows = [[max(int(i), 0) for i in row] for row in predictions]
    assert any(text.strip() for text in tokenizer.batch_decode(rows, skip_special_tokens=True))


def test_trainers_evaluation_loss_is_the_smoothed_mean_over_tokens(model, tokenizer, tmp_path):
    trainer = trainer_of(model, tokenizer, tmp_path, per_device_eval_batch_size=8)
    rows = Sentences(tokenizer)
    batch = DataCollatorForSeq2Seq(tokenizer, model=model)([rows[index] for index in range(8)])
    assert trainer.evaluate()["eval_loss"] == pytest.approx(model.eval()(**batch).loss.item(), abs=1e-5)


def test_lora_on_queries_and_values_trains_only_itself_and_generates(model, tokenizer):
    peft = pytest.importorskip("peft", reason="needs peft, the extra [peft]")
    settings = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", r=4, target_modules=["q_proj", "v_proj"])
    adapted = peft.get_peft_model(model, settings)
    trained = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert len(trained) == 2 * 2 * (2 + 2 * 2)  # A and B, of q and v, of two layers' attentions
    assert all("lora_" in name for name in trained)
    batch = DataCollatorForSeq2Seq(tokenizer, model=model)([Sentences(tokenizer)[index] for index in range(8)])
    frozen = model.model.shared.weight.detach().clone()
    optimizer = torch.optim.Adam([weight for weight in adapted.parameters() if weight.requires_grad], lr=0.02)
    found = []
    for _ in range(20):
        loss = adapted(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(float(loss.detach()))
    assert found[-1] < found[0] - 0.1
    assert torch.equal(model.model.shared.weight, frozen)
    ids = adapted.eval().generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    assert len(ids) == 8


def test_a_saved_adapter_loads_onto_the_base_model_again(model, tokenizer, folder, tmp_path):
    peft = pytest.importorskip("peft", reason="needs peft, the extra [peft]")
    settings = peft.LoraConfig(
        task_type="SEQ_2_SEQ_LM", r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False
    )
    adapted = peft.get_peft_model(model, settings).eval()
    adapted.save_pretrained(tmp_path)
    base = AutoModelForSeq2SeqLM.from_pretrained(folder)
    again = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    batch = tokenizer(SOURCES[:2], text_target=SOURCES[:2], padding=True, return_tensors="pt")
    assert torch.allclose(adapted(**batch).logits, again(**batch).logits, atol=1e-6)


def translate(model, tokenizer) -> list[str]:
    ids = model.generate(**tokenizer(SOURCES[:3], padding=True, return_tensors="pt"))
    return tokenizer.batch_decode(ids, skip_special_tokens=True)


def test_device_map_auto_loads_and_translates_alike(folder, tokenizer):
    plain = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    mapped = AutoModelForSeq2SeqLM.from_pretrained(folder, device_map="auto").eval()
    assert translate(mapped, tokenizer) == translate(plain, tokenizer)


def test_a_device_map_split_between_memory_and_disk_translates_alike(folder, tokenizer, tmp_path):
    plain = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    # Accelerate dispatches where some part is elsewhere: here the decoder's second layer waits on disk.
    places = {"model.shared": "cpu", "model.encoder": "cpu", "model.decoder.embed_tokens": "cpu", "lm_head": "cpu"}
    places |= {"model.decoder.layers.0": "cpu", "model.decoder.layers.1": "disk"}
    split = AutoModelForSeq2SeqLM.from_pretrained(folder, device_map=places, offload_folder=str(tmp_path)).eval()
    assert split.hf_device_map["model.decoder.layers.1"] == "disk"  # type: ignore[index]
    assert translate(split, tokenizer) == translate(plain, tokenizer)


def test_the_pipeline_translates_a_folder(folder):
    translator = pipeline("seq2seq-translation", model=str(folder))  # type: ignore[call-overload]
    found = translator(["white dog", "boy"])
    plain = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    expected = translate(plain, AutoTokenizer.from_pretrained(folder))
    assert [row["translation_text"] for row in found] == expected[:2]


def test_the_auto_classes_know_the_model(folder):
    assert type(AutoConfig.from_pretrained(folder)) is VaswaniTransformerConfig
    assert type(AutoModel.from_pretrained(folder)) is VaswaniTransformerModel
    assert type(AutoModelForSeq2SeqLM.from_pretrained(folder)) is VaswaniTransformerForConditionalGeneration
    assert type(AutoConfig.for_model("vaswani-transformer")) is VaswaniTransformerConfig
    config = VaswaniTransformerConfig(vocab_size=20, **SIZES)
    assert type(AutoModelForSeq2SeqLM.from_config(config)) is VaswaniTransformerForConditionalGeneration
