import json

from vaswani_transformer.evaluation import render_table2, table2
from vaswani_transformer.evaluation.table2 import PUBLISHED


def models(table):
    return [row["model"] for row in table["rows"]]


def test_the_published_rows_are_the_papers():
    assert {row.model: (*row.bleu, *row.flops) for row in PUBLISHED} == {
        "ByteNet": (23.75, None, None, None),
        "Deep-Att + PosUnk": (None, 39.2, None, 1.0e20),
        "GNMT + RL": (24.6, 39.92, 2.3e19, 1.4e20),
        "ConvS2S": (25.16, 40.46, 9.6e18, 1.5e20),
        "MoE": (26.03, 40.56, 2.0e19, 1.2e20),
        "Deep-Att + PosUnk Ensemble": (None, 40.4, None, 8.0e20),
        "GNMT + RL Ensemble": (26.30, 41.16, 1.8e20, 1.1e21),
        "ConvS2S Ensemble": (26.36, 41.29, 7.7e19, 1.2e21),
        "Transformer (base model)": (27.3, 38.1, 3.3e18, 3.3e18),
        "Transformer (big)": (28.4, 41.8, 2.3e19, 2.3e19),
    }


def test_the_transformers_cost_is_their_time_on_eight_p100():
    seconds = {"Transformer (base model)": 12 * 3600, "Transformer (big)": 3.5 * 24 * 3600}
    for row in PUBLISHED:
        if row.model in seconds:
            assert row.flops[0] == float(f"{seconds[row.model] * 8 * 9.5e12:.1e}")


def test_a_model_scored_on_newstest2014_stands_among_the_transformers_by_its_score():
    for bleu, place in ((20.0, 8), (27.9, 9), (29.0, 10)):
        table = table2("mine", bleu, language_pair="en-de", test_set="newstest2014", sentences=3003)
        assert models(table).index("mine") == place
        assert table["this_model"]["comparable"]


def test_the_table_shows_this_model_marked_with_its_cost():
    table = table2("mine", 27.912, language_pair="en-de", test_set="wmt14/full", training_flops=3.1e18)
    lines = render_table2(table).splitlines()
    row = next(line for line in lines if "mine" in line)
    assert row.split() == [">", "mine", "27.91", "3.1e18"]
    assert lines.index(row) < len(lines) - 2


def test_french_goes_into_the_french_columns():
    table = table2("mine", 40.0, language_pair="en-fr", test_set="newstest2014", sentences=3003)
    row = next(line for line in render_table2(table).splitlines() if "mine" in line)
    column = render_table2(table).splitlines()[3].index("EN-FR")
    assert row[column:].split() == ["40"]


def test_any_other_test_set_stands_below_the_table_as_not_comparable():
    reasons = {
        "the test set is val": {"language_pair": "en-de", "test_set": "val"},
        "the test set is not named": {"language_pair": "en-de"},
        "the languages are de-en": {"language_pair": "de-en", "test_set": "newstest2014"},
        "100 lines were translated": {"language_pair": "en-de", "test_set": "newstest2014", "sentences": 100},
        "2,737 lines were translated": {"language_pair": "en-fr", "test_set": "newstest2014", "sentences": 2737},
    }
    for reason, measured in reasons.items():
        table = table2("mine", 41.91, **measured)
        assert models(table) == [row.model for row in PUBLISHED]
        last = render_table2(table).splitlines()[-1]
        assert last.startswith("> mine: 41.91 BLEU; not comparable: " + reason)


def test_the_table_is_json():
    table = table2("mine", 27.9, language_pair="en_DE", test_set="newstest2014")
    assert json.loads(json.dumps(table)) == table


def test_no_line_of_the_table_is_wider_than_a_terminal():
    text = render_table2(table2("mine", 27.9, language_pair="en-de", test_set="newstest2014"))
    assert max(map(len, text.splitlines()[1:])) <= 80
