"""Shots: which are drawn, what they do not depend on, and what a prompt leaves out."""

from dataclasses import replace

import pytest

from vaswani_transformer.evaluation.prompts import Prompt, draw_shots, make_prompt
from vaswani_transformer.evaluation.tasks import Question, Task


def questions(count: int, *, first: int = 0) -> list[Question]:
    return [Question(str(i), (f"Is {i + first} even?",), (" yes", " no"), int(i % 4 != 0)) for i in range(count)]


POOLED = Task(name="even", kind="choice", queries=lambda: questions(30), pool=lambda: questions(40, first=100))
ALONE = Task(name="even", kind="choice", queries=lambda: questions(30), description="Tell.", delimiter="\n")


@pytest.mark.parametrize("draw", ["per_example", "shared"])
@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("task", [POOLED, ALONE], ids=["pool", "no pool"])
def test_the_shots_of_k_are_the_first_of_k_plus_one_up_to_the_whole_pool(task, draw, balanced):
    most = len(task.shots) - (task.pool is None)
    for question in task.questions[:3]:
        whole = draw_shots(task, question, shots=most, draw=draw, balanced=balanced)
        assert len({shot.id for shot in whole}) == most
        for shots in range(most):
            assert draw_shots(task, question, shots=shots, draw=draw, balanced=balanced) == whole[:shots]


def test_shots_depend_on_the_question_and_the_seed_alone():
    reordered = replace(ALONE, queries=lambda: questions(30))  # read anew, asked alone
    for question in reversed(reordered.questions):
        assert draw_shots(reordered, question, shots=4) == draw_shots(ALONE, question, shots=4)
    first, second = ALONE.questions[:2]
    drawn = [draw_shots(POOLED, q, shots=4, seed=seed) for q in (first, second) for seed in (0, 1)]
    assert len({tuple(shot.id for shot in shots) for shots in drawn}) == 4


def test_the_draw_is_the_one_that_was_published():
    """Changes when the hash does: raise every task's version then."""
    found = draw_shots(POOLED, POOLED.questions[7], shots=5, seed=3)
    assert [shot.id for shot in found] == ["17", "37", "24", "34", "15"]


@pytest.mark.parametrize("draw", ["per_example", "shared"])
def test_a_question_is_never_its_own_shot(draw):
    for question in ALONE.questions:
        assert question not in draw_shots(ALONE, question, shots=29, draw=draw)


def test_a_question_that_stands_in_the_shots_file_too_is_not_its_own_shot():
    task = replace(ALONE, pool=lambda: [replace(question, id=f"x{question.id}") for question in questions(30)])
    for question in task.questions:
        assert question.as_shot not in [shot.as_shot for shot in draw_shots(task, question, shots=29)]


def test_shared_shots_are_the_same_for_all_questions():
    assert len({tuple(draw_shots(POOLED, question, shots=5, draw="shared")) for question in POOLED.questions}) == 1


def test_every_place_of_the_pool_is_drawn_about_as_often():
    counts = dict.fromkeys((shot.id for shot in POOLED.shots), 0)
    for seed in range(100):
        for question in POOLED.questions:
            for shot in draw_shots(POOLED, question, shots=4, seed=seed):
                counts[shot.id] += 1
    assert 220 < min(counts.values()) <= max(counts.values()) < 380  # 300 expected, 16.4 standard deviation


def test_balanced_shots_have_every_label_as_often():
    for question in POOLED.questions:
        golds = [shot.gold for shot in draw_shots(POOLED, question, shots=6, balanced=True)]
        assert sum(golds) == 3


@pytest.mark.parametrize("shots", [-1, 41])
def test_more_shots_than_the_pool_has_are_refused(shots):
    with pytest.raises(ValueError, match=r"0 to the 40 that even has.*shots="):
        draw_shots(POOLED, POOLED.questions[0], shots=shots)


def test_without_a_pool_one_question_less_can_be_drawn():
    with pytest.raises(ValueError, match="0 to the 29"):
        draw_shots(ALONE, ALONE.questions[0], shots=30)


def test_an_unknown_way_to_draw_is_refused():
    with pytest.raises(ValueError, match="per_example or shared"):
        draw_shots(POOLED, POOLED.questions[0], shots=1, draw="some")


def test_a_prompt_is_description_shots_and_question():
    shots = ALONE.questions[1:3]
    prompt = make_prompt(ALONE, ALONE.questions[0], shots)
    assert prompt.context_of(0) == "Tell.\nIs 1 even? no\nIs 2 even? no\nIs 0 even?"
    assert prompt == Prompt(ALONE.questions[0], "Tell.\nIs 1 even? no\nIs 2 even? no\n", ("1", "2"), 0)


def test_without_shots_it_is_the_description_and_the_question():
    assert make_prompt(ALONE, ALONE.questions[0], []).context_of(1) == "Tell.\nIs 0 even?"


def test_shots_that_do_not_fit_are_left_out_whole_and_counted():
    shots = ALONE.questions[1:6]
    prompt = make_prompt(ALONE, ALONE.questions[0], shots, fits=lambda prompt: len(prompt.context_of(0)) <= 50)
    assert prompt.context_of(0) == "Tell.\nIs 1 even? no\nIs 2 even? no\nIs 0 even?"
    assert (prompt.shots, prompt.dropped) == (("1", "2"), 3)


def test_a_question_without_room_is_refused_by_name():
    with pytest.raises(ValueError, match="question 4 of even"):
        make_prompt(ALONE, ALONE.questions[4], [], fits=lambda prompt: False)
