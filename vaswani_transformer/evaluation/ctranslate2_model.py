"""An exported Transformer, run by CTranslate2, as a model that `translate` takes."""

# B sentences   S source length   N hypotheses returned a sentence   L target length

import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.modeling_outputs import ModelOutput

from ..convert.to_ctranslate2 import require_ctranslate2
from ..models.beams_transformer import length_penalty
from ..models.generation_transformer import MAX_EXTRA_TOKENS
from .devices import device_named

FILES = ("model.bin", "shared_vocabulary.json", "generation_config.json")
BATCH = 32  # the most sentences that a thread searches at a time


class Found(NamedTuple):
    """A hypothesis: its token ids, without an end; its score; whether it ended."""

    ids: list[int]
    score: float
    ended: bool


class CTranslate2Transformer:
    """A translation model that `vaswani export --to ctranslate2` wrote, with `generate` as ours have it.

    CTranslate2 divides scores by |Y|^alpha and has one limit for all sentences of a call. So it is asked for its whole
    beam without a penalty, which ((5 + |Y|) / 6)^alpha then orders anew; and a sentence with a hypothesis beyond its
    own limit, or with a token that is never written (padding), is searched again without. On a CPU each thread
    searches sentences of its own.

    Departure from our search: a hypothesis ends only among the G best continuations of G beams, not the 2 G best, and a
    sentence when G have ended, not when none can become better any more.

    Args:
        folder: what the export wrote.
        device: as torch names it; the GPU where there is one, else the CPU, for None.
        compute_type: CTranslate2's; "default" is what the folder was saved in, or the nearest that the device has.

    Raises:
        ValueError: a folder that was not exported so, a precision that the device does not have.
        ImportError: CTranslate2 is not installed.
    """

    def __init__(
        self, folder: str | Path, *, device: torch.device | str | None = None, compute_type: str = "default"
    ) -> None:
        ctranslate2, folder = require_ctranslate2(), Path(folder)
        if missing := [name for name in FILES if not (folder / name).is_file()]:
            raise ValueError(
                f"the folder must be one that `vaswani export --to ctranslate2` wrote of a translation model; got "
                f"{folder} without {', '.join(missing)}"
            )
        self.names: list[str] = json.loads((folder / "shared_vocabulary.json").read_text(encoding="utf-8"))
        self.numbers = {name: number for number, name in enumerate(self.names)}
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.config = SimpleNamespace(
            model_type="vaswani-transformer",
            vocab_size=len(self.names),
            max_position_embeddings=settings["max_position_embeddings"],
        )
        search: Any = GenerationConfig.from_pretrained(folder)
        self.generation_config = search
        self.ends: list[int] = [search.eos_token_id] if isinstance(search.eos_token_id, int) else search.eos_token_id
        self.never = sorted({search.pad_token_id, search.decoder_start_token_id} - set(self.ends))
        self.device, self.training = torch.device("cpu"), False  # where ids come from and go to
        place = device_named(device)
        self.threads = torch.get_num_threads() if place.type == "cpu" else 1
        self.translator = ctranslate2.Translator(
            str(folder),
            place.type,
            device_index=place.index or 0,
            compute_type=compute_type,
            inter_threads=self.threads,
            intra_threads=1,
        )

    def eval(self) -> "CTranslate2Transformer":
        """Returns itself, which never trains."""
        return self

    def train(self, mode: bool = False) -> "CTranslate2Transformer":
        """Returns itself, which never trains."""
        if mode:
            raise ValueError("CTranslate2 does not train; train the model that was exported")
        return self

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        num_beams: int | None = None,
        num_return_sequences: int = 1,
        length_penalty: float | None = None,
        max_extra_tokens: int | None = None,
        max_new_tokens: int | None = None,
        decoder_input_ids: Tensor | None = None,
        output_scores: bool = False,
        return_dict_in_generate: bool = False,
    ) -> Any:
        """Translates with beams and the paper's penalty; what is not given comes from the folder.

        Args:
            input_ids: [B, S] source ids, padded on the right.
            attention_mask: [B, S], 1 at source tokens; taken from the pad id where it is left out.
            num_beams: G, width of the beam.
            num_return_sequences: N, at most G.
            length_penalty: alpha of ((5 + |Y|) / 6)^alpha.
            max_extra_tokens: a translation has at most this many tokens more than its own source.
            max_new_tokens: one limit for all instead.
            decoder_input_ids: [B, 1 + P] start token and ids that each translation begins with, the same in every row;
                they count in |Y|, the score and the limit.
            output_scores: taken as `generate` does; scores are returned in any case.
            return_dict_in_generate: return `sequences` and `sequences_scores`, not the ids alone.

        Returns:
            [B * N, L] ids, a start token first; the penalised log-probabilities [B * N] beside them where asked for.

        Raises:
            ValueError: more hypotheses than beams.
        """
        settings = self.generation_config
        beams = settings.num_beams if num_beams is None else num_beams
        alpha = settings.length_penalty if length_penalty is None else length_penalty
        extra = getattr(settings, "max_extra_tokens", None) if max_extra_tokens is None else max_extra_tokens
        if num_return_sequences > beams:
            raise ValueError(f"num_return_sequences must be at most num_beams={beams}; got {num_return_sequences}")
        mask = input_ids.ne(settings.pad_token_id) if attention_mask is None else attention_mask.bool()
        sources = [ids[kept].tolist() for ids, kept in zip(input_ids, mask, strict=True)]
        longest = self.config.max_position_embeddings
        extra = MAX_EXTRA_TOKENS if extra is None else extra
        limits = [min(longest, len(row) + extra if max_new_tokens is None else max_new_tokens) for row in sources]
        prefix = [] if decoder_input_ids is None else decoder_input_ids[0, 1:].tolist()
        found = [
            hypothesis
            for hypotheses in self._search(sources, limits, beams, alpha, prefix)
            for hypothesis in hypotheses[:num_return_sequences]
        ]
        sequences = self._padded(found)
        if not return_dict_in_generate:
            return sequences
        scores = torch.tensor([hypothesis.score for hypothesis in found])
        return ModelOutput(sequences=sequences, sequences_scores=scores)

    def _search(
        self, sources: Sequence[list[int]], limits: Sequence[int], beams: int, alpha: float, prefix: list[int]
    ) -> list[list[Found]]:
        """The beam of each sentence, best first, each under its own limit and without padding."""
        longest, never = max(limits), set(self.never)
        found = self._translate(sources, longest, beams, prefix)
        again: dict[int, list[int]] = {}
        for row, limit in enumerate(limits):
            beyond = limit < longest and any(len(each.ids) >= limit for each in found[row])
            if beyond or any(never.intersection(each.ids) for each in found[row]):
                again.setdefault(limit, []).append(row)
        for limit, rows in again.items():
            results = self._translate([sources[row] for row in rows], limit, beams, prefix, self.never)
            for row, result in zip(rows, results, strict=True):
                found[row] = result
        return [_reranked(each, alpha) for each in found]

    def _translate(
        self, sources: Sequence[list[int]], limit: int, beams: int, prefix: list[int], never: Sequence[int] = ()
    ) -> list[list[Found]]:
        """The beam of each sentence as CTranslate2 orders it, with plain log-probabilities, under one limit."""
        results = self.translator.translate_batch(
            self._named(sources),
            self._named([prefix] * len(sources)) if prefix else None,
            max_batch_size=min(BATCH, math.ceil(len(sources) / self.threads)),
            beam_size=beams,
            num_hypotheses=beams,
            length_penalty=0.0,
            suppress_sequences=[[self.names[number]] for number in never] or None,
            end_token=self.ends,
            max_input_length=0,
            min_decoding_length=0,
            max_decoding_length=limit,
            return_scores=True,
        )
        found = [
            [
                Found([self.numbers[name] for name in names], score, len(names) < limit)
                for names, score in zip(result.hypotheses, result.scores, strict=True)
            ]
            for result in results
        ]
        return self._rescored(sources, found) if prefix or never else found

    def _rescored(self, sources: Sequence[list[int]], found: Sequence[list[Found]]) -> list[list[Found]]:
        """The same with the model's own scores: CTranslate2's leave out a prefix, and what is never written."""
        repeated = [source for source, each in zip(sources, found, strict=True) for _ in each]
        targets = [each.ids for hypotheses in found for each in hypotheses]
        scores = iter(
            self.translator.score_batch(
                self._named(repeated), self._named(targets), max_batch_size=BATCH, max_input_length=0
            )
        )
        return [
            [each._replace(score=sum(next(scores).log_probs[: len(each.ids) + each.ended])) for each in hypotheses]
            for hypotheses in found
        ]

    def _named(self, rows: Sequence[list[int]]) -> list[list[str]]:
        return [[self.names[number] for number in row] for row in rows]

    def _padded(self, found: Sequence[Found]) -> Tensor:
        settings = self.generation_config
        rows = [[settings.decoder_start_token_id, *each.ids, *self.ends[: each.ended]] for each in found]
        sequences = torch.full((len(rows), max(map(len, rows))), settings.pad_token_id)
        for index, row in enumerate(rows):
            sequences[index, : len(row)] = torch.tensor(row)
        return sequences


def _reranked(found: Sequence[Found], alpha: float) -> list[Found]:
    """Penalised scores, best first; what met the limit without an end comes last, as in our search."""
    scored = [each._replace(score=each.score / length_penalty(len(each.ids) + each.ended, alpha)) for each in found]
    return sorted(scored, key=lambda each: (not each.ended, -each.score))
