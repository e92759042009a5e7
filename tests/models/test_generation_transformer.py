import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.modeling_outputs import BaseModelOutput

from vaswani_transformer import VaswaniTransformerForConditionalGeneration as Model
from vaswani_transformer.models import generation_transformer
from vaswani_transformer.models.beams_transformer import length_penalty
from vaswani_transformer.models.caches import CACHE
from vaswani_transformer.models.generation_transformer import paper_beam_search

PAD, END = 0, 1
WIDE = 64  # more beams than the toy space has prefixes: nothing is ever pruned
SOURCE = torch.tensor([[3, 4, END], [4, END, PAD]])
EXTRA = 1  # so the limits are 4 and 3 tokens


@pytest.fixture
def tiny(make_model) -> Callable[..., Model]:
    """A model of five words (pad, end, and three to say), so that all translations can be listed."""

    def make(seed: int = 0, **fields: Any) -> Model:
        return make_model(seed, **{"vocab_size": 5, "d_model": 8, "num_heads": 2, "num_decoder_layers": 1, **fields})

    return make


def all_translations(limit: int, ends: Sequence[int] = (END,), words: Sequence[int] = (2, 3, 4)) -> list[list[int]]:
    """Every sentence of at most `limit` tokens that ends."""
    words = [word for word in words if word not in ends]
    return [[*y, end] for n in range(limit) for y in itertools.product(words, repeat=n) for end in ends]


def log_probability(models: list[Model], source: Tensor, y: list[int]) -> float:
    """Of a translation, with the mean of the models' probabilities at every step; computed without any cache."""
    start = models[0].config.decoder_start_token_id
    steps = []
    for model in models:
        logits = model(source.unsqueeze(0), decoder_input_ids=torch.tensor([[start, *y[:-1]]])).logits[0]
        steps.append(logits.softmax(-1)[range(len(y)), y])
    return torch.stack(steps).mean(0).log().sum().item()


@torch.no_grad()
def best_translations(
    models: list[Model],
    source: Tensor,
    alpha: float,
    *,
    limit: int | None = None,
    prefix: list[int] | None = None,
    ends: Sequence[int] = (END,),
    words: Sequence[int] = (2, 3, 4),
) -> list[tuple[float, list[int]]]:
    limit = int((source != PAD).sum()) + EXTRA if limit is None else limit
    prefix = prefix or []
    scored = [
        (log_probability(models, source, y) / ((5 + len(y)) / 6) ** alpha, y)
        for y in all_translations(limit, ends, words)
        if y[: len(prefix)] == prefix
    ]
    return sorted(scored, reverse=True)


def check_against(output: Any, expected: list[list[tuple[float, list[int]]]], n: int = 1) -> None:
    sequences = output.sequences.view(len(expected), n, -1).tolist()
    scores = output.sequences_scores.view(len(expected), n).tolist()
    for row, best in enumerate(expected):
        assert [strip(y) for y in sequences[row]] == [y for _, y in best[:n]]
        assert scores[row] == pytest.approx([score for score, _ in best[:n]], abs=1e-4)


def strip(sequence: list[int]) -> list[int]:
    """A returned sequence without its start token and padding."""
    ids = sequence[1:]
    while ids and ids[-1] == PAD:
        ids.pop()
    return ids


def search(model: Model, source: Tensor = SOURCE, **options: Any) -> Any:
    options = {"num_beams": WIDE, "max_extra_tokens": EXTRA, "return_dict_in_generate": True, **options}
    return model.generate(source, **options)


# --- the search is right ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [-0.5, 0.0, 0.6, 1.0, 3.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_beam_as_wide_as_the_space_finds_what_exhaustive_search_finds(tiny, alpha, seed) -> None:
    model = tiny(seed)
    output = search(model, length_penalty=alpha, num_return_sequences=5)
    check_against(output, [best_translations([model], source, alpha) for source in SOURCE], n=5)


def test_the_length_penalty_is_that_of_wu_et_al() -> None:
    assert length_penalty(7, 0.6) == pytest.approx(((5 + 7) / 6) ** 0.6)
    assert length_penalty(1, 0.6) == 1.0


@pytest.mark.parametrize("start", ["zero", "token"])
def test_exhaustive_search_agrees_for_a_model_that_starts_with_another_token(tiny, start) -> None:
    model = tiny(vocab_size=6, decoder_start=start, decoder_start_token_id=5)
    check_against(search(model, length_penalty=0.6), [best_translations([model], source, 0.6) for source in SOURCE])


def test_exhaustive_search_agrees_where_padding_is_not_id_zero(tiny) -> None:
    model = tiny(pad_token_id=4)
    source = torch.tensor([[3, 2, END], [2, END, 4]])
    output = search(model, source, num_return_sequences=3)
    for row in range(2):
        expected = best_translations([model], source[row], 0.6, limit=4 - row, words=(0, 2, 3))
        for sequence, (_, y) in zip(output.sequences[3 * row :].tolist(), expected[:3], strict=False):
            assert sequence == [4, *y] + [4] * (output.sequences.shape[1] - 1 - len(y))


@pytest.mark.parametrize("beams", [2, 4])
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_stopping_early_returns_what_searching_to_the_limit_returns(
    make_model, batch, monkeypatch, beams, n, alpha
) -> None:
    model = make_model(lm_head_bias=True)
    model.lm_head.bias.data[END] += 4.0  # ends often
    options = {"num_beams": beams, "num_return_sequences": n, "length_penalty": alpha, "return_dict_in_generate": True}
    steps = count_calls(monkeypatch, "extend")
    early = model.generate(batch["input_ids"], max_extra_tokens=8, **options)
    early_steps = len(steps)
    monkeypatch.setattr(
        generation_transformer, "done", lambda beams, alpha: beams.tokens_BGL.shape[-1] - 1 >= beams.limit_B
    )
    late = model.generate(batch["input_ids"], max_extra_tokens=8, **options)
    assert torch.equal(early.sequences, late.sequences)
    torch.testing.assert_close(early.sequences_scores, late.sequences_scores)
    assert early_steps < len(steps) - early_steps


def count_calls(monkeypatch, name: str) -> list[None]:
    calls: list[None] = []
    function = getattr(generation_transformer, name)
    monkeypatch.setattr(generation_transformer, name, lambda *args: (calls.append(None), function(*args))[1])
    return calls


@pytest.mark.parametrize("variant", [{}, {"position_embedding": "learned", "tie_embeddings": "none"}])
def test_a_batch_gives_what_its_sentences_give_one_by_one(make_model, batch, variant) -> None:
    model = make_model(**variant)
    together = model.generate(batch["input_ids"], return_dict_in_generate=True, num_return_sequences=2)
    for row in range(3):
        source = batch["input_ids"][row][batch["attention_mask"][row].bool()].unsqueeze(0)
        alone = model.generate(source, return_dict_in_generate=True, num_return_sequences=2)
        for sequence, expected in zip(together.sequences[2 * row : 2 * row + 2], alone.sequences, strict=True):
            assert strip(sequence.tolist()) == strip(expected.tolist())
        torch.testing.assert_close(together.sequences_scores[2 * row : 2 * row + 2], alone.sequences_scores)


def test_sources_padded_on_the_left_give_the_same_translations(make_model, batch) -> None:
    model = make_model()
    right = model.generate(**{name: batch[name] for name in ("input_ids", "attention_mask")})
    left = torch.stack([row.roll(6 - int(row.ne(PAD).sum())) for row in batch["input_ids"]])
    assert torch.equal(model.generate(left, attention_mask=left.ne(PAD).long()), right)


def test_without_a_mask_the_pad_id_tells_the_padding(make_model, batch) -> None:
    model = make_model()
    for options in ({}, {"num_beams": 1}, {"custom_generate": None}):
        masked = model.generate(batch["input_ids"], attention_mask=batch["attention_mask"], **options)
        assert torch.equal(model.generate(batch["input_ids"], **options), masked)


def test_no_cache_gives_the_same_translations(make_model, batch) -> None:
    model = make_model()
    assert torch.equal(model.generate(batch["input_ids"], use_cache=False), model.generate(batch["input_ids"]))


def test_embeddings_or_encoder_outputs_in_place_of_ids_give_the_same_translations(make_model, batch) -> None:
    model = make_model()
    expected = model.generate(batch["input_ids"])
    mask = batch["attention_mask"]
    embeds = model.get_input_embeddings()(batch["input_ids"])
    assert torch.equal(model.generate(inputs_embeds=embeds, attention_mask=mask), expected)
    states = model.get_encoder()(batch["input_ids"], attention_mask=mask).last_hidden_state
    encoded = BaseModelOutput(last_hidden_state=states)
    assert torch.equal(model.generate(encoder_outputs=encoded, attention_mask=mask), expected)


# --- n-best, scores, prefixes, ensembles -----------------------------------------------------------------------------


def test_n_best_is_sorted_and_scored_as_the_model_scores_it(make_model, batch) -> None:
    model = make_model(lm_head_bias=True)
    model.lm_head.bias.data[END] += 4.0
    output = model.generate(batch["input_ids"], num_return_sequences=4, return_dict_in_generate=True)
    scores = output.sequences_scores.view(3, 4)
    assert torch.equal(scores, scores.sort(descending=True).values)
    assert len({tuple(row) for row in output.sequences[:4].tolist()}) == 4
    labels = output.sequences[:, 1:].masked_fill(output.sequences[:, 1:] == PAD, -100)
    finished = (labels == END).any(1)
    assert finished.all()
    log_probabilities = model.score(batch["input_ids"].repeat_interleave(4, 0), labels)
    expected = log_probabilities / length_penalty((labels != -100).sum(1), 0.6)
    torch.testing.assert_close(output.sequences_scores, expected)


def test_a_score_is_the_references_log_probability_with_its_end(make_model, batch) -> None:
    model = make_model()
    scores = model.score(batch["input_ids"], batch["labels"], batch["attention_mask"])
    for row in range(3):
        one = {name: value[row : row + 1] for name, value in batch.items()}
        nll = model(**one, num_items_in_batch=1).nll_loss
        assert scores[row].item() == pytest.approx(-nll.item(), abs=1e-4)
    assert not scores.requires_grad


def test_a_forced_prefix_begins_every_translation(tiny) -> None:
    model = tiny()
    prefix = torch.tensor([[3, 4], [2, 2]])
    output = search(model, prefix_ids=prefix, num_return_sequences=2, max_extra_tokens=2)
    expected = [
        best_translations([model], SOURCE[row], 0.6, limit=5 - row, prefix=prefix[row].tolist()) for row in range(2)
    ]
    check_against(output, expected, n=2)


def test_prefixes_may_differ_in_length(tiny) -> None:
    model = tiny(1)
    prefix = torch.tensor([[3, PAD], [2, 4]])
    output = search(model, prefix_ids=prefix, num_return_sequences=2, max_extra_tokens=2)
    expected = [
        best_translations([model], SOURCE[0], 0.6, limit=5, prefix=[3]),
        best_translations([model], SOURCE[1], 0.6, limit=4, prefix=[2, 4]),
    ]
    check_against(output, expected, n=2)


def test_a_prefix_of_padding_forces_nothing(make_model, batch) -> None:
    model = make_model()
    prefix = torch.full((3, 2), PAD)
    assert torch.equal(model.generate(batch["input_ids"], prefix_ids=prefix), model.generate(batch["input_ids"]))


def test_an_ensemble_of_a_model_with_itself_is_the_model(make_model, batch) -> None:
    model = make_model()
    alone = model.generate(batch["input_ids"], return_dict_in_generate=True)
    pair = model.generate(batch["input_ids"], ensemble=[model, model], return_dict_in_generate=True)
    assert torch.equal(pair.sequences, alone.sequences)
    torch.testing.assert_close(pair.sequences_scores, alone.sequences_scores)


@pytest.mark.parametrize("seed", [0, 1])
def test_an_ensemble_searches_the_mean_of_probabilities(tiny, seed) -> None:
    first, second = tiny(seed), tiny(seed + 7, d_model=16, norm_order="pre")
    output = search(first, ensemble=[second], num_return_sequences=3)
    expected = [best_translations([first, second], source, 0.6) for source in SOURCE]
    check_against(output, expected, n=3)
    assert [y for _, y in expected[0]] != [y for _, y in best_translations([first], SOURCE[0], 0.6)]


# --- limits and ids --------------------------------------------------------------------------------------------------


def never_ending(make_model, **fields: Any) -> Model:
    model = make_model(lm_head_bias=True, **fields)
    model.lm_head.bias.data[END] = -1e4
    return model


def lengths(sequences: Tensor) -> list[int]:
    return (sequences[:, 1:] != PAD).sum(1).tolist()


def test_a_translation_has_at_most_fifty_tokens_more_than_its_own_source(make_model, batch) -> None:
    model = never_ending(make_model)
    assert lengths(model.generate(batch["input_ids"])) == [56, 54, 52]


def test_max_extra_tokens_sets_the_limit_of_each_sentence(make_model, batch) -> None:
    model = never_ending(make_model)
    assert lengths(model.generate(batch["input_ids"], max_extra_tokens=2)) == [8, 6, 4]
    left = torch.stack([row.roll(6 - int(row.ne(PAD).sum())) for row in batch["input_ids"]])
    assert lengths(model.generate(left, max_extra_tokens=0)) == [6, 4, 2]


def test_greedy_search_has_the_limit_of_the_longest_source(make_model, batch) -> None:
    assert lengths(never_ending(make_model).generate(batch["input_ids"], num_beams=1, max_extra_tokens=2)) == [8, 8, 8]


@pytest.mark.parametrize("options", [{"max_new_tokens": 3}, {"max_length": 4}])
@pytest.mark.parametrize("beams", [1, 4])
def test_a_given_maximum_replaces_the_limit_of_each_sentence(make_model, batch, options, beams) -> None:
    model = never_ending(make_model)
    assert lengths(model.generate(batch["input_ids"], num_beams=beams, **options)) == [3, 3, 3]


def test_a_minimum_of_new_tokens_is_honoured(make_model, batch) -> None:
    model = make_model(lm_head_bias=True)
    model.lm_head.bias.data[END] = 1e3
    assert lengths(model.generate(batch["input_ids"])) == [1, 1, 1]
    assert lengths(model.generate(batch["input_ids"], min_new_tokens=5)) == [6, 6, 6]  # and the end


def test_padding_and_start_are_never_generated(make_model, batch) -> None:
    model = make_model(lm_head_bias=True, decoder_start_token_id=5, decoder_start="token")
    model.lm_head.bias.data[[PAD, 5]] = 1e3
    sequences = model.generate(batch["input_ids"], num_return_sequences=4, max_extra_tokens=4)
    assert (sequences[:, 0] == 5).all()
    for row in sequences.tolist():
        ids = strip(row)
        assert ids
        assert not {PAD, 5} & set(ids)


def test_any_of_several_end_tokens_ends_a_translation(tiny) -> None:
    model = tiny()
    output = search(model, eos_token_id=[END, 3])
    check_against(output, [best_translations([model], source, 0.6, ends=(END, 3)) for source in SOURCE])


def test_the_output_is_no_wider_than_its_longest_translation(make_model, batch) -> None:
    sequences = make_model().generate(batch["input_ids"])
    assert (sequences[:, -1] != PAD).any()


# --- transformers' own ways of generating ----------------------------------------------------------------------------


def test_the_papers_search_is_the_default(make_model, batch) -> None:
    model = make_model()
    config = model.generation_config
    assert (config.num_beams, config.length_penalty, config.max_extra_tokens) == (4, 0.6, 50)
    explicit = {"num_beams": 4, "length_penalty": 0.6, "max_extra_tokens": 50, "custom_generate": paper_beam_search}
    assert torch.equal(
        model.generate(batch["input_ids"]), model.generate(batch["input_ids"], **explicit, extra_tokens=50)
    )


def test_one_beam_is_greedy_search(make_model, batch) -> None:
    model = make_model()
    ids = torch.full((3, 1), model.config.decoder_start_token_id)
    for _ in range(6):
        logits = model(batch["input_ids"], decoder_input_ids=ids).logits[:, -1]
        ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), 1)
    greedy = model.generate(batch["input_ids"], num_beams=1, max_new_tokens=6, eos_token_id=None, suppress_tokens=None)
    assert torch.equal(greedy, ids)


def test_sampling_depends_on_the_seed_alone(make_model, batch) -> None:
    model = make_model()
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(model.generate(batch["input_ids"], num_beams=1, do_sample=True, max_new_tokens=8).tolist())
    assert drawn[0] == drawn[1] != drawn[2]


def test_transformers_own_beam_search_penalises_length_in_its_own_way(tiny) -> None:
    model = tiny(2)
    options = {"length_penalty": 2.0, "num_beams": 4, "max_new_tokens": 4, "output_scores": True}
    output = search(model, SOURCE[:1], custom_generate=None, **options)
    y = strip(output.sequences[0].tolist())
    expected = log_probability([model], SOURCE[0], y) / len(y) ** 2.0
    assert output.sequences_scores.item() == pytest.approx(expected, abs=1e-4)


def test_what_each_step_computed_is_returned_where_it_is_asked_for(make_model, batch) -> None:
    model = never_ending(make_model)
    model.set_attn_implementation("eager")
    wanted = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
    options = {"return_dict_in_generate": True, "max_extra_tokens": 1}
    plain = model.generate(batch["input_ids"], **options)
    output = model.generate(batch["input_ids"], **options, **dict.fromkeys(wanted, True))
    assert torch.equal(output.sequences, plain.sequences)
    torch.testing.assert_close(output.sequences_scores, plain.sequences_scores)
    steps = output.sequences.shape[1] - 1
    assert plain.scores is None
    assert steps == 7 == len(output.scores) == len(output.logits) == len(output.cross_attentions)
    assert {score.shape for score in output.scores} == {(12, 29)}
    torch.testing.assert_close(output.logits[0].log_softmax(-1)[:, 2:], output.scores[0][:, 2:])
    assert [layer.shape for layer in output.cross_attentions[-1]] == [(12, 4, 1, 6)] * 2
    assert [layer.shape for layer in output.decoder_attentions[-1]] == [(12, 4, 1, steps)] * 2
    assert len(output.encoder_attentions) == 2
    assert len(output.decoder_hidden_states[0]) == len(output.encoder_hidden_states) == 3
    assert getattr(output, CACHE).get_seq_length() == steps


def test_logits_processors_act_on_the_papers_search(make_model, batch) -> None:
    sequences = make_model().generate(batch["input_ids"], bad_words_ids=[[7], [9]], num_return_sequences=4)
    free = make_model().generate(batch["input_ids"], num_return_sequences=4)
    assert not torch.isin(sequences, torch.tensor([7, 9])).any()
    assert not torch.equal(sequences, free)


def test_a_generation_config_is_honoured_and_filled_from_the_models_own(make_model, batch) -> None:
    model = never_ending(make_model)
    config = GenerationConfig(num_beams=2, num_return_sequences=2)
    assert model.generate(batch["input_ids"], generation_config=config).shape[0] == 6
    assert lengths(model.generate(batch["input_ids"], generation_config=GenerationConfig(max_new_tokens=2))) == [
        2,
        2,
        2,
    ]
    assert config.max_new_tokens is None


def test_the_generation_config_survives_saving(make_model, batch, tmp_path) -> None:
    model = never_ending(make_model)
    model.generation_config.update(max_extra_tokens=1, num_beams=3)
    model.save_pretrained(tmp_path)
    loaded = Model.from_pretrained(tmp_path)
    config: Any = loaded.generation_config
    assert (config.num_beams, config.length_penalty, config.max_extra_tokens) == (3, 0.6, 1)
    assert lengths(loaded.generate(batch["input_ids"])) == [7, 5, 3]


def test_a_setting_that_the_papers_search_does_without_is_told(make_model, batch, monkeypatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(generation_transformer.logger, "warning_once", told.append)
    make_model().generate(batch["input_ids"], max_time=100.0)
    assert len(told) == 1
    assert "ignores max_time" in told[0]


# --- bad input -------------------------------------------------------------------------------------------------------

PREFIX = torch.full((3, 1), 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"prefix_ids": PREFIX, "num_beams": 1},
            "prefix_ids and ensemble belong to the paper's beam search; .*num_beams=1",
        ),
        ({"prefix_ids": PREFIX, "do_sample": True}, "belong to the paper's beam search; .*do_sample=True"),
        ({"prefix_ids": PREFIX, "custom_generate": None}, "belong to the paper's beam search; .*custom_generate=None"),
        ({"prefix_ids": PREFIX[:2]}, r"prefix_ids must have shape \[3, P\].*got \(2, 1\)"),
        ({"prefix_ids": PREFIX[:, 0]}, r"prefix_ids must have shape \[3, P\].*got \(3,\)"),
    ],
)
def test_a_bad_option_is_told_with_the_rule_and_the_value(make_model, batch, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        make_model().generate(batch["input_ids"], **options)


def test_an_ensemble_needs_the_papers_search_one_vocabulary_and_ids(make_model, batch) -> None:
    model = make_model()
    with pytest.raises(ValueError, match="belong to the paper's beam search"):
        model.generate(batch["input_ids"], ensemble=[model], num_beams=1)
    with pytest.raises(ValueError, match="must share one vocabulary; got vocab_size=29 and 31"):
        model.generate(batch["input_ids"], ensemble=[make_model(vocab_size=31)])
    with pytest.raises(ValueError, match="an ensemble takes input_ids"):
        model.generate(inputs_embeds=torch.zeros(1, 3, 16), ensemble=[model])


def test_no_source_and_an_empty_source_are_told(make_model) -> None:
    with pytest.raises(ValueError, match="generate needs a source"):
        make_model().generate()
    with pytest.raises(ValueError, match="needs at least one position"):
        make_model().generate(torch.zeros((2, 0), dtype=torch.long))
