"""Documents whose every token is another word: where a token came from is seen in its id."""

from pathlib import Path

import numpy as np

from vaswani_transformer.data.bert_examples import ExampleRules
from vaswani_transformer.data.documents import Documents, write_documents
from vaswani_transformer.models.tokenization_bert import SPECIAL_TOKENS, VaswaniBertTokenizer

FIRST = len(SPECIAL_TOKENS)  # id of the first token of the text; the n-th one has n more


def counting_text(documents: int, *, seed: int = 0, sentences: int = 12, words: int = 9) -> list[list[str]]:
    """Documents of 1 to `sentences` sentences of 1 to `words` words, w0 w1 w2 and so on through all of them."""
    rng, made, count = np.random.default_rng(seed), [], 0
    for _ in range(documents):
        made.append([])
        for length in rng.integers(1, words + 1, rng.integers(1, sentences + 1)):
            made[-1].append(" ".join(f"w{n}" for n in range(count, count + length)))
            count += length
    return made


def counting_tokenizer(text: list[list[str]]) -> VaswaniBertTokenizer:
    """One token a word, in order of appearance."""
    words = [word for document in text for sentence in document for word in sentence.split()]
    return VaswaniBertTokenizer({token: n for n, token in enumerate([*SPECIAL_TOKENS, *words])})


def counting_documents(folder: Path, text: list[list[str]]) -> Documents:
    """The text, tokenised."""
    sentences = (sentence for document in text for sentence in [*document, None])
    return write_documents(sentences, counting_tokenizer(text), folder / "documents", {})


def rules(documents: Documents, **changes) -> ExampleRules:
    """Google's settings for the size of the text."""
    size = documents.counts["tokens"] + FIRST
    settings = {"max_seq_length": 32, "max_predictions": 20, "masked_lm_prob": 0.15, "short_seq_prob": 0.1}
    settings |= {"next_sentence": True, "whole_word_mask": False, "cls_id": 2, "sep_id": 3, "mask_id": 4}
    settings |= {"vocab_size": size, "continues": np.zeros(size, dtype=bool)}
    return ExampleRules(**(settings | changes))
