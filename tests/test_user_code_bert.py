"""What people write themselves around BERT: Trainer, pipelines, PEFT, sentence-transformers, without a recipe."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    pipeline,
)

from vaswani_transformer import (
    VaswaniBertConfig,
    VaswaniBertForMaskedLM,
    VaswaniBertForSequenceClassification,
    VaswaniBertForTokenClassification,
    VaswaniBertModel,
    VaswaniBertTokenizer,
)

TEXTS = ["a good film", "a bad film", "good music and a film", "bad music", "good", "a film with bad music"]
LABELS = [1, 0, 1, 0, 1, 0]
SIZES: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
SIZES |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(scope="module")
def tokenizer() -> VaswaniBertTokenizer:
    return VaswaniBertTokenizer.train(TEXTS * 4, vocab_size=60)


@pytest.fixture
def saved(tokenizer, tmp_path):
    """Saves an untrained model of a class with its tokenizer, and returns the folder and the model."""

    def save(kind, **fields):
        torch.manual_seed(0)
        model = kind(VaswaniBertConfig(vocab_size=len(tokenizer), **SIZES, **fields)).eval()
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        return str(tmp_path / "model"), model

    return save


def rows(tokenizer) -> Dataset:
    data = Dataset.from_dict({"text": TEXTS, "label": LABELS})
    return data.map(lambda row: tokenizer(row["text"]), remove_columns="text")


def trainer_of(model, tokenizer, folder: Path) -> Trainer:
    settings = {"report_to": [], "disable_tqdm": True, "save_strategy": "no", "use_cpu": True, "seed": 1}
    settings |= {"max_steps": 60, "learning_rate": 2e-2, "per_device_train_batch_size": 3}
    data = rows(tokenizer)
    return Trainer(
        model=model,
        args=TrainingArguments(output_dir=str(folder), **settings),
        train_dataset=data,  # type: ignore[arg-type]
        eval_dataset=data,  # type: ignore[arg-type]
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
    )


def test_trainer_learns_evaluates_and_saves_a_classifier(saved, tokenizer, tmp_path):
    _, model = saved(VaswaniBertForSequenceClassification)
    trainer = trainer_of(model, tokenizer, tmp_path)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before / 2
    trainer.save_model(str(tmp_path / "trained"))
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "trained").eval()
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert again(**batch).logits.argmax(-1).tolist() == LABELS


def test_fill_mask_gives_the_models_best_words(saved, tokenizer):
    folder, model = saved(VaswaniBertForMaskedLM)
    found = pipeline("fill-mask", model=folder)("a [MASK] film", top_k=3)
    batch = tokenizer("a [MASK] film", return_tensors="pt")
    masked = batch["input_ids"][0] == tokenizer.mask_token_id
    expected = model(**batch).logits[0, masked].softmax(-1).topk(3)
    assert [row["token"] for row in found] == expected.indices[0].tolist()
    assert [row["score"] for row in found] == pytest.approx(expected.values[0].tolist(), abs=1e-6)


def test_text_classification_names_the_classes(saved, tokenizer):
    folder, model = saved(
        VaswaniBertForSequenceClassification, id2label={0: "bad", 1: "good"}, label2id={"bad": 0, "good": 1}
    )
    found = pipeline("text-classification", model=folder)(TEXTS, batch_size=3)
    shares = model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits.softmax(-1)
    assert [row["label"] for row in found] == [["bad", "good"][i] for i in shares.argmax(-1).tolist()]
    assert [row["score"] for row in found] == pytest.approx(shares.max(-1).values.tolist(), abs=1e-6)


def test_token_classification_gives_each_piece_its_place_in_the_text(saved):
    folder, _ = saved(VaswaniBertForTokenClassification, id2label={0: "A", 1: "B"}, label2id={"A": 0, "B": 1})
    found = pipeline("token-classification", model=folder)("good music")
    assert {row["entity"] for row in found} <= {"A", "B"}
    assert "".join("good music"[int(row["start"]) : int(row["end"])] for row in found) == "goodmusic"


def test_feature_extraction_gives_the_hidden_states(saved, tokenizer):
    folder, model = saved(VaswaniBertModel)
    found = torch.tensor(pipeline("feature-extraction", model=folder)("good music"))
    expected = model(**tokenizer("good music", return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_lora_trains_only_itself_and_the_classifier(saved, tokenizer):
    peft = pytest.importorskip("peft", reason="needs peft, the extra [peft]")
    _, model = saved(VaswaniBertForSequenceClassification)
    settings = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"])
    adapted = peft.get_peft_model(model, settings).train()
    trained = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert len([name for name in trained if "lora_" in name]) == 2 * 2 * 2  # A and B, of q and v, of two layers
    assert all("lora_" in name or "classifier" in name for name in trained)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt") | {"labels": torch.tensor(LABELS)}
    frozen = adapted.get_base_model().bert.embeddings.word_embeddings.weight
    before = frozen.detach().clone()
    optimizer = torch.optim.Adam([weight for weight in adapted.parameters() if weight.requires_grad], lr=0.03)
    losses = []
    for _ in range(30):
        loss = adapted(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.2
    assert torch.equal(frozen, before)


def test_a_saved_adapter_loads_onto_the_base_model_again(saved, tokenizer, tmp_path):
    peft = pytest.importorskip("peft", reason="needs peft, the extra [peft]")
    folder, model = saved(VaswaniBertForSequenceClassification)
    settings = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"], init_lora_weights=False)
    adapted = peft.get_peft_model(model, settings).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    base = AutoModelForSequenceClassification.from_pretrained(folder)
    again = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    torch.testing.assert_close(adapted(**batch).logits, again(**batch).logits, atol=1e-6, rtol=1e-5)


def test_sentence_transformers_encodes_with_the_mean_of_the_hidden_states(saved, tokenizer, tmp_path):
    library = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers, of the extra `test`")
    folder, model = saved(VaswaniBertModel)
    encoder = library.SentenceTransformer(folder, device="cpu")  # a plain model's folder: mean pooling is added
    found = torch.as_tensor(encoder.encode(TEXTS))
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    mask = batch["attention_mask"].unsqueeze(-1)
    with torch.no_grad():
        expected = (model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    encoder.save(str(tmp_path / "encoder"))
    again = library.SentenceTransformer(str(tmp_path / "encoder"), device="cpu", trust_remote_code=True)
    torch.testing.assert_close(torch.as_tensor(again.encode(TEXTS)), found, atol=1e-6, rtol=1e-5)
