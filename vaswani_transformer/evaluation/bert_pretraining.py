"""How well BERT does both pre-training tasks on the validation text (section 3.1 of Devlin et al. 2018)."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

IGNORED = -100  # label of what is not masked


@torch.no_grad()
def accuracy_metric(model: PreTrainedModel, data: Any, limit: int | None = None) -> dict[str, float]:
    """Accuracies and losses of both tasks, for the training loop; the same numbers on every process.

    Chance is one half of the pairs, and of the masked words the share of the commonest one. Logits are computed at
    masked positions only. The model must be whole on each process.

    Args:
        model: a `VaswaniBertForPreTraining`, wrapped for training or not.
        data: a `BertPretrainingData`, or anything with its validation batches.
        limit: not read; all validation examples are.

    Returns:
        `masked_accuracy` and `masked_loss` (nats), means over the masked words; `next_sentence_accuracy` and
        `next_sentence_loss`, means over the pairs, where the data have pairs.
    """
    from accelerate import PartialState
    from accelerate.utils import extract_model_from_parallel, reduce

    state, bare = PartialState(), extract_model_from_parallel(model, keep_torch_compile=False)
    bare.eval()
    sums = torch.zeros(2, 3, dtype=torch.float64, device=bare.device)  # words, pairs: how many, right ones, nats
    for indices in data.validation_batches()[state.process_index :: state.num_processes]:
        batch = {name: value.to(bare.device) for name, value in data.validation_micro_batch(indices).items()}
        sums += torch.stack(_right_and_nats(bare, batch))
    sums = reduce(sums, "sum")
    assert isinstance(sums, Tensor)
    found = {}
    for name, (count, right, nats) in zip(("masked", "next_sentence"), sums.tolist(), strict=True):
        if count:
            found |= {f"{name}_accuracy": right / count, f"{name}_loss": nats / count}
    return found


def _right_and_nats(model: Any, batch: dict[str, Tensor]) -> list[Tensor]:
    """For the masked words, then the pairs, of one batch: how many, how many right, the summed loss; float64 [3]."""
    outputs = model.bert(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"], padded_output=False)
    words = batch["labels"].flatten()
    if outputs.places is not None:  # padding was removed
        words = words[outputs.places]
    masked_ND = outputs.last_hidden_state.flatten(0, 1)[words != IGNORED]
    pairs = batch.get("next_sentence_label", words[:0])
    logits_Q2 = model.cls.seq_relationship(outputs.pooler_output)[: len(pairs)]
    return [
        _counted(model.cls.predictions(masked_ND), words[words != IGNORED]),
        _counted(logits_Q2, pairs),
    ]


def _counted(logits: Tensor, labels: Tensor) -> Tensor:
    nats = nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
    right = (logits.argmax(-1) == labels).sum()
    return torch.stack((torch.full_like(right, len(labels)).double(), right.double(), nats.double()))
