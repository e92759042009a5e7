"""What the tests of translation models' readers share: numbers in every weight, log-probabilities of both sides."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM

from vaswani_transformer.convert import Conversion, convert

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]  # fairseq's, by id


def shaken(model: Any, *, seed: int = 0) -> Any:
    """Random numbers in every weight, biases and norms too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_positions" not in name:  # sinusoids
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def converted(source: Path, format: str) -> tuple[Conversion, Any]:
    """What was told, and the model of the folder."""
    found = convert(source, format=format, out=source.parent / f"{source.name}-converted")
    return found, AutoModelForSeq2SeqLM.from_pretrained(found.out).eval()


@torch.no_grad()
def assert_same_probabilities(
    ours: Any,
    theirs: Callable[..., Tensor],
    *,
    source: Tensor,
    target: Tensor,
    source_ids: Sequence[int] | None = None,
    target_ids: Sequence[int] | None = None,
) -> None:
    """Log-probabilities of a padded batch, theirs in their own ids.

    Args:
        ours: the converted model.
        theirs: ids of a source, its mask and the target's prefix to logits.
        source: [B, S] their source ids, padded on the right.
        target: [B, T] their target ids.
        source_ids: our id of each of their source tokens; the same where left out.
        target_ids: our id of each of their target tokens; the same where left out.
    """
    source_ids = range(int(source.max()) + 1) if source_ids is None else source_ids
    mask = source.ne(ours.config.pad_token_id)
    expected = theirs(source, mask, target).log_softmax(-1)
    target_ids = list(range(expected.shape[-1])) if target_ids is None else target_ids
    got = ours(
        input_ids=torch.tensor(list(source_ids))[source],
        attention_mask=mask.long(),
        decoder_input_ids=torch.tensor(target_ids)[target],
    ).logits.log_softmax(-1)
    torch.testing.assert_close(got[..., target_ids], expected, rtol=1e-5, atol=1e-5)
    others = [number for number in range(got.shape[-1]) if number not in set(target_ids)]
    assert (got[..., others].exp() == 0).all()
