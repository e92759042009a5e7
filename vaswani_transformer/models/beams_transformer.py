"""The arithmetic of the paper's beam search: length penalty, one step of the beams, when a sentence is done."""

# B sentences   G beams   L tokens so far   V vocabulary   N hypotheses returned a sentence

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def length_penalty(length: int | Tensor, alpha: float) -> Any:
    """((5 + |Y|) / 6)^alpha, equation 14 of Wu et al. (2016); |Y| counts the end-of-sentence token."""
    return ((5.0 + length) / 6.0) ** alpha


@dataclass
class Beams:
    """The search's state for the sentences still searched.

    Args:
        tokens_BGL: alive hypotheses, the start token first.
        log_probs_BG: their log-probabilities.
        finished_BNL: the best finished hypotheses, -1 after their end.
        scores_BN: their penalised log-probabilities, best first, -inf where there is none yet.
        sentence_B: each row's place in the batch that was asked for.
        limit_B: the most tokens a translation of each row may have, end-of-sentence included.
    """

    tokens_BGL: Tensor
    log_probs_BG: Tensor
    finished_BNL: Tensor
    scores_BN: Tensor
    sentence_B: Tensor
    limit_B: Tensor

    def keep(self, rows: Tensor) -> "Beams":
        """The state of some rows."""
        return Beams(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def extend(beams: Beams, log_probs_BGV: Tensor, ends: Tensor, alpha: float) -> tuple[Beams, Tensor]:
    """One step for every sentence: the new state, and for each new beam the flat index of the one it came from."""
    B, G, V = log_probs_BGV.shape
    total = (beams.log_probs_BG.unsqueeze(-1) + log_probs_BGV).view(B, G * V)
    candidate_B2G, index_B2G = total.topk(min(2 * G, G * V))
    parent_B2G, token_B2G = index_B2G // V, index_B2G % V
    ends_B2G = torch.isin(token_B2G, ends)
    length = beams.tokens_BGL.shape[-1]  # |Y| of the extensions: the start token does not count, the new one does
    finished_BNL, scores_BN = beams.finished_BNL, beams.scores_BN
    if ends_B2G.any():
        ended = torch.where(ends_B2G, candidate_B2G / length_penalty(length, alpha), -torch.inf)
        finished_BNL, scores_BN = _merge(beams, ended, parent_B2G, token_B2G)
    living, order_BG = torch.where(ends_B2G, -torch.inf, candidate_B2G).topk(G)
    parent_BG, token_BG = parent_B2G.gather(1, order_BG), token_B2G.gather(1, order_BG)
    tokens = beams.tokens_BGL.gather(1, parent_BG.unsqueeze(-1).expand(-1, -1, length))
    tokens = torch.cat((tokens, token_BG.unsqueeze(-1)), dim=-1)
    flat = parent_BG + G * torch.arange(B, device=parent_BG.device).unsqueeze(-1)
    return Beams(tokens, living, finished_BNL, scores_BN, beams.sentence_B, beams.limit_B), flat


def _merge(beams: Beams, ended: Tensor, parent: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
    """The N best of the finished hypotheses so far and those that just ended."""
    length = beams.tokens_BGL.shape[-1]
    new = beams.tokens_BGL.gather(1, parent.unsqueeze(-1).expand(-1, -1, length))
    new = torch.cat((new, token.unsqueeze(-1)), dim=-1)
    old = torch.nn.functional.pad(beams.finished_BNL, (0, length + 1 - beams.finished_BNL.shape[-1]), value=-1)
    scores_BN, order_BN = torch.cat((beams.scores_BN, ended), dim=1).topk(old.shape[1])
    return torch.cat((old, new), dim=1).gather(1, order_BN.unsqueeze(-1).expand(-1, -1, length + 1)), scores_BN


def done(beams: Beams, alpha: float) -> Tensor:
    """Sentences at their limit, or whose living hypotheses can no longer beat the N-th best finished one."""
    length = beams.tokens_BGL.shape[-1] - 1
    best = beams.log_probs_BG[:, 0]
    reachable = torch.maximum(best / length_penalty(beams.limit_B, alpha), best / length_penalty(length + 1, alpha))
    return (beams.scores_BN[:, -1] >= reachable) | (length >= beams.limit_B)


def with_living(beams: Beams, alpha: float) -> Beams:
    """Fills the places that no finished hypothesis took with living ones."""
    empty_BN = beams.scores_BN.isneginf()
    if not empty_BN.any():
        return beams
    finished, living = beams.finished_BNL, beams.tokens_BGL
    finished = torch.nn.functional.pad(finished, (0, living.shape[-1] - finished.shape[-1]), value=-1)
    living_scores = beams.log_probs_BG / length_penalty(living.shape[-1] - 1, alpha)
    # Both lists are sorted; finished ones come first, whatever their score, and empty places last.
    order = torch.cat((empty_BN.long() * 2, torch.ones_like(living_scores, dtype=torch.long)), dim=1)
    order_BN = order.argsort(dim=1, stable=True)[:, : finished.shape[1]]
    every, scores = torch.cat((finished, living), dim=1), torch.cat((beams.scores_BN, living_scores), dim=1)
    finished = every.gather(1, order_BN.unsqueeze(-1).expand(-1, -1, every.shape[-1]))
    return Beams(living, beams.log_probs_BG, finished, scores.gather(1, order_BN), beams.sentence_B, beams.limit_B)
