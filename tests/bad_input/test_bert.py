"""Bad input of BERT: fields, ids, masks and labels."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from vaswani_transformer import VaswaniBertConfig

from .scene import Cases, Scene, assert_told, ids

CASES: Cases[Scene] = {
    "hidden_size no multiple of num_attention_heads": (
        lambda s: s.bert(num_attention_heads=3),
        "multiple of num_attention_heads.*hidden_size=16.*num_attention_heads=3",
    ),
    "a BERT of no layers": (lambda s: s.bert(num_hidden_layers=0), "num_hidden_layers must be a positive integer.*=0"),
    "a BERT size that is no integer": (lambda s: s.bert(vocab_size=30.0), r"vocab_size must be a positive.*30\.0"),
    "BERT's dropout of one": (
        lambda s: s.bert(classifier_dropout=1.0),
        r"classifier_dropout must be a number in \[0, 1\); got .*=1\.0",
    ),
    "BERT's unknown activation": (lambda s: s.bert(hidden_act="gelu_tan"), "hidden_act must be.*'gelu_tan'.*did you"),
    "BERT's misspelt field": (
        lambda s: s.bert(hidden_dropout=0.0),
        "unknown field.*'hidden_dropout'; did you mean 'hidden_dropout_prob'",
    ),
    "BERT's pad id outside the vocabulary": (lambda s: s.bert(pad_token_id=30), r"in \[0, vocab_size=30\).*=30"),
    "BERT as a decoder": (lambda s: s.bert(is_decoder=True), "is_decoder must be false"),
    "BERT with relative positions": (
        lambda s: s.bert(position_embedding_type="relative_key"),
        "position_embedding_type must be 'absolute'.*'relative_key'",
    ),
    "a BERT of another model": (lambda s: s.bert(model_type="gpt2"), "model_type must be vaswani-bert or bert.*'gpt2'"),
    "an unknown BERT preset": (lambda s: VaswaniBertConfig.preset("bass"), "one of tiny, mini.*'bass'.*'base'"),
    "a word outside BERT's vocabulary": (
        lambda s: s.bert()(ids([[5, 30]])),
        r"token ids must be in \[0, vocab_size=30\); got 30 at \(0, 1\)",
    ),
    "a text longer than BERT's position table": (
        lambda s: s.bert()(torch.ones(1, 7, dtype=torch.long)),
        "a text must fit max_position_embeddings=6; got 7 tokens",
    ),
    "a position outside BERT's table": (
        lambda s: s.bert()(ids([[5, 6]]), position_ids=ids([[0, 9]])),
        r"position_ids must be in \[0, max_position_embeddings=6\); got 9",
    ),
    "a segment outside BERT's table": (
        lambda s: s.bert()(ids([[5, 6]]), token_type_ids=ids([[0, 2]])),
        r"token_type_ids must be in \[0, type_vocab_size=2\); got 2",
    ),
    "both ids and embeddings for BERT": (
        lambda s: s.bert()(ids([[5]]), inputs_embeds=torch.zeros(1, 1, 16)),
        "either token ids or embeddings",
    ),
    "no position for BERT": (lambda s: s.bert()(torch.zeros(2, 0).long()), r"at least one position.*\(2, 0\)"),
    "a mask of another length": (
        lambda s: s.bert()(ids([[5, 6]]), attention_mask=ids([[1]])),
        r"attention_mask must have the batch's shape \(1, 2\); got \(1, 1\)",
    ),
    "sequences that do not fill the batch": (
        lambda s: s.bert()(ids([[5, 6, 7]]), cu_seq_lens_q=ids([0, 2])),
        r"cu_seq_lens_q must rise from 0 to the batch's 3 tokens; got \[0, 2\]",
    ),
    "packed sequences and padding told twice": (
        lambda s: s.bert()(ids([[5, 6, 7]]), attention_mask=ids([[1, 1, 0]]), cu_seq_lens_q=ids([0, 2, 3])),
        "without padding; got zeros in attention_mask",
    ),
    "a masked word outside the vocabulary": (
        lambda s: s.bert("ForMaskedLM")(ids([[5, 6]]), labels=ids([[-100, 31]])),
        r"labels must be in \[0, vocab_size=30\); got 31",
    ),
    "masked words of another length": (
        lambda s: s.bert("ForPreTraining")(ids([[5, 6]]), labels=ids([[4]])),
        r"labels must have the batch's shape \(1, 2\); got \(1, 1\)",
    ),
    "a next-sentence label of two": (
        lambda s: s.bert("ForPreTraining")(ids([[5, 6]]), next_sentence_label=ids([2])),
        r"next_sentence_label must be in \[0, labels=2\) or -100 for none; got 2",
    ),
    "a class that is not there": (
        lambda s: s.bert("ForSequenceClassification", num_labels=3)(ids([[5, 6]]), labels=ids([3])),
        r"labels must be in \[0, num_labels=3\) or -100 for none; got 3",
    ),
    "more labels than texts": (
        lambda s: s.bert("ForSequenceClassification", num_labels=3)(ids([[5, 6]]), labels=ids([1, 1])),
        r"labels must be one for each row of logits; got shapes \(2,\), \(1, 3\)",
    ),
    "a probability above one": (
        lambda s: s.bert("ForSequenceClassification", num_labels=2)(ids([[5]]), labels=torch.tensor([[0.0, 7.0]])),
        r"labels must be in \[0, 1\] for multi_label_classification; got \[0\.0, 7\.0\]",
    ),
    "a token's class that is not there": (
        lambda s: s.bert("ForTokenClassification", num_labels=3)(ids([[5, 6]]), labels=ids([[0, -1]])),
        r"labels must be in \[0, num_labels=3\) or -100 for none; got -1",
    ),
    "an answer behind the text": (
        lambda s: s.bert("ForQuestionAnswering")(ids([[5, 6]]), start_positions=ids([0]), end_positions=ids([2])),
        r"end_positions must be in \[0, length=2\) or -100 for none; got 2",
    ),
    "an answer in the padding": (
        lambda s: s.bert("ForQuestionAnswering")(
            ids([[5, 0]]), ids([[1, 0]]), start_positions=ids([1]), end_positions=ids([1])
        ),
        r"start_positions must be a token of the text or -100 for none; got padding in \[1\]",
    ),
    "one choice where several are asked for": (
        lambda s: s.bert("ForMultipleChoice")(ids([[5, 6]])),
        r"ids \[B, choices, S\] or their embeddings; got shape \(1, 2\)",
    ),
}


@pytest.mark.parametrize("what", CASES)
def test_bad_input_is_told_with_the_rule_and_the_value(what, tokenizer, tmp_path):
    assert_told(what, CASES, Scene(tmp_path, tokenizer))


def test_an_unknown_kind_of_problem_is_told():
    # transformers 5.17 looks at this field of its own before our check does
    with pytest.raises((ValueError, StrictDataclassError), match=r"problem_type.*regression.*ranking"):
        VaswaniBertConfig(problem_type="ranking")  # type: ignore[arg-type]
