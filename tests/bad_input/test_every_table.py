"""The tables of this folder together."""

from .test_bert import CASES as BERT
from .test_conversion import CASES as CONVERSION
from .test_data import CASES as DATA
from .test_evaluation import CASES as EVALUATION
from .test_export import CASES as EXPORT
from .test_finetuning import CASES as FINETUNING
from .test_generation import CASES as GENERATION
from .test_gpt import CASES as GPT
from .test_publishing import CASES as PUBLISHING
from .test_training import CASES as TRAINING
from .test_transformer import CASES as TRANSFORMER

TABLES = (BERT, CONVERSION, DATA, EVALUATION, EXPORT, FINETUNING, GENERATION, GPT, PUBLISHING, TRAINING, TRANSFORMER)


def test_the_table_of_bad_input_is_as_long_as_promised():
    assert sum(map(len, TABLES)) >= 170
