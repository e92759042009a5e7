"""Batches without padding: which tokens are real, which sequence each belongs to, and attention within sequences."""

# B rows   S padded length   N real tokens of all rows   Q sequences (several a row where they are packed)
# L the longest sequence   D hidden size   H heads   K head size

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.masking_utils import create_bidirectional_mask

from .attention import added_mask, attend, bidirectional_mask


class Packing(NamedTuple):
    """The real tokens of a batch in one row, sequence after sequence. A tuple, which Accelerate moves between devices.

    Args:
        places_N: each token's place in the padded batch, B * S; None where every place holds a token.
        starts: [Q + 1] int32, the first token of each sequence, then N; transformers calls it `cu_seq_lens`.
        longest: L.
        lengths: tokens of each sequence, where each is attended on its own.
        spread_N: each token's place in Q rows of L, where sequences are attended side by side.
        keys_Q11L: the mask of those rows, true at tokens.
    """

    places_N: Tensor | None
    starts: Tensor
    longest: int
    lengths: list[int] | None = None
    spread_N: Tensor | None = None
    keys_Q11L: Tensor | None = None

    def pack(self, x: Tensor) -> Tensor:
        """[B, S] or [B, S, D] to the real tokens in one row, [1, N] or [1, N, D]."""
        x = x.reshape(-1, *x.shape[2:])
        return (x if self.places_N is None else x.index_select(0, self.places_N)).unsqueeze(0)

    def pad(self, x_1N: Tensor, rows: int) -> Tensor:
        """[1, N, ...] to [B, S, ...] with zeros at padding; `rows` is B * S."""
        if self.places_N is None:
            return x_1N[0]
        return x_1N.new_zeros(rows, *x_1N.shape[2:]).index_copy(0, self.places_N, x_1N[0])


def varlen(implementation: str) -> bool:
    """Whether an attention implementation takes one row of many sequences, told apart by `cu_seq_lens`."""
    return "flash" in implementation


def pack_batch(
    shape: tuple[int, int],
    device: torch.device,
    *,
    mask_BS: Tensor | None,
    position_ids: Tensor | None,
    starts: Tensor | None,
    implementation: str,
) -> Packing | None:
    """Finds the real tokens and the sequences of a batch; None where it has neither padding nor packed sequences.

    A row without any token keeps its first place, so that every row has a sequence.

    Args:
        shape: B, S.
        device: where the batch is.
        mask_BS: 1 at tokens, 0 at padding; None for no padding.
        position_ids: [B, S] as the caller gave them: a 0 starts a sequence. None where the caller gave none.
        starts: [Q + 1] `cu_seq_lens` of the caller over all B * S tokens, in place of `position_ids`.
        implementation: the attention implementation that is to run.

    Raises:
        ValueError: `starts` together with padding, or (on the CPU) `starts` that do not run from 0 to B * S.
    """
    places_N = None
    first_BS = torch.zeros(shape, dtype=torch.bool, device=device)
    first_BS[:, 0] = True
    if position_ids is not None and starts is None:
        first_BS |= position_ids == 0
    if mask_BS is not None and not bool((real_BS := mask_BS.bool()).all()):
        real_BS = real_BS.clone()
        real_BS[:, 0] |= ~real_BS.any(1)
        places_N = real_BS.flatten().nonzero().squeeze(1)
        # A row's first token may lie behind padding; what starts at padding starts nothing.
        first_BS |= real_BS & (real_BS.cumsum(1) == 1)
        first_BS &= real_BS
    if starts is not None:
        check_starts(starts, shape, padding=places_N is not None)
    else:
        first_N = first_BS.flatten() if places_N is None else first_BS.flatten()[places_N]
        starts = nn.functional.pad(first_N.nonzero().squeeze(1), (0, 1), value=len(first_N))
    if places_N is None and len(starts) == shape[0] + 1 and bool((starts.diff() == shape[1]).all()):
        return None
    return _prepared(places_N, starts.to(device=device, dtype=torch.int32), implementation)


def check_starts(starts: Tensor, shape: tuple[int, int], *, padding: bool = False) -> None:
    """Refuses `cu_seq_lens` that do not fit a batch of B, S; what stands in them is looked at on the CPU only.

    Raises:
        ValueError: together with `padding`, or not [Q + 1] rising from 0 to B * S.
    """
    if padding:
        raise ValueError("cu_seq_lens_q tells the sequences of a batch without padding; got zeros in attention_mask")
    total = shape[0] * shape[1]
    whole = starts.dim() == 1 and len(starts) > 1
    if not whole or (
        starts.device.type == "cpu" and (starts[0] != 0 or starts[-1] != total or not bool((starts.diff() > 0).all()))
    ):
        raise ValueError(f"cu_seq_lens_q must rise from 0 to the batch's {total} tokens; got {starts.tolist()}")


def _prepared(places_N: Tensor | None, starts: Tensor, implementation: str) -> Packing:
    lengths = starts.diff()
    longest = int(lengths.max())
    if varlen(implementation):
        return Packing(places_N, starts, longest)
    if starts.device.type == "cpu":
        return Packing(places_N, starts, longest, lengths=lengths.tolist())
    inside_QL = torch.arange(longest, device=starts.device) < lengths.unsqueeze(1)
    spread_N = inside_QL.flatten().nonzero().squeeze(1)
    return Packing(places_N, starts, longest, spread_N=spread_N, keys_Q11L=inside_QL[:, None, None])


def attend_packed(
    module: nn.Module,
    query_1HNK: Tensor,
    key_1HNK: Tensor,
    value_1HNK: Tensor,
    packing: Packing,
    *,
    implementation: str,
    dropout: float,
    **kwargs: Any,
) -> Tensor:
    """Attends within each sequence of a packed row: no token of another one, and no padding, is ever computed with.

    A varlen kernel takes the row as it is. On a CPU each sequence is attended on its own, which beats rows of one
    length by a quarter (4 heads, 16 rows of 40 to 128 tokens): attention is quadratic in what it is given. Elsewhere
    the sequences are laid side by side in rows of the longest, one call for all of them; only here are there pads.

    Args:
        module: the attention module.
        query_1HNK: queries of the row.
        key_1HNK: keys of the row.
        value_1HNK: values of the row.
        packing: from `pack_batch`.
        implementation: `config._attn_implementation`.
        dropout: rate on the attention weights.

    Returns:
        [1, N, H * K].
    """
    kwargs |= {"implementation": implementation, "dropout": dropout}
    if varlen(implementation):
        starts, longest = packing.starts, packing.longest
        kwargs |= {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": longest, "max_length_k": longest}
        return attend(module, query_1HNK, key_1HNK, value_1HNK, None, **kwargs)[0]
    if packing.lengths is not None:
        parts = zip(*(x.split(packing.lengths, dim=2) for x in (query_1HNK, key_1HNK, value_1HNK)), strict=True)
        return torch.cat([attend(module, q, k, v, None, **kwargs)[0] for q, k, v in parts], dim=1)
    query, key, value = (_side_by_side(x_1HNK, packing) for x_1HNK in (query_1HNK, key_1HNK, value_1HNK))
    mask = packing.keys_Q11L if implementation != "eager" else added_mask(packing.keys_Q11L, query)
    out_QLD = attend(module, query, key, value, mask, **kwargs)[0]
    assert packing.spread_N is not None
    return out_QLD.flatten(0, 1).index_select(0, packing.spread_N).unsqueeze(0)


def _side_by_side(x_1HNK: Tensor, packing: Packing) -> Tensor:
    assert packing.keys_Q11L is not None
    assert packing.spread_N is not None
    Q, L, (_, H, _, K) = packing.keys_Q11L.shape[0], packing.longest, x_1HNK.shape
    x_NHK = x_1HNK[0].transpose(0, 1)
    return x_NHK.new_zeros(Q * L, H, K).index_copy(0, packing.spread_N, x_NHK).view(Q, L, H, K).transpose(1, 2)


def restarted(shape: tuple[int, int], starts: Tensor | None, device: torch.device) -> Tensor:
    """Positions of a batch whose caller gave none: [1, S], the column; [B, S] from 0 in each sequence with `starts`."""
    if starts is None:
        return torch.arange(shape[1], device=device).unsqueeze(0)
    numbers = sequence_numbers(shape, None, starts)
    every = torch.arange(shape[0] * shape[1], device=device)
    return every.view(shape) - starts.long()[numbers]


def sequence_numbers(shape: tuple[int, int], position_ids: Tensor | None, starts: Tensor | None) -> Tensor | None:
    """[B, S] number of the sequence each place belongs to, or None where nothing tells sequences apart.

    Args:
        shape: B, S.
        position_ids: [B, S] as the caller gave them: a 0 starts a sequence.
        starts: [Q + 1] `cu_seq_lens` of the caller over all B * S tokens, in place of `position_ids`.
    """
    if starts is not None:
        every = torch.arange(shape[0] * shape[1], device=starts.device, dtype=starts.dtype)
        return torch.bucketize(every, starts[1:-1], right=True).view(shape)
    return None if position_ids is None else (position_ids == 0).cumsum(-1)


def padded_inputs(
    config: Any,
    x_BSD: Tensor,
    mask: Tensor | None,
    position_ids: Tensor | None,
    starts: Tensor | None,
    packing: Packing | None,
) -> tuple[Any, dict[str, Any]]:
    """The mask of a batch that stays padded, and what else its attention needs: no key of padding, or of a neighbour.

    Args:
        config: names the attention implementation the mask is for.
        x_BSD: hidden states; only shape, type and device are read.
        mask: [B, S], 1 at tokens, 0 at padding; [B, 1, S, S] as the implementation takes it; or None.
        position_ids: [B, S] as the caller gave them, or None.
        starts: `cu_seq_lens` of the caller, or None.
        packing: from `pack_batch`; None where it was not looked for, or found nothing.

    Raises:
        ValueError: packed sequences that a flash kernel could tell apart by `cu_seq_lens_q` only, which is not given.
    """
    shape = (x_BSD.shape[0], x_BSD.shape[1])
    compiling = torch.compiler.is_compiling()
    sequences_BS = sequence_numbers(shape, position_ids, starts) if packing is not None or compiling else None
    if sequences_BS is None or (mask is not None and mask.dim() == 4):
        return bidirectional_mask(config, x_BSD, mask), {}
    implementation = config._attn_implementation or "eager"
    if varlen(implementation):
        if starts is None and packing is not None and packing.places_N is None:
            starts = packing.starts
        if starts is None:
            raise ValueError(
                "packed sequences need cu_seq_lens_q, and no padding, where flash attention is compiled or states are "
                f"asked for; got position_ids alone, attention {implementation!r}"
            )
        starts = starts.to(torch.int32)
        longest = shape[1] if packing is None else packing.longest
        lengths = {"max_length_q": longest, "max_length_k": longest}
        return None, {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, **lengths}

    def same(batch: Any, head: Any, query: Any, key: Any) -> Any:
        return sequences_BS[batch, query] == sequences_BS[batch, key]

    mask = create_bidirectional_mask(config=config, inputs_embeds=x_BSD, attention_mask=mask, and_mask_function=same)
    return mask, {}


def first_places(
    shape: tuple[int, int],
    mask: Tensor | None,
    starts: Tensor | None,
    packing: Packing | None,
    device: torch.device,
) -> Tensor:
    """[Q] where each sequence's first token lies in a padded batch, B * S.

    Args:
        shape: B, S.
        mask: [B, S], 1 at tokens, 0 at padding; or any other, which is not read.
        starts: `cu_seq_lens` of the caller, or None.
        packing: from `pack_batch`; without it, and without `starts`, each row is taken for one sequence.
        device: where the batch is.
    """
    if packing is not None:
        firsts = packing.starts[:-1].long()
        return firsts if packing.places_N is None else packing.places_N.index_select(0, firsts)
    if starts is not None:
        return starts[:-1].long()
    rows = torch.arange(shape[0], device=device) * shape[1]
    if mask is None or mask.dim() != 2:
        return rows
    return rows + (mask.to(device) != 0).int().argmax(-1)
