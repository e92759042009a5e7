"""The tokenizer of the models that bad input is given to."""

import pytest

from vaswani_transformer import VaswaniTransformerTokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return VaswaniTransformerTokenizer.train(["a hat", "a dog", "A HAT", "A DOG"], vocab_size=270)
