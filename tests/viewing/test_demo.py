"""What the demo finds: the models' own numbers, and refusals that a visitor can mend."""

from functools import cache
from typing import Any

import pytest
import torch
from transformers import pipeline

from vaswani_transformer.embedded_models import model_folder
from vaswani_transformer.evaluation.scorers import load_scored_model
from vaswani_transformer.evaluation.translation import translate
from vaswani_transformer.viewing.demo import (
    CANDIDATES,
    SETTINGS,
    Refused,
    Written,
    asked,
    check_texts,
    filled,
    translated,
    written,
)

PROMPT = "It is a truth universally"


@cache
def embedded(name: str) -> tuple[Any, Any]:
    return load_scored_model(model_folder(name), dtype=torch.float32, device="cpu")


def test_the_best_translation_is_that_of_the_search_and_its_attention_is_shown():
    model, tokenizer = embedded("demo-transformer")
    found = translated(model, tokenizer, "a library for the terminal", beams=3)
    assert found.hypotheses[0].text == translate(model, tokenizer, ["a library for the terminal"], num_beams=3)[0]
    assert len(found.hypotheses) == 3
    cross = found.maps["cross"]
    assert "".join(cross.looking[1:]).replace(" ", "") == found.hypotheses[0].text.replace(" ", "")
    assert cross.weights.shape[2:] == (len(cross.looking), len(cross.seen))


def test_words_of_a_blank_are_those_of_transformers_pipeline():
    model, tokenizer = embedded("demo-bert")
    text = "she was a very [MASK] woman , and had no money ."
    theirs: Any = pipeline("fill-mask", model=model, tokenizer=tokenizer, top_k=CANDIDATES)(text)
    whole, (ours,) = filled(model, tokenizer, text)
    assert [one.word for one in ours] == [one["token_str"] for one in theirs]
    assert [one.probability for one in ours] == pytest.approx([one["score"] for one in theirs], abs=1e-6)
    assert f"very {ours[0].word} woman" in whole


def test_each_blank_has_its_own_words():
    _, found = filled(*embedded("demo-bert"), "the [MASK] of the [MASK]")
    assert len(found) == 2
    assert found[0] != found[1]


def test_probabilities_of_each_step_are_those_of_one_pass_over_the_whole_text():
    model, tokenizer = embedded("demo-gpt")
    found = written(model, tokenizer, PROMPT, new_tokens=8, greedy=True)
    start = tokenizer(PROMPT)["input_ids"]
    ids = tokenizer(PROMPT + found.text)["input_ids"]
    with torch.no_grad():
        probabilities = model(torch.tensor([ids])).logits[0].softmax(-1)
    assert len(found.steps) == len(ids) - len(start) == 8
    own = [float(probabilities[place - 1, ids[place]]) for place in range(len(start), len(ids))]
    assert [step.chosen.probability for step in found.steps] == pytest.approx(own, abs=1e-5)
    assert [step.chosen for step in found.steps] == [step.candidates[0] for step in found.steps]


def test_a_token_is_drawn_with_its_probability_after_temperature_and_top_k():
    model, tokenizer = embedded("demo-gpt")
    (step,) = written(model, tokenizer, PROMPT, new_tokens=1, temperature=0.5, top_k=4, top_p=1.0).steps
    squares = [one.probability**2 for one in step.candidates[:4]]
    expected = [square / sum(squares) for square in squares] + [0.0] * (CANDIDATES - 4)
    assert [one.drawn for one in step.candidates] == pytest.approx(expected, abs=1e-5)


def test_a_seed_draws_the_same_text_again_and_leaves_the_global_generator_alone():
    model, tokenizer = embedded("demo-gpt")
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, second, other = (written(model, tokenizer, PROMPT, new_tokens=12, seed=seed).text for seed in (1, 1, 2))
    assert torch.rand(1) == expected
    assert first == second != other


def test_a_question_is_asked_with_no_example_with_one_and_with_all():
    texts: dict[str, Any] = {
        "task": "Opposites.",
        "examples": "hot -> cold\n\nlarge -> small\nnew -> old",
        "question": "rich ->",
    }
    found = asked(*embedded("demo-gpt"), **texts)
    assert {setting: prompt for setting, (prompt, _) in found.items()} == {
        "zero-shot": "Opposites.\nrich ->",
        "one-shot": "Opposites.\nhot -> cold\nrich ->",
        "few-shot": "Opposites.\nhot -> cold\nlarge -> small\nnew -> old\nrich ->",
    }
    assert tuple(found) == SETTINGS


def test_an_answer_ends_with_its_line_and_so_do_its_steps():
    model, tokenizer = embedded("demo-gpt")
    (newline,) = tokenizer("\n")["input_ids"]
    usual = model.generation_config.forced_eos_token_id
    model.generation_config.forced_eos_token_id = newline  # the last token that may be written
    try:
        found = asked(model, tokenizer, task="", examples="a b", question="It is", new_tokens=4)
    finally:
        model.generation_config.forced_eos_token_id = usual
    answer = found["zero-shot"][1]
    assert isinstance(answer, Written)
    assert "\n" not in answer.text
    assert [step.token == newline for step in answer.steps] == [False] * 3 + [True]


def test_a_prompt_without_room_is_told_in_its_place_and_the_others_are_answered():
    examples = "\n".join(["one two three four five six"] * 40)
    found = asked(*embedded("demo-gpt"), task="", examples=examples, question="one two")
    assert isinstance(found["one-shot"][1], Written)
    assert "must fit the model's context of 128" in str(found["few-shot"][1])


@pytest.mark.parametrize(
    ("name", "work", "told"),
    [
        ("demo-transformer", lambda model, tokenizer: translated(model, tokenizer, " \n "), "must have a word"),
        (
            "demo-transformer",
            lambda model, tokenizer: translated(model, tokenizer, "a", beams=99),
            "from 1 to 8; got 99",
        ),
        ("demo-bert", lambda model, tokenizer: filled(model, tokenizer, "no blank"), r"written \[MASK\]; got none"),
        (
            "demo-bert",
            lambda model, tokenizer: filled(model, tokenizer, "[MASK] " * 200),
            "at most 128 tokens; got 202",
        ),
        (
            "demo-gpt",
            lambda model, tokenizer: written(model, tokenizer, "a", new_tokens=10**6),
            "from 1 to 100; got 1000000",
        ),
        (
            "demo-gpt",
            lambda model, tokenizer: written(model, tokenizer, "a", new_tokens=1, seed=-1),
            "seed must be from 0.*got -1",
        ),
        (
            "demo-gpt",
            lambda model, tokenizer: written(model, tokenizer, "a", new_tokens=1, temperature=0.0),
            "temperature must be from",
        ),
        ("demo-gpt", lambda model, tokenizer: written(model, tokenizer, "a " * 200, new_tokens=1), "context of 128"),
        (
            "demo-gpt",
            lambda model, tokenizer: asked(model, tokenizer, task="", examples=" \n", question="a"),
            "0 examples and the question 'a'",
        ),
        (
            "demo-gpt",
            lambda model, tokenizer: asked(model, tokenizer, task="", examples="a b", question=" "),
            "1 examples and the question ''",
        ),
        (
            "demo-gpt",
            lambda model, tokenizer: check_texts(["abc", "de"], most=4),
            "at most 4 characters in this demo; got 5",
        ),
    ],
)
def test_what_a_visitor_can_mend_is_refused(name, work, told):
    with pytest.raises(Refused, match=told):
        work(*embedded(name))
