"""Tasks in the other forms they are published in, BLiMP's sets, and a user's tasks in Python."""

import json
from pathlib import Path

import pytest

from vaswani_transformer.evaluation.public_tasks import PUBLIC
from vaswani_transformer.evaluation.task_catalogue import find_tasks
from vaswani_transformer.evaluation.tasks import Question

STORY = "InputStoryid,InputSentence1,InputSentence2,InputSentence3,InputSentence4,"
STORY += "RandomFifthSentenceQuiz1,RandomFifthSentenceQuiz2,AnswerRightEnding\n"


def only(name: str, path: Path, text: str) -> Question:
    path.write_text(text, encoding="utf-8")
    (question,) = find_tasks([name], data={name: str(path)})[0].questions
    return question


def test_the_published_file_of_storycloze_has_commas_and_quotation_marks(tmp_path):
    found = only("storycloze_2016", tmp_path / "a.csv", STORY + 'x,A.,"B, too.",C.,D.,"She said ""yes"".",No.,1\n')
    assert found == Question("0", ("A. B, too. C. D.",), (' She said "yes".', " No."), 0)


def test_a_row_of_commas_with_too_few_columns_is_named_with_its_line(tmp_path):
    with pytest.raises(ValueError, match=r"8 columns; got 2 at .*a\.csv:2"):
        only("storycloze_2016", tmp_path / "a.csv", STORY + "x,A.\n")


def wsc(path: Path, **changed: object) -> Question:
    target = {"span1_text": "The dog", "span2_text": "it", "span2_index": 7} | changed
    row = {"target": target, "text": "It rained when the dog slept , so it slept (it was tired).", "label": False}
    return only("wsc", path, json.dumps(row))


def test_the_published_wsc_has_its_spans_in_a_target(tmp_path):
    question = wsc(tmp_path / "a.jsonl", span2_index=8)
    assert question.contexts[0].startswith("Passage: It rained when the dog slept, so *it* slept (it was")
    assert (question.choices, question.gold) == ((" no", " yes"), 0)


@pytest.mark.parametrize(("index", "marked"), [(7, "so *it* slept"), (11, "slept (*it* was")])
def test_a_pronoun_whose_number_is_off_is_the_nearest_one(index, marked, tmp_path):
    assert marked in wsc(tmp_path / "a.jsonl", span2_index=index).contexts[0]


def test_a_pronoun_that_is_not_in_the_text_is_refused_with_its_line(tmp_path):
    with pytest.raises(ValueError, match=r"pronoun must be in the text; got 'she'.*a\.jsonl:1"):
        wsc(tmp_path / "a.jsonl", span2_text="she")


def test_a_translation_may_have_its_languages_by_themselves(tmp_path):
    question = only("wmt16-de-en", tmp_path / "a.jsonl", '{"de": "Ja.", "en": "Yes."}')
    assert question == Question("0", ("German phrase: Ja.\nEnglish phrase:",), (" Yes.",))


def test_translations_have_room_for_sentences():
    assert find_tasks(["translation"])[0].longest_answer > find_tasks(["nq_open"])[0].longest_answer


def test_blimp_is_its_67_sets_each_of_its_own_configuration():
    found = find_tasks(["blimp"])
    assert len({task.name for task in found}) == 67
    assert [f"blimp_{PUBLIC[task.name].hub[1]}" for task in found] == [task.name for task in found]


def test_all_of_blimp_in_a_file_is_one_task(tmp_path):
    assert only("blimp", tmp_path / "a.jsonl", '{"sentence_good": "He is.", "sentence_bad": "He are."}').gold == 0


PYTHON = """
from vaswani_transformer.evaluation.tasks import Question, Task

def twice(first, last):
    return [Question(str(n), (f"{n} twice is",), (f" {2 * n}", f" {2 * n + 1}")) for n in range(first, last)]

doubling = Task(name="doubling", kind="choice", queries=lambda: twice(0, 5), pool=lambda: twice(5, 9))
same = doubling
other = Task(name="other", kind="completion", queries=lambda: twice(0, 2))
"""


def test_a_file_of_python_brings_its_tasks_once_each_in_their_order(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(PYTHON, encoding="utf-8")
    found = find_tasks([str(path), "piqa"])
    assert [task.name for task in found] == ["doubling", "other", "piqa"]
    assert found[0].questions[1] == Question("1", ("1 twice is",), (" 2", " 3"))
    assert len(found[0].shots) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", r"a variable that is a Task; got none in .*mine\.py"),
        ("x = 1 / 0\n", r"must run; got ZeroDivisionError: .* in .*mine\.py"),
        ("def\n", r"must run; got SyntaxError: .*line 1.* in .*mine\.py"),
    ],
)
def test_a_file_of_python_without_a_task_is_named(text, message, tmp_path):
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        find_tasks([str(tmp_path / "mine.py")])


def test_a_file_of_python_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.py"):
        find_tasks([str(tmp_path / "none.py")])
