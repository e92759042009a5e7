"""Examples of BERT's pre-training against the rules of Google's create_pretraining_data.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vaswani_transformer.data.bert_examples import mask, plan_document, read_plan, sequence, write_plan
from vaswani_transformer.data.documents import Documents

from .corpora import FIRST, counting_documents, counting_text, rules

PASSES = 30


@pytest.fixture(scope="module")
def documents(tmp_path_factory) -> Documents:
    return counting_documents(tmp_path_factory.mktemp("examples"), counting_text(80))


def plans(documents: Documents, passes: int = PASSES, **changes) -> list[tuple[int, tuple]]:
    """(document, example) of many passes over all documents."""
    made = rules(documents, **changes)
    numbers = [(key, number) for key in range(passes) for number in range(len(documents))]
    return [(number, row) for key, number in numbers for row in plan_document(documents, number, made, (5, key))]


def bounds(documents: Documents, number: int) -> list[int]:
    return documents.sentences(number).tolist()


def owner(documents: Documents, token: int) -> int:
    """The document a token belongs to."""
    starts = [bounds(documents, number)[0] for number in range(len(documents))]
    return int(np.searchsorted(starts, token, side="right")) - 1


def untruncated(**changes):
    """Settings under which no text is ever cut: what is asserted of sentences then holds exactly."""
    return {"max_seq_length": 1000, "short_seq_prob": 1.0, **changes}


def test_ids_are_the_two_slices_between_the_special_tokens(documents):
    made = rules(documents)
    assert sequence(documents, made, (7, 3), (40, 2)).tolist() == [2, *range(12, 15), 3, 45, 46, 3]
    assert sequence(documents, made, (7, 3), (0, 0)).tolist() == [2, 12, 13, 14, 3]


def test_a_sequence_is_never_longer_than_asked_for_and_both_texts_hold_a_token(documents):
    for _, (_, _, a_length, b_length, _, _) in plans(documents, passes=20):
        assert a_length >= 1
        assert b_length >= 1
        assert a_length + b_length + 3 <= 32


def test_a_pair_labelled_next_is_contiguous_in_the_source(documents):
    rows = [row for number, row in plans(documents, 10, **untruncated()) if not row[5]]
    assert len(rows) > 200
    for a, b, a_length, _, _, _ in rows:
        assert b == a + a_length
        assert owner(documents, a) == owner(documents, b)


def words(start: int, count: int) -> str:
    return " ".join(f"w{n}" for n in range(start, start + count))


@pytest.mark.parametrize(
    ("first", "second", "length", "left"),
    [(30, 30, 23, (10, 10)), (30, 5, 23, (15, 5)), (5, 30, 23, (5, 15)), (30, 31, 22, (10, 9)), (9, 9, 23, (9, 9))],
)
def test_truncation_takes_from_the_longer_text_at_both_ends_alike(tmp_path, first, second, length, left):
    documents = counting_documents(tmp_path, [[words(0, first)], [words(first, second)]])
    made = rules(documents, max_seq_length=length, short_seq_prob=0.0)
    rows = [plan_document(documents, 0, made, (1, key))[0] for key in range(1500)]
    pairs = [row for row in rows if row[1] >= first]  # ten tries found the same document in the others
    assert len(pairs) > 1480
    assert {row[2:4] for row in pairs} == {left}
    for front, cut in (
        ([a for a, *_ in pairs], first - left[0]),
        ([b - first for _, b, *_ in pairs], second - left[1]),
    ):
        assert 0 <= min(front) <= max(front) <= cut
        assert abs(np.mean(front) - cut / 2) <= 0.25
        assert abs(np.var(front) - cut / 4) <= 0.2 * cut / 4


def test_a_random_text_is_another_documents(documents):
    rows = [(number, row) for number, row in plans(documents, 20) if row[5]]
    assert len(rows) > 1000
    same = [number for number, row in rows if owner(documents, row[1]) == number]
    assert same == []  # ten tries among eighty documents


def test_a_random_text_starts_at_any_sentence_of_any_document(documents):
    starts = {row[1] for _, row in plans(documents, 40, **untruncated()) if row[5]}
    sentences = {start for number in range(len(documents)) for start in bounds(documents, number)[:-1]}
    assert starts <= sentences
    assert len(starts) > 0.95 * len(sentences)


def test_half_of_the_chunks_of_several_sentences_get_a_random_text_and_all_of_one(documents):
    several, single = [], []
    for number, (a, _, a_length, _, _, random) in plans(documents, **untruncated()):
        last = bounds(documents, number)[-2]
        (single if a == last else several).append(random)  # the last sentence alone is a chunk of one
        assert a_length <= last - a if a != last else True
    assert all(single)
    # A chunk of one elsewhere is random too: targets of 2 to 997 tokens make few of them.
    assert abs(np.mean(several) - 0.5) < 0.03


def test_every_sentence_of_a_document_is_used_and_what_a_random_text_leaves_is_put_back(documents):
    made = rules(documents, **untruncated())
    for number in range(len(documents)):
        rows = plan_document(documents, number, made, (1, 0))
        position = bounds(documents, number)[0]
        for a, b, a_length, b_length, _, random in rows:
            assert a == position  # the next chunk starts where this one's use of the text ended
            position = a + a_length if random else b + b_length
        assert position == bounds(documents, number)[-1]


def test_the_target_length_is_drawn_once_a_pass_and_short_as_often_as_asked(tmp_path):
    text = [[f"w{n}" for n in range(150)], [f"w{n}" for n in range(150, 300)]]
    documents = counting_documents(tmp_path, text)
    made, targets = rules(documents, max_seq_length=23), []
    for key in range(2000):
        # A chunk of sentences of one token has as many as its target; the last one has fewer.
        pairs = [row for row in plan_document(documents, 0, made, (9, key)) if not row[5] and row[1] + row[3] < 150]
        lengths = {row[2] + row[3] for row in pairs}
        assert len(lengths) <= 1
        targets += lengths
    short = [target for target in targets if target < 20]
    assert abs(len(short) / len(targets) - 0.1 * 18 / 19) < 0.02
    assert set(short) == set(range(2, 20))
    assert abs(np.mean(short) - 10.5) < 1.2


def test_always_short_passes_have_lengths_from_two_up_to_the_longest(documents):
    lengths = [row[2] + row[3] for _, row in plans(documents, 20, max_seq_length=23, short_seq_prob=1.0)]
    assert min(lengths) == 2
    assert max(lengths) == 20
    assert 8 < np.mean(lengths) < 18


@pytest.mark.parametrize(("length", "count"), [(3, 1), (5, 1), (10, 2), (16, 2), (17, 3), (30, 4), (90, 14), (512, 20)])
def test_the_number_of_masks_is_exact(documents, length, count):
    made = rules(documents)
    assert made.predictions(length) == count
    ids = np.concatenate([[2], np.arange(length - 2) + FIRST, [3]])
    for key in range(20):
        hidden, positions = mask(ids, 0, length - 2, made, (1, key))
        assert len(positions) == len(set(positions.tolist())) == count
        assert (np.flatnonzero(hidden != ids)[:, None] == positions).any(axis=1).all()
        assert not {0, length - 1} & set(positions.tolist())


def test_masks_fall_everywhere_but_on_special_tokens_equally_often(documents):
    made = rules(documents)
    ids, hits = sequence(documents, made, (0, 10), (50, 17)), np.zeros(30)
    for key in range(4000):
        hits[mask(ids, 0, 10, made, (2, key))[1]] += 1
    assert (hits[[0, 11, 29]] == 0).all()
    text = np.delete(hits, [0, 11, 29])
    expected = 4000 * 4 / 27
    assert (np.abs(text - expected) < 5 * np.sqrt(expected)).all()


def test_of_the_masked_tokens_four_fifths_are_hidden_a_tenth_are_kept_and_a_tenth_are_any_token(documents):
    made = rules(documents)
    ids, fates, words = sequence(documents, made, (0, 10), (50, 17)), [], []
    for key in range(5000):
        hidden, positions = mask(ids, 0, 10, made, (3, key))
        for old, new in zip(ids[positions], hidden[positions], strict=True):
            fates.append("hidden" if new == 4 else "kept" if new == old else "random")
            words += [new] if fates[-1] == "random" else []
    shares = {fate: fates.count(fate) / len(fates) for fate in ("hidden", "kept", "random")}
    assert abs(shares["hidden"] - 0.8) < 0.012
    assert abs(shares["kept"] - 0.1) < 0.009
    assert abs(shares["random"] - 0.1) < 0.009
    assert min(words) < 0.02 * made.vocab_size
    assert max(words) > 0.98 * made.vocab_size
    assert abs(np.mean(words) / made.vocab_size - 0.5) < 0.03


def test_whole_word_masks_take_all_pieces_of_a_word_and_never_too_many(documents):
    size = documents.counts["tokens"] + FIRST
    continues = np.arange(size) % 3 == 0  # words of one piece and of two
    made = rules(documents, whole_word_mask=True, continues=continues)
    ids = sequence(documents, made, (0, 12), (50, 15))
    words = np.cumsum(~continues[ids])
    counts = []
    for key in range(300):
        positions = mask(ids, 0, 12, made, (4, key))[1]
        counts.append(len(positions))
        text = set(range(1, 13)) | set(range(14, 29))
        for position in positions:
            whole = {n for n in text if words[n] == words[position] and not {0, 13} & {n}}
            assert whole <= set(positions.tolist())
    assert max(counts) == made.predictions(len(ids))
    assert min(counts) >= made.predictions(len(ids)) - 1


def test_a_word_longer_than_the_count_is_passed_over(documents):
    size = documents.counts["tokens"] + FIRST
    made = rules(documents, whole_word_mask=True, continues=np.ones(size, dtype=bool))
    ids = sequence(documents, made, (0, 5), (50, 5))
    hidden, positions = mask(ids, 0, 5, made, (4, 0))
    assert len(positions) == 0
    assert hidden.tolist() == ids.tolist()
    assert plan_document(documents, 0, made, (4, 0))[0][4] == 0


def test_the_planned_number_of_masks_is_the_one_made(documents):
    continues = np.arange(documents.counts["tokens"] + FIRST) % 2 == 0
    for changes in ({}, {"whole_word_mask": True, "continues": continues}):
        made = rules(documents, **changes)
        for number in range(10):
            for a, b, a_length, b_length, masked, _ in plan_document(documents, number, made, (7, 2)):
                ids = sequence(documents, made, (a, a_length), (b, b_length))
                assert len(mask(ids, a, a_length, made, (7, 2))[1]) == masked


def test_no_two_examples_of_a_pass_share_the_key_of_their_masks(documents):
    for changes in ({}, {"next_sentence": False}, {"max_seq_length": 6}):
        starts = [row[0] for _, row in plans(documents, 1, **changes)]
        assert len(starts) == len(set(starts))


def test_runs_hold_whole_sentences_of_one_document_and_every_token_once(documents):
    made = rules(documents, next_sentence=False, short_seq_prob=0.0)
    for number in range(len(documents)):
        rows, starts = plan_document(documents, number, made, (1, 0)), bounds(documents, number)
        ends = [row[0] + row[2] for row in rows]
        assert [row[0] for row in rows] == [starts[0], *ends[:-1]]
        assert ends[-1] == starts[-1]
        assert set(ends) <= set(starts)  # sentences have at most nine tokens here
        for row, end in zip(rows[:-1], ends[:-1], strict=True):
            following = starts[starts.index(end) + 1]
            assert following - row[0] > 30  # one sentence more would not have fitted
        assert {row[3] for row in rows} == {0}


def test_a_sentence_longer_than_a_run_is_cut_and_none_of_it_lost(tmp_path):
    documents = counting_documents(tmp_path, [[" ".join(f"w{n}" for n in range(25)), "w25 w26"]])
    made = rules(documents, max_seq_length=12, next_sentence=False)
    assert [row[0:3:2] for row in plan_document(documents, 0, made, (1, 0))] == [(0, 10), (10, 10), (20, 5), (25, 2)]


def test_workers_make_no_difference_to_a_plan(documents, tmp_path):
    made = rules(documents)
    write_plan(documents, made, (3, 1), tmp_path / "one", num_proc=1)
    write_plan(documents, made, (3, 1), tmp_path / "two", num_proc=2)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    rows = [row for number in range(len(documents)) for row in plan_document(documents, number, made, (3, 1))]
    assert read_plan(tmp_path / "one").tolist() == rows


def test_another_seed_or_pass_makes_other_examples(documents):
    made = rules(documents)
    first = plan_document(documents, 3, made, (1, 0))
    assert plan_document(documents, 3, made, (1, 0)) == first
    assert plan_document(documents, 3, made, (1, 1)) != first
    assert plan_document(documents, 3, made, (2, 0)) != first


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_planning_holds_no_more_memory_for_four_times_the_text(tmp_path):
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.data.corpora import rules\n"
        "from vaswani_transformer.data.bert_examples import write_plan\n"
        "from vaswani_transformer.data.documents import Documents\n"
        "documents = Documents(Path(sys.argv[1]))\n"
        "made = rules(documents, whole_word_mask=True)\n"  # reads the tokens, not their number alone
        "write_plan(documents, made, (1, 0), Path(sys.argv[1]) / 'plan', num_proc=1)\n"
        "print([line for line in open('/proc/self/status') if line.startswith('RssAnon')][0].split()[1])\n"
    )
    held = []
    for times in (1, 4):
        folder = tmp_path / f"{times}"
        folder.mkdir()
        fill(folder, sentences=4000 * times)
        command = [sys.executable, "-c", script, str(folder)]
        root = Path(__file__).resolve().parents[2]
        answer = subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}
        )
        held.append(int(answer.stdout) / 1024)
    assert held[1] - held[0] < 8  # MiB; the tokens alone are 23 MiB more


def fill(folder: Path, *, sentences: int) -> None:
    """Writes documents of 50 sentences of 1,000 tokens straight to disk."""
    starts = np.arange(sentences + 1) * 1000
    np.zeros(sentences * 1000, dtype="<u2").tofile(folder / "tokens.bin")
    starts.astype("<i8").tofile(folder / "sentences.bin")
    (np.arange(sentences // 50 + 1) * 50).astype("<i8").tofile(folder / "documents.bin")
    counts = {"documents": sentences // 50, "sentences": sentences, "tokens": 9}
    (folder / "notes.json").write_text(json.dumps({"counts": counts, "fingerprint": "", "dtype": "<u2"}))
