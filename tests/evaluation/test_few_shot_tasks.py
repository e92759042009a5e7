"""Tasks: what is generated, what a row becomes, and what a bad file is told."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from vaswani_transformer.evaluation.blimp_subsets import SUBSETS
from vaswani_transformer.evaluation.generated_tasks import SCRAMBLES, generated_tasks, novel_words
from vaswani_transformer.evaluation.public_tasks import PUBLIC
from vaswani_transformer.evaluation.task_catalogue import GROUPS, find_tasks
from vaswani_transformer.evaluation.tasks import Question, Task

GENERATED = {task.name: task for task in generated_tasks()}
ARITHMETIC = [name for name in GENERATED if name.startswith("arithmetic")]


@pytest.mark.parametrize("name", ARITHMETIC)
def test_every_sum_is_right_and_asked_as_openai_released_it(name):
    task = GENERATED[name]
    assert len(task.questions) == 2000
    for question in (*task.questions, *task.shots):
        match = re.fullmatch(r"Q: What is (.+)\?\n\nA:", question.contexts[0])
        assert match
        formula = match[1].replace("plus", "+").replace("minus", "-").replace("times", "*")
        assert question.choices == (f" {eval(formula)}",)


def test_the_papers_three_operands_bracket_the_last_two_and_the_released_ones_the_first_two():
    assert all("What is (" not in question.contexts[0] for question in GENERATED["arithmetic_1dc"].questions)
    assert all("What is (" in question.contexts[0] for question in GENERATED["arithmetic_1dc_released"].questions)


def test_the_groups_are_the_papers_ten_and_five():
    assert (len(GROUPS["arithmetic"]), len(GROUPS["unscramble"])) == (10, 5)


@pytest.mark.parametrize("name", GENERATED)
def test_no_shot_is_a_question(name):
    task = GENERATED[name]
    assert not {q.contexts for q in task.questions} & {q.contexts for q in task.shots}


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_task_is_the_same_every_time(name):
    again = next(task for task in generated_tasks() if task.name == name)
    assert again.queries() == list(GENERATED[name].questions)


@pytest.mark.parametrize("name", ["cycle_letters", "anagrams1", "anagrams2", "reversed_words"])
def test_a_scrambled_word_has_the_words_letters_and_another_order(name):
    questions = GENERATED[name].questions
    pairs = [(q.contexts[0].removesuffix(" ="), q.choices[0].strip()) for q in questions]
    assert all(Counter(shown) == Counter(word) for shown, word in pairs)
    middle = {"anagrams1": slice(1, -1), "anagrams2": slice(2, -2)}.get(name, slice(None))
    same = [word for shown, word in pairs if shown == word and len(set(word[middle])) > 1]
    assert not [word for word in same if word != word[::-1] and word not in (word * 2)[1:-1]]  # level, murmur


@pytest.mark.parametrize(("name", "kept"), [("anagrams1", 1), ("anagrams2", 2)])
def test_an_anagram_keeps_the_first_and_last_letters(name, kept):
    for question in GENERATED[name].questions[:200]:
        shown, word = question.contexts[0].removesuffix(" ="), question.choices[0].strip()
        assert (shown[:kept], shown[-kept:]) == (word[:kept], word[-kept:])


def test_random_insertion_puts_one_mark_between_letters():
    for question in GENERATED["random_insertion"].questions[:200]:
        shown, word = question.contexts[0].removesuffix(" ="), question.choices[0].strip()
        assert shown[::2] == word
        assert not re.search(r"[a-z]", shown[1::2])


def test_the_words_are_longer_than_four_letters_and_shorter_than_fifteen():
    assert {len(word) for word in novel_words()} <= set(range(5, 15))
    assert len(SCRAMBLES) == 5


def test_a_cloze_ends_a_sentence_of_the_validation_chapters_and_its_right_word_is_among_four():
    questions = GENERATED["austen_cloze"].questions
    assert len(questions) >= 100
    assert all(len(set(question.choices)) == 4 for question in questions)
    assert {question.gold for question in questions} == {0, 1, 2, 3}


ROWS: dict[str, tuple[dict[str, Any], Question]] = {
    "hellaswag": (
        {"activity_label": "Music", "ctx_a": "She sat.", "ctx_b": "she", "endings": ["sang [x].", "ran."],
         "label": "1"},
        Question("0", ("Music: She sat. She",), (" sang .", " ran."), 1),
    ),
    "lambada_openai": ({"text": "she had a dog"}, Question("0", ("she had a",), (" dog",))),
    "lambada_openai_cloze_yaml": ({"text": "she had a dog"}, Question("0", ("she had a ____. ->",), (" dog",))),
    "blimp": ({"sentence_good": "He is.", "sentence_bad": "He are."}, Question("0", ("",), ("He is.", "He are."))),
    "arc_easy": (
        {"question": "Hot?", "choices": {"text": ["sun", "ice"], "label": ["A", "B"]}, "answerKey": "B"},
        Question("0", ("Question: Hot?\nAnswer:",), (" sun", " ice"), 1),
    ),
    "openbookqa": (
        {"ID": "1", "Question Stem": "Gas", "Choices": "(A) is (B) of a", "Answer Key": "B"},
        Question("0", ("Gas",), (" is", " of a"), 1),
    ),
    "commonsense_qa": (
        {"question": {"stem": "Where?", "choices": [{"label": "A", "text": "x"}, {"label": "B", "text": "y"}]},
         "answerKey": "A"},
        Question("0", ("Question: Where?\nA. x\nB. y\nAnswer:",), (" A", " B"), 0),
    ),
    "mmlu": (
        {"question": "Why?", "choices": ["x", "y"], "answer": 1},
        Question("0", ("Why?\nA. x\nB. y\nAnswer:",), (" A", " B"), 1),
    ),
    "piqa": (
        {"goal": "cut", "sol1": "knife", "sol2": "spoon", "label": 0},
        Question("0", ("Question: cut\nAnswer:",), (" knife", " spoon"), 0),
    ),
    "winogrande": (
        {"sentence": "Ann met Bo as _ left home.", "option1": "Ann", "option2": "Bo", "answer": "2"},
        Question("0", ("Ann met Bo as Ann", "Ann met Bo as Bo"), (" left home.",) * 2, 1),
    ),
    "boolq": (
        {"passage": "Sky.", "question": "is it blue", "answer": True},
        Question("0", ("Sky.\nQuestion: is it blue?\nAnswer:",), (" no", " yes"), 1),
    ),
    "rte": (
        {"sentence1": "A.", "sentence2": "B.", "label": "not_entailment"},
        Question("0", ("A.\nQuestion: B. True or False?\nAnswer:",), (" True", " False"), 1),
    ),
    "cb": (
        {"premise": "A.", "hypothesis": "b", "label": 2},
        Question("0", ("A.\nQuestion: b. True, False, or Neither?\nAnswer:",), (" True", " False", " Neither"), 2),
    ),
    "copa": (
        {"premise": "It fell.", "choice1": "We ran.", "choice2": "He hid.", "question": "cause", "label": 1},
        Question("0", ("It fell because",), (" we ran.", " he hid."), 1),
    ),
    "wic": (
        {"sentence1": "A.", "sentence2": "B.", "word": "a", "label": 0},
        Question(
            "0",
            (
                "Sentence 1: A.\nSentence 2: B.\nQuestion: Is the word 'a' used in the same way in the two sentences "
                "above?\nAnswer:",
            ),
            (" no", " yes"),
            0,
        ),
    ),
    "sst2": (
        {"sentence": "good", "label": "1"},
        Question(
            "0", ("good\nQuestion: Is this sentence positive or negative?\nAnswer:",), (" negative", " positive"), 1
        ),
    ),
    "triviaqa": (
        {"question": "Who?", "answer": {"aliases": ["X", "Y"]}},
        Question("0", ("Question: Who?\nAnswer:",), (" X", " Y")),
    ),
    "nq_open": ({"question": "Who?", "answer": ["X"]}, Question("0", ("Question: Who?\nAnswer:",), (" X",))),
    "webqs": ({"question": "Who?", "answers": ["X"]}, Question("0", ("Question: Who?\nAnswer:",), (" X",))),
}  # fmt: skip


ROWS["wsc"] = (
    {"text": "Ann told  Bo that she didn 't know , or so", "span1_text": "Ann", "span2_text": "she", "span2_index": 4,
     "label": 1},
    Question(
        "0",
        (
            "Passage: Ann told Bo that *she* didn't know, or so\nQuestion: In the passage above, does the pronoun "
            '"*she*" refer to "*Ann*"?\nAnswer:',
        ),
        (" no", " yes"),
        1,
    ),
)  # fmt: skip
ROWS["storycloze_2016"] = (
    {**{f"input_sentence_{n}": f"{n}." for n in range(1, 5)}, "sentence_quiz1": "Yes.", "sentence_quiz2": "No.",
     "answer_right_ending": 2},
    Question("0", ("1. 2. 3. 4.",), (" Yes.", " No."), 1),
)  # fmt: skip
ROWS["storycloze_2018"] = ROWS["storycloze_2016"]
ROWS["arc_challenge"] = ROWS["arc_easy"]
ROWS |= {f"blimp_{subset}": ROWS["blimp"] for subset in SUBSETS}
for pair in ("wmt14-en-fr", "wmt14-fr-en", "wmt16-en-de", "wmt16-de-en", "wmt16-en-ro", "wmt16-ro-en"):
    source, target = pair.split("-")[1:]
    names = {"en": "English", "fr": "French", "de": "German", "ro": "Romanian"}
    context = f"{names[source]} phrase: in {source}\n{names[target]} phrase:"
    sides = {code: f"in {code}" for code in (source, target)}
    ROWS[pair] = ({"translation": sides}, Question("0", (context,), (f" in {target}",)))


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    if rows and "Question Stem" in rows[0]:
        path = path.with_suffix(".tsv")
        lines = ["\t".join(rows[0]), *("\t".join(map(str, row.values())) for row in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_every_public_task_has_a_row_here():
    assert set(ROWS) == set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_row_of_a_local_file_becomes_a_question(name, tmp_path):
    row, expected = ROWS[name]
    task = find_tasks([name], data={name: written(tmp_path / "rows.jsonl", [row])})[0]
    assert task.questions == (expected,)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_missing_field_is_told_with_file_and_line(name, tmp_path):
    row = dict(ROWS[name][0])
    field = list(row)[-1]
    row.pop(field)
    path = written(tmp_path / "rows.jsonl", [row])
    task = find_tasks([name], data={name: path})[0]
    with pytest.raises(ValueError, match=rf"(?s)field.*'{field}.*{Path(path).name}:(1|2)"):
        task.questions  # noqa: B018


BROKEN = [
    (
        "hellaswag",
        '{"ctx": "a b", "endings": ["x", "y"], "label": 2}',
        r"'label' must be .* from 0 to 1; got 2 at .*:1",
    ),
    ("hellaswag", '{"ctx": "a b", "endings": ["x", " "], "label": 0}', r"'endings' must be .* empty.*:1"),
    ("piqa", '{"goal": "a", "sol1": "", "sol2": "b", "label": 0}', r"'sol1' must be a text .*''.*:1"),
    ("lambada_openai", '{"text": "word"}', r"'text' must have two words.*:1"),
    ("lambada_openai", '{"text": "a b"', r"JSON object; got .*:1"),
    ("lambada_openai", "[1]", r"JSON object; got list at .*:1"),
    ("copa", '{"premise": "a.", "choice1": "b", "choice2": "c", "question": "why", "label": 0}', r"'question'.*'why'"),
]


@pytest.mark.parametrize(("name", "line", "message"), BROKEN)
def test_a_broken_line_is_told_with_file_line_and_field(name, line, message, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        find_tasks([name], data={name: str(path)})[0].questions  # noqa: B018


def test_hellaswags_text_form_has_six_lines_a_row(tmp_path):
    path = tmp_path / "rows.txt"
    path.write_text("Roof: he\n3\na.\nb.\nc.\nd.\n" * 2, encoding="utf-8")
    task = find_tasks(["hellaswag"], data={"hellaswag": str(path)})[0]
    assert task.questions[1] == Question("1", ("Roof: he",), (" a.", " b.", " c.", " d."), 3)


@pytest.mark.parametrize(
    ("name", "file", "rows"),
    [
        ("hellaswag", "hellaswag.dev-even.txt.xz", 5021),
        ("lambada_openai", "lambada.dev-odd.jsonl.xz", 2577),
        ("blimp", "blimp.first200.jsonl.xz", 13400),
        ("openbookqa", "openbookqa.dev.tsv.xz", 500),
    ],
)
def test_the_real_halves_are_read_whole(name, file, rows, shared_data):
    task = find_tasks([name], data={name: str(shared_data / "fewshot" / file)})[0]
    assert len(task.questions) == rows


def test_shots_come_from_their_own_file(tmp_path):
    row = ROWS["nq_open"][0]
    data = {
        "nq_open": written(tmp_path / "a.jsonl", [row]),
        "nq_open.shots": written(tmp_path / "b.jsonl", [row | {"question": "Which?"}]),
    }
    assert find_tasks(["nq_open"], data=data)[0].shots[0].contexts == ("Question: Which?\nAnswer:",)


def test_an_unknown_task_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="hellaswag"):
        find_tasks(["helaswag"])


@pytest.mark.parametrize(
    ("names", "data"), [(["piqa", "piqa"], {}), (["piqa"], {"wic": "x"}), (["piqa"], {"piqa.shots": "x"})]
)
def test_a_task_twice_and_data_of_no_task_are_refused(names, data):
    with pytest.raises(ValueError, match="must be"):
        find_tasks(names, data=data)


YAML = """
task: capitals
output_type: multiple_choice
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl, train: rows.jsonl}}
test_split: test
doc_to_text: "Q: {{country}}?\\nA:"
doc_to_choice: cities
doc_to_target: right
description: "Name the capital."
metadata: {version: 3}
"""


def yaml_of(
    folder: Path, text: str = YAML, *, rows: str = '{"country": "Peru", "cities": ["Lima", "Oslo"], "right": 0}'
):
    (folder / "rows.jsonl").write_text(rows + "\n", encoding="utf-8")
    (folder / "capitals.yaml").write_text(text, encoding="utf-8")
    return find_tasks([str(folder / "capitals.yaml")])[0]


@pytest.mark.parametrize("target", ["right", '"{{cities[0]}}"', "0"])
def test_a_users_yaml_is_a_task(target, tmp_path):
    task = yaml_of(tmp_path, YAML.replace("doc_to_target: right", f"doc_to_target: {target}"))
    assert task.questions == (Question("0", ("Q: Peru?\nA:",), (" Lima", " Oslo"), 0),)
    assert (task.name, task.version, task.description, task.kind) == ("capitals", 3, "Name the capital.", "choice")


def test_choices_may_be_written_by_a_template(tmp_path):
    task = yaml_of(tmp_path, YAML.replace("doc_to_choice: cities", "doc_to_choice: \"{{[cities[0], 'Rome']}}\""))
    assert task.questions[0].choices == (" Lima", " Rome")


def test_free_text_takes_a_target_or_a_list_of_them(tmp_path):
    text = YAML.replace("multiple_choice", "generate_until").replace("doc_to_choice: cities\n", "")
    assert yaml_of(tmp_path, text.replace("right", "cities")).questions[0].choices == (" Lima", " Oslo")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("doc_to_text:", "doc_to_txt:", r"doc_to_text.*capitals\.yaml"),
        ("task: capitals\n", "", r"must have the key 'task'.*capitals\.yaml"),
        ("doc_to_target: right", "doc_to_target: !function x.y", r"without code; got (?s:.*)!function.*capitals\.yaml"),
        ("multiple_choice", "loglikelihood", r"output_type must be.*capitals\.yaml"),
        ("metadata:", "metric_list: [acc]\nmetadata:", r"metric_list must be a list.*'acc'.*capitals\.yaml"),
        ("test_split: test", "test_split: dev", r"test_split.*'dev'.*capitals\.yaml"),
    ],
)
def test_a_broken_task_file_is_named_with_its_key(old, new, message, tmp_path):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        yaml_of(tmp_path, YAML.replace(old, new))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            '{"country": "Peru", "cities": ["Lima", "Oslo"], "right": 2}',
            r"'doc_to_target' must be .* 0 to 1; got 2 at .*:1",
        ),
        ('{"country": "Peru", "cities": ["Lima", ""], "right": 0}', r"no empty choice.*:1"),
        ('{"cities": ["Lima", "Oslo"], "right": 0}', r"'country' is undefined at .*:1"),
        ('{"country": "Peru", "cities": ["Lima", "Oslo"]}', r"field 'right'.*:1"),
    ],
)
def test_a_row_that_does_not_fit_the_task_file_is_named_with_its_line(rows, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        yaml_of(tmp_path, rows=rows).questions  # noqa: B018


def test_a_question_without_room_for_a_right_answer_is_refused():
    for wrong in ({"choices": ()}, {"choices": (" a", " ")}, {"gold": 2}, {"contexts": ("a", "b", "c")}):
        with pytest.raises(ValueError, match=r"must be|needs choices|has one context"):
            Question("0", **{"contexts": ("a",), "choices": (" a", " b"), **wrong})


def test_a_task_of_an_unknown_kind_or_score_is_refused():
    for wrong in ({"kind": "guess"}, {"score": "word"}, {"score": "unconditional"}):
        with pytest.raises(ValueError, match="must be one of"):
            Task(**{"name": "x", "kind": "choice", "queries": list, **wrong})
