"""Losses that the models' heads share: classes, values, spans, each divided by what the whole batch holds."""

# B batch   S length   Q sequences   C classes

from typing import Any

import torch
from torch import Tensor, nn

from .layers import on_eager_cpu

IGNORED = -100  # the label of what has none
PADDING_LOGIT = -1e4  # no share of a softmax, finite in every type; Google's code masks with it


def check_range(values: Tensor, limit: int, name: str, limit_name: str, *, ignored: int | None = None) -> None:
    """Refuses numbers outside [0, limit), on the CPU in eager mode.

    Raises:
        ValueError: with the first such number.
    """
    if not on_eager_cpu(values):
        return
    wrong = (values < 0) | (values >= limit)
    if ignored is not None:
        wrong &= values != ignored
    if wrong.any():
        none = "" if ignored is None else f" or {ignored} for none"
        raise ValueError(f"{name} must be in [0, {limit_name}={limit}){none}; got {int(values[wrong][0])}")


def real_labels(labels: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Labels [B, S] with -100 at padding."""
    if attention_mask is None or attention_mask.dim() != 2:
        return labels
    return labels.masked_fill(attention_mask.to(labels.device) == 0, IGNORED)


def divided(total: Tensor, labelled: Tensor, num_items: int | Tensor | None) -> Tensor:
    """A sum by what it is to be divided by: the accumulated batch's count where given, else this batch's; never by 0.

    Args:
        total: the summed loss.
        labelled: of any shape, true at what has a label.
        num_items: how many labels the whole accumulated batch has.
    """
    count = labelled.sum() if num_items is None else num_items
    count = count + (count == 0)  # nothing labelled: a loss of 0
    return total / (count.to(total.device) if isinstance(count, Tensor) else count)


def class_loss(
    logits: Tensor, labels: Tensor, num_items: int | Tensor | None, *, name: str = "labels", limit: str = "num_labels"
) -> Tensor:
    """Cross-entropy over labels [...] of logits [..., C], in nats; -100 is no label.

    Raises:
        ValueError: another number of labels than of logits, or (on the CPU in eager mode) a label outside [0, C).
    """
    labels = labels.to(logits.device)
    if labels.numel() * logits.shape[-1] != logits.numel():
        raise ValueError(
            f"{name} must be one for each row of logits; got shapes {tuple(labels.shape)}, {tuple(logits.shape)}"
        )
    check_range(labels, logits.shape[-1], name, limit, ignored=IGNORED)
    total = nn.functional.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), reduction="sum")
    return divided(total, labels != IGNORED, num_items)


def value_loss(logits_QC: Tensor, labels: Tensor, problem: str, num_items: int | Tensor | None) -> Tensor:
    """Mean squared error ("regression") or binary cross-entropy ("multi_label_classification") over all labels.

    Labels of -100 are none, as transformers' Trainer counts.

    Raises:
        ValueError: another number of labels than of logits, or (on the CPU in eager mode) a label that is neither 0
            nor 1, nor anything between, of several labels.
    """
    if labels.numel() != logits_QC.numel():
        raise ValueError(
            f"labels must be as many as logits for {problem}; "
            f"got shapes {tuple(labels.shape)}, {tuple(logits_QC.shape)}"
        )
    logits, values = logits_QC.flatten().float(), labels.to(logits_QC.device).flatten().float()
    labelled = values != IGNORED
    if problem == "regression":
        losses = (logits - values).square()
    else:
        if on_eager_cpu(values) and bool((labelled & ((values < 0) | (values > 1))).any()):
            raise ValueError(f"labels must be in [0, 1] for {problem}; got {labels.flatten().tolist()}")
        losses = nn.functional.binary_cross_entropy_with_logits(logits, values, reduction="none")
    return divided((losses * labelled).sum(), labelled, num_items)


def problem_of(config: Any, labels: Tensor) -> Any:
    """The kind of problem, as transformers guesses it from the number of classes and the labels' type."""
    if config.problem_type is not None:
        return config.problem_type
    if config.num_labels == 1:
        return "regression"
    whole = not labels.is_floating_point() and labels.dtype != torch.bool
    return "single_label_classification" if whole else "multi_label_classification"


def text_loss(config: Any, logits_QC: Tensor, labels: Tensor, num_items: int | Tensor | None) -> Tensor:
    """The loss of a classifier of texts, of the kind that its config names, or that the labels settle.

    Raises:
        ValueError: what `class_loss` and `value_loss` refuse.
    """
    problem = config.problem_type = problem_of(config, labels)
    if problem == "single_label_classification":
        return class_loss(logits_QC, labels, num_items)
    return value_loss(logits_QC, labels, problem, num_items)


def span_loss(
    start_BS: Tensor,
    end_BS: Tensor,
    start_positions: Tensor,
    end_positions: Tensor,
    num_items: int | Tensor | None,
) -> Tensor:
    """The mean of the cross-entropies of start and end, each over the examples that have one.

    Departure from section 4.2 of Devlin et al. (2018), which adds the two: the mean is that of Google's code.

    Args:
        start_BS: logits of start, `PADDING_LOGIT` at padding.
        end_BS: logits of end, likewise.
        start_positions: [B], -100 where the text does not hold the answer.
        end_positions: [B], likewise.
        num_items: examples in the whole accumulated batch.

    Raises:
        ValueError: (on the CPU in eager mode) a position that is outside the text, or padding.
    """
    losses = []
    ends = (("start_positions", start_BS, start_positions), ("end_positions", end_BS, end_positions))
    for name, logits_BS, positions in ends:
        positions = positions.flatten().to(logits_BS.device)
        losses.append(class_loss(logits_BS, positions, num_items, name=name, limit="length"))
        if on_eager_cpu(positions):
            at = logits_BS.detach().gather(1, positions.clamp(min=0).unsqueeze(1)).squeeze(1)
            if bool(((at == PADDING_LOGIT) & (positions != IGNORED)).any()):
                raise ValueError(
                    f"{name} must be a token of the text or {IGNORED} for none; got padding in {positions.tolist()}"
                )
    return (losses[0] + losses[1]) / 2
