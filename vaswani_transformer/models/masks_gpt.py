"""Which earlier tokens each token of GPT may see: padding, bands, the cache, documents packed in a row."""

# B batch   T query length   S key length, cache included   N tokens of all rows

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from .packing import varlen

MASKS = {"full_attention": create_causal_mask, "sliding_attention": create_sliding_window_causal_mask}


class Documents(NamedTuple):
    """Where the documents of packed rows start, in numbers of tokens: padding is not counted.

    Args:
        first_BT: the number in its row of the first token that each query may see.
        number_BS: each key's number in its row; None where that is its column.
        past: how many keys lie in the cache, a tensor in a static one.
    """

    first_BT: Tensor
    number_BS: Tensor | None
    past: Any

    def visible(self) -> Callable[..., Tensor]:
        """Whether a query may see a key, by their columns, in the form transformers' masks take."""
        first_BT, number_BS, past = self

        def same(batch: Any, head: Any, query: Any, key: Any) -> Any:
            number = key if number_BS is None else number_BS[batch, key.clamp(max=number_BS.shape[1] - 1)]
            return number >= first_BT[batch, query - past]

        return same


def find_documents(position_ids_BT: Tensor, mask_BS: Tensor | None, past: Any) -> Documents | None:
    """Finds documents packed in rows by positions that do not go on by one; None where each row is one document.

    A token at position p stands p tokens behind its document's start, so that the start is known also where it lies in
    the cache. Positions that jump start a document too, whatever their number. Under torch.compile, where a graph must
    not depend on the data, rows count as packed.

    Args:
        position_ids_BT: as the caller gave them.
        mask_BS: 1 at tokens, 0 at padding, over cached and new positions; None for no padding.
        past: how many keys lie in the cache.
    """
    T, real_BT = position_ids_BT.shape[1], None
    if mask_BS is None:
        number_BS, number_BT = None, (torch.arange(T, device=position_ids_BT.device) + past).expand_as(position_ids_BT)
    else:
        number_BS = mask_BS.long().cumsum(-1) - 1
        number_BT, real_BT = number_BS[:, -T:], mask_BS[:, -T:].bool()
    jumps = position_ids_BT[:, 1:] != position_ids_BT[:, :-1] + 1
    if real_BT is not None:
        jumps = jumps & real_BT[:, 1:] & real_BT[:, :-1]
    starts = torch.where(jumps, number_BT[:, 1:], 0).cummax(-1).values
    first_BT = number_BT - position_ids_BT
    first_BT = torch.cat((first_BT[:, :1], torch.maximum(first_BT[:, 1:], starts)), dim=1)
    if real_BT is not None:
        first_BT = first_BT.masked_fill(~real_BT, 0)
    if not torch.compiler.is_compiling() and not bool((first_BT > 0).any()):
        return None
    return Documents(first_BT, number_BS, past)


def layer_masks(
    config: Any,
    x_BTD: Tensor,
    mask: Any,
    cache: Cache | None,
    documents: Documents | None,
    starts: Tensor | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The mask of each kind of layer, and what else its attention needs.

    Args:
        config: names the attention implementation, the kinds of layers and the width of their band.
        x_BTD: hidden states; only shape, type and device are read.
        mask: [B, S], 1 at tokens, 0 at padding; a ready mask of attention [B, 1, T, S], or one for each kind of layer,
            as `generate` makes them for static caches; or None.
        cache: keys and values of earlier positions, or None.
        documents: from `find_documents`.
        starts: `cu_seq_lens_q` of the caller, or None.

    Raises:
        ValueError: packed documents that a flash kernel cannot keep apart: with a cache, or with padding inside them.
    """
    if isinstance(mask, dict):
        return mask, {}
    kinds = set(config.layer_types)
    if mask is not None and mask.dim() == 4:
        return dict.fromkeys(kinds, mask), {}
    if varlen(config._attn_implementation or "eager") and (starts is not None or documents is not None):
        return dict.fromkeys(kinds), _varlen_documents(x_BTD, mask, documents, starts)
    same = None if documents is None else documents.visible()
    made = {
        kind: MASKS[kind](config, x_BTD, mask, cache, and_mask_function=same)  # by place: the last has had two names
        for kind in kinds
    }
    return made, {}


def _varlen_documents(
    x_BTD: Tensor, mask_BS: Tensor | None, documents: Documents | None, starts: Tensor | None
) -> dict[str, Any]:
    """What tells a flash kernel the documents of the flattened batch; a run of padding is a document of its own."""
    B, T = x_BTD.shape[:2]
    if starts is None:
        assert documents is not None
        if torch.compiler.is_compiling() or not isinstance(documents.past, int) or documents.past:
            raise ValueError(
                "flash attention keeps packed documents apart by cu_seq_lens_q, which is not given, where it is "
                "compiled, and not at all where a cache holds tokens; got position_ids alone: use sdpa"
            )
        starts = _document_starts(documents, mask_BS, B, T)
    longest = int(starts.diff().max()) if not torch.compiler.is_compiling() else T
    starts = starts.to(device=x_BTD.device, dtype=torch.int32)
    return {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": longest, "max_length_k": longest}


def _document_starts(documents: Documents, mask_BS: Tensor | None, B: int, T: int) -> Tensor:
    columns_T = torch.arange(T, device=documents.first_BT.device)
    number_BT = columns_T if documents.number_BS is None else documents.number_BS
    begins_BT = (documents.first_BT == number_BT).clone()
    if mask_BS is not None:
        real_BT = mask_BS.bool()
        begins_BT &= real_BT
        edges_BT = torch.zeros_like(real_BT)
        edges_BT[:, 1:] = real_BT[:, 1:] != real_BT[:, :-1]
        if bool((edges_BT & real_BT & (documents.first_BT.clamp(min=0) < number_BT)).any()):
            raise ValueError("flash attention takes packed documents without padding inside them; got zeros inside one")
        begins_BT |= edges_BT
    begins_BT[:, 0] = True
    return torch.nn.functional.pad(begins_BT.flatten().nonzero().squeeze(1), (0, 1), value=B * T)
