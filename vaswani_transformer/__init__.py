"""The original Transformer, BERT and GPT as first-class Hugging Face models; importing it registers Auto classes."""

from .models import (
    VaswaniBertConfig,
    VaswaniBertForMaskedLM,
    VaswaniBertForMultipleChoice,
    VaswaniBertForNextSentencePrediction,
    VaswaniBertForPreTraining,
    VaswaniBertForQuestionAnswering,
    VaswaniBertForSequenceClassification,
    VaswaniBertForTokenClassification,
    VaswaniBertModel,
    VaswaniBertTokenizer,
    VaswaniGPT2Tokenizer,
    VaswaniGPTConfig,
    VaswaniGPTForCausalLM,
    VaswaniGPTForMultipleChoice,
    VaswaniGPTForQuestionAnswering,
    VaswaniGPTForSequenceClassification,
    VaswaniGPTForTokenClassification,
    VaswaniGPTModel,
    VaswaniGPTTokenizer,
    VaswaniTransformerConfig,
    VaswaniTransformerForConditionalGeneration,
    VaswaniTransformerModel,
    VaswaniTransformerTokenizer,
)
from .pipelines import register_pipelines

register_pipelines()

__version__ = "0.1.0"

__all__ = [
    "VaswaniBertConfig",
    "VaswaniBertForMaskedLM",
    "VaswaniBertForMultipleChoice",
    "VaswaniBertForNextSentencePrediction",
    "VaswaniBertForPreTraining",
    "VaswaniBertForQuestionAnswering",
    "VaswaniBertForSequenceClassification",
    "VaswaniBertForTokenClassification",
    "VaswaniBertModel",
    "VaswaniBertTokenizer",
    "VaswaniGPT2Tokenizer",
    "VaswaniGPTConfig",
    "VaswaniGPTForCausalLM",
    "VaswaniGPTForMultipleChoice",
    "VaswaniGPTForQuestionAnswering",
    "VaswaniGPTForSequenceClassification",
    "VaswaniGPTForTokenClassification",
    "VaswaniGPTModel",
    "VaswaniGPTTokenizer",
    "VaswaniTransformerConfig",
    "VaswaniTransformerForConditionalGeneration",
    "VaswaniTransformerModel",
    "VaswaniTransformerTokenizer",
    "__version__",
]
