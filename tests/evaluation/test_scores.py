import re
import sys
from types import SimpleNamespace

import accelerate
import accelerate.utils
import pytest
import sacrebleu

from vaswani_transformer.evaluation import bleu_metric, translation_scores
from vaswani_transformer.evaluation.translation import paper_tokens, sacrebleu_scores, split_compounds

REFERENCES = [
    "Die E-Mail-Adresse steht auf der Rückseite des Buches.",
    "Er sagte: „Das ist z. B. am 3. Oktober um 10 Uhr…“",
    "Müller-Lüdenscheidt & Dr. Klöbner teilen sich eine Bade-Wanne (4,5 m² groß).",
    "Was kostet’s, ca. 1.234,50 € oder 20 %?",
    "Der Zug fährt von Köln-Deutz über Hamm usw.",
]
HYPOTHESES = [
    "Die E-Mail-Adresse steht auf der Rückseite eines Buches.",
    "Er sagte: “Das ist z. B. am 3. Oktober um 11 Uhr...”",
    "Müller-Lüdenscheidt & Dr. Klöbner teilen eine Badewanne (4,5 m² groß).",
    "Was kostet es, ca. 1.234,50 € oder 20 %?",
    "Der Zug fährt von Köln-Deutz nach Hamm usw.",
]
# What Moses's own Perl scripts of June 2017 print for REFERENCES, by the steps of tensor2tensor's get_ende_bleu.sh.
PERL_TOKENS = [
    "Die E ##AT##-##AT## Mail ##AT##-##AT## Adresse steht auf der Rückseite des Buches .",
    "Er sagte : „ Das ist z. B. am 3. Oktober um 10 Uhr ... &quot;",
    "Müller ##AT##-##AT## Lüdenscheidt &amp; Dr. Klöbner teilen sich eine Bade ##AT##-##AT## Wanne ( 4,5 m ² groß ) .",
    "Was kostet &apos; s , ca. 1.234,50 € oder 20 % ?",
    "Der Zug fährt von Köln ##AT##-##AT## Deutz über Hamm usw.",
]
PERL_BLEU = 67.77  # of HYPOTHESES, by multi-bleu.perl


def test_the_scores_are_sacrebleus_own():
    scores = translation_scores(HYPOTHESES, REFERENCES, target_language="de")
    assert scores["bleu"] == sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score
    assert scores["chrf"] == sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score
    assert scores["sentences"] == 5


def test_the_signatures_say_how_each_score_was_computed():
    scores = translation_scores(HYPOTHESES, REFERENCES, target_language="de")
    version = sacrebleu.__version__
    assert scores["bleu_signature"] == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{version}"
    assert scores["chrf_signature"] == f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{version}"
    assert "tok:moses-de+compound-split|smooth:none|sacremoses:" in scores["paper_bleu_signature"]


def test_the_interval_of_bleu_is_that_of_sacrebleus_bootstrap():
    hypotheses, references = HYPOTHESES * 8, REFERENCES * 8
    lower, upper = translation_scores(hypotheses, references, target_language="de")["bleu_interval"]
    told = re.search(r"μ = ([\d.]+) ± ([\d.]+)", str(sacrebleu.BLEU().corpus_score(hypotheses, [references], 1000)))
    assert told is not None
    assert [(lower + upper) / 2, (upper - lower) / 2] == pytest.approx([float(x) for x in told.groups()], abs=0.3)


def test_the_interval_counts_in_the_tokens_of_the_target_language():
    found = translation_scores(["我们走了", "我们回来"], ["我们走了", "我们回家"], target_language="zh")[
        "bleu_interval"
    ]
    assert found[1] == pytest.approx(100.0)  # of four characters four are right; of words without blanks none would be


def test_one_sentence_has_no_interval():
    assert translation_scores(["a"], ["a"], target_language="de")["bleu_interval"] is None


def test_the_target_language_chooses_sacrebleus_tokeniser():
    scores = sacrebleu_scores(["我们 走"], ["我们 走"], target_language="zh")
    assert "tok:zh" in scores["bleu_signature"]


def test_the_papers_tokens_are_those_of_the_perl_scripts():
    assert paper_tokens(REFERENCES, "de") == PERL_TOKENS


def test_the_papers_bleu_is_that_of_the_perl_scripts():
    scores = translation_scores(HYPOTHESES, REFERENCES, target_language="de")
    assert round(scores["paper_bleu"], 2) == PERL_BLEU


@pytest.mark.parametrize(
    ("line", "split"),  # the second is what the script's perl -ple prints
    [
        ("rich-text format", "rich ##AT##-##AT## text format"),
        ("a-b-c", "a ##AT##-##AT## b-c"),
        ("ä-ö-ü", "ä ##AT##-##AT## ö ##AT##-##AT## ü"),
        ("- a - b -", "- a - b -"),
        ("a--b", "a ##AT##-##AT## -b"),
        ("semi-", "semi-"),
        ("1-2-3-4", "1 ##AT##-##AT## 2-3 ##AT##-##AT## 4"),
        ("no\u00a0-\u00a0break", "no\u00a0 ##AT##-##AT## \u00a0break"),
    ],
)
def test_compounds_split_as_in_the_script(line, split):
    assert split_compounds(line) == split


def test_compounds_are_split_for_german_only():
    assert paper_tokens(["un porte-monnaie."], "fr") == ["un porte-monnaie ."]
    signature = translation_scores(["oui"], ["oui"], target_language="fr")["paper_bleu_signature"]
    assert "tok:moses-fr|" in signature


def test_the_share_of_copies_is_told_where_sources_are_given():
    scores = translation_scores(["a b", "c d"], ["x y", "c d"], sources=["a b ", "e f"], target_language="de")
    assert scores["copied"] == 0.5
    assert "copied" not in translation_scores(["a"], ["a"], target_language="de")


@pytest.mark.parametrize(
    ("arguments", "options", "rule"),
    [
        ((["a"], ["a", "b"]), {}, "got 1 hypotheses, 2 references"),
        (([], []), {}, "at least one; got 0 hypotheses"),
        ((["a"], ["a"]), {"sources": []}, "got 1 hypotheses, 1 references, 0 sources"),
        ((["a"], ["a"]), {"target_language": "german"}, "code such as 'de'; got language='german'"),
    ],
)
def test_what_cannot_be_scored_is_told(arguments, options, rule):
    with pytest.raises(ValueError, match=rule):
        translation_scores(*arguments, **{"target_language": "de", **options})


def test_a_missing_library_is_told_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacremoses", None)
    with pytest.raises(ImportError, match=r"needs sacremoses.*vaswani-transformer\[eval\]"):
        translation_scores(["a"], ["a"], target_language="de")


def validation(tokenizer, sources, references):
    return SimpleNamespace(
        tokenizer=tokenizer,
        options=SimpleNamespace(target="de"),
        texts=lambda split: {"validation": (sources, references)}[split],
    )


def test_bleu_while_training_is_that_of_the_validation_texts(echo, tokenizer):
    data = validation(tokenizer, HYPOTHESES, REFERENCES)
    assert bleu_metric(echo, data) == {
        "bleu": sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score,
        "chrf": sacrebleu.corpus_chrf(HYPOTHESES, [REFERENCES]).score,
    }
    assert echo.training


def test_bleu_while_training_takes_the_first_sentences_up_to_its_limit(echo, tokenizer):
    data = validation(tokenizer, HYPOTHESES, REFERENCES)
    expected = sacrebleu.corpus_bleu(HYPOTHESES[:2], [REFERENCES[:2]]).score
    assert bleu_metric(echo, data, 2, num_beams=1)["bleu"] == expected
    assert echo.kwargs == [{"num_beams": 1}]


def test_bleu_is_the_same_on_every_process_and_no_sentence_is_translated_twice(echo, tokenizer, monkeypatch):
    data = validation(tokenizer, HYPOTHESES, REFERENCES)
    alone = bleu_metric(echo, data)
    shares = []

    def as_process(rank, gather):
        state = SimpleNamespace(process_index=rank, num_processes=2)
        monkeypatch.setattr(accelerate, "PartialState", lambda: state)
        monkeypatch.setattr(accelerate.utils, "gather_object", gather)
        return bleu_metric(echo, data)

    def collect(mine):
        shares.append(mine)
        return [(index, "") for index in range(len(HYPOTHESES))]

    echo.shapes.clear()
    for rank in (0, 1):
        as_process(rank, collect)
    assert sum(rows for rows, _ in echo.shapes) == len(HYPOTHESES)
    for rank in (0, 1):
        assert as_process(rank, lambda mine: shares[0] + shares[1]) == alone
