"""The models: all that a Hub repository of ours carries. Importing this registers them with transformers' Auto classes.

Registered "for an Auto class", a model's `save_pretrained` (also the Trainer's, and `push_to_hub`) writes its code
beside its weights, so that any saved folder loads where this package is not installed, with `trust_remote_code=True`.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForNextSentencePrediction,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedTokenizer,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .configuration_bert import VaswaniBertConfig
from .configuration_gpt import VaswaniGPTConfig
from .configuration_transformer import VaswaniTransformerConfig
from .modeling_bert import (
    VaswaniBertForMaskedLM,
    VaswaniBertForMultipleChoice,
    VaswaniBertForNextSentencePrediction,
    VaswaniBertForPreTraining,
    VaswaniBertForQuestionAnswering,
    VaswaniBertForSequenceClassification,
    VaswaniBertForTokenClassification,
    VaswaniBertModel,
)
from .modeling_gpt import (
    VaswaniGPTForCausalLM,
    VaswaniGPTForMultipleChoice,
    VaswaniGPTForQuestionAnswering,
    VaswaniGPTForSequenceClassification,
    VaswaniGPTForTokenClassification,
    VaswaniGPTModel,
)
from .modeling_transformer import VaswaniTransformerForConditionalGeneration, VaswaniTransformerModel
from .tokenization_bert import VaswaniBertTokenizer
from .tokenization_gpt import VaswaniGPTTokenizer
from .tokenization_gpt2 import VaswaniGPT2Tokenizer as VaswaniGPT2Tokenizer
from .tokenization_transformer import VaswaniTransformerTokenizer

FAMILIES = {
    VaswaniBertConfig: {
        AutoModel: VaswaniBertModel,
        AutoModelForPreTraining: VaswaniBertForPreTraining,
        AutoModelForMaskedLM: VaswaniBertForMaskedLM,
        AutoModelForNextSentencePrediction: VaswaniBertForNextSentencePrediction,
        AutoModelForSequenceClassification: VaswaniBertForSequenceClassification,
        AutoModelForTokenClassification: VaswaniBertForTokenClassification,
        AutoModelForQuestionAnswering: VaswaniBertForQuestionAnswering,
        AutoModelForMultipleChoice: VaswaniBertForMultipleChoice,
    },
    VaswaniGPTConfig: {
        AutoModel: VaswaniGPTModel,
        AutoModelForCausalLM: VaswaniGPTForCausalLM,
        AutoModelForSequenceClassification: VaswaniGPTForSequenceClassification,
        AutoModelForTokenClassification: VaswaniGPTForTokenClassification,
        AutoModelForQuestionAnswering: VaswaniGPTForQuestionAnswering,
        AutoModelForMultipleChoice: VaswaniGPTForMultipleChoice,
    },
    VaswaniTransformerConfig: {
        AutoModel: VaswaniTransformerModel,
        AutoModelForSeq2SeqLM: VaswaniTransformerForConditionalGeneration,
    },
}
# Saved as stock tokenizers, whose code does not travel, but for GPT's of 2018: no stock one is faithful to it. GPT-2's
# folders name transformers' own class, which needs no registration.
TOKENIZERS = {
    VaswaniBertConfig: VaswaniBertTokenizer,
    VaswaniGPTConfig: VaswaniGPTTokenizer,
    VaswaniTransformerConfig: VaswaniTransformerTokenizer,
}
VaswaniGPTTokenizer.register_for_auto_class()

# Trainer's label smoothing compares labels with the logits one place before them for the classes named here alone.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[VaswaniGPTConfig.model_type] = VaswaniGPTForCausalLM.__name__

for _config, _classes in FAMILIES.items():
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    _config.register_for_auto_class()
    for _auto, _class in _classes.items():
        _auto.register(_config, _class, exist_ok=True)
        _class.register_for_auto_class(_auto.__name__)
for _config, _class in TOKENIZERS.items():
    _slow = issubclass(_class, PreTrainedTokenizer)
    AutoTokenizer.register(_config, **{f"{'slow' if _slow else 'fast'}_tokenizer_class": _class}, exist_ok=True)
