import pytest

from vaswani_transformer.publishing.local_names import without_places


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("/home/alice/runs/gpt", "gpt"),
        ("/home/alice", "FOLDER"),
        ("/Users/alice/", "FOLDER"),
        ("/root", "FOLDER"),
        ("~", "FOLDER"),
        ("~alice", "FOLDER"),
        ("~/runs/gpt", "gpt"),
        ("../../home/alice/data", "data"),
        ("data/../../alice/x", "x"),
        ("C:\\Users\\alice\\runs\\gpt", "gpt"),
        ("C:\\Users\\alice", "FOLDER"),
        ("\\\\host\\share\\gpt", "gpt"),
        ("/tmp/with a space/gpt one", "gpt one"),
        ("read from /home/alice/a.txt, then --out=/tmp/b.txt.", "read from a.txt, then --out=b.txt."),
        ("file:///home/alice/a.txt", "a.txt"),
        ("ssh://alice@host/data/a.txt", "a.txt"),
        ("s3://bucket/key/a.txt", "a.txt"),
        ("https://alice:secret@example.org/a/b", "https://example.org/a/b"),
    ],
)
def test_of_a_place_the_last_name_is_left_unless_it_is_a_persons(text, public):
    assert without_places(text) == public


@pytest.mark.parametrize(
    "text",
    [
        "runs/gpt",
        "wmt/wmt14",
        "https://huggingface.co/datasets/wmt/wmt14",
        "hf://datasets/wmt/wmt14",
        "a sentence and/or another: 3 / 4, 1/2",
        "arXiv:1706.03762",
        "train[:98%]",
    ],
)
def test_what_is_no_place_here_stays(text):
    assert without_places(text) == text


def test_every_text_inside_plain_values_is_cleaned_and_numbers_stay():
    value = {"/home/alice/a": [{"from": "/tmp/x/gpt"}, 1, None, True], "n": 0.5}
    assert without_places(value) == {"a": [{"from": "gpt"}, 1, None, True], "n": 0.5}
