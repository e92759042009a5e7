"""GPT's tokenizer of 2018, with the ids of OpenAI's code: ftfy, spaCy's English words, byte-pair encoding inside them.

A byte-level tokenizer, as GPT-2 and GPT-3 have it, is in tokenization_gpt2.py.
"""

import functools
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as backend_models
from transformers import PreTrainedTokenizer

END_OF_WORD = "</w>"
NEWLINE = "\n"
# What OpenAI's code does to a text before spaCy sees it: these for others, spaces around runs of one mark, one kind of
# white space, a newline for any run that holds one. A backslash is no such mark: its pattern is a plus's, in a string
# that is not raw.
REPLACED = str.maketrans({"—": "-", "–": "-", "―": "-", "…": "...", "´": "'"})
RUNS_OF_A_MARK = re.compile("|".join(re.escape(mark) + "+" for mark in """-~!";?+,)(/*[]}{|_"""))
AROUND_NEWLINES = re.compile(r"\s*\n\s*")
OTHER_SPACES = re.compile(r"[^\S\n]+")


class VaswaniGPTTokenizer(PreTrainedTokenizer):
    """The 2018 tokenizer: lower case, contractions split as in the Penn Treebank, accents and newlines kept.

    It needs ftfy and spaCy, `pip install "vaswani-transformer[gpt1]"`, but no model of spaCy's: the words are those of
    its rules for English. `from_pretrained` takes any folder or Hub repository of an `openai-gpt` model, from its
    vocab.json and merges.txt. Saved folders carry this code: `AutoTokenizer` loads them with `trust_remote_code=True`
    where this package is not installed.

    Special tokens' strings in a text are text (`split_special_tokens=True`); an unknown character is `<unk>`, id 0.

    Departures from transformers' OpenAIGPTTokenizer, which splits words as BERT does: "don't" is "do" and "n't", "Mr."
    one word, accents stay, curly quotes and ellipses are known, a newline is a token. Departure from OpenAI's code: the
    releases of ftfy and spaCy are today's, whose rules for rare words have grown since 2018.

    Args:
        vocab_file: vocab.json, {token: id}; encoder_bpe_40000.json in OpenAI's release.
        merges_file: merges.txt, a pair a line behind a line of comment; vocab_40000.bpe in OpenAI's release.
        unk_token: stands for what the vocabulary cannot spell.

    Raises:
        ImportError: without ftfy or spaCy.
        ValueError: no vocabulary, or one without `unk_token`.
    """

    vocab_files_names = {"vocab_file": "vocab.json", "merges_file": "merges.txt"}
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(
        self,
        vocab_file: str | os.PathLike | None = None,
        merges_file: str | os.PathLike | None = None,
        unk_token: str = "<unk>",
        **kwargs: Any,
    ) -> None:
        _english_words()  # tells at once what is not installed
        if vocab_file is None or merges_file is None:
            raise ValueError(
                f"a GPT tokenizer needs vocab_file and merges_file; got {vocab_file=}, {merges_file=}: "
                "name them, or load a folder that holds vocab.json and merges.txt"
            )
        self._ids: dict[str, int] = json.loads(Path(vocab_file).read_text(encoding="utf-8"))
        if str(unk_token) not in self._ids:
            raise ValueError(f"vocab_file must hold unk_token; got {len(self._ids)} tokens without {str(unk_token)!r}")
        self._tokens = {number: token for token, number in self._ids.items()}
        lines = Path(merges_file).read_text(encoding="utf-8").split("\n")
        pairs = (line.split() for line in lines if line.strip() and not line.startswith("#version"))
        self._merges = [(first, second) for first, second in pairs]
        model = backend_models.BPE(
            self._ids, self._merges, unk_token=str(unk_token), end_of_word_suffix=END_OF_WORD, fuse_unk=False
        )
        self._backend = Tokenizer(model)
        self._backend.pre_tokenizer = pre_tokenizers.Split(" ", behavior="removed")
        settings = {
            "split_special_tokens": True,
            "special_tokens_pattern": "none",
            "clean_up_tokenization_spaces": False,
        }
        super().__init__(unk_token=unk_token, **{**settings, **kwargs})

    @property
    def vocab_size(self) -> int:
        """Tokens of the vocabulary, added ones not counted."""
        return len(self._ids)

    def get_vocab(self) -> dict[str, int]:
        """{token: id}, added tokens included."""
        return {**self._ids, **self.added_tokens_encoder}

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return self._backend.encode(" ".join(words_of(text))).tokens

    def _convert_token_to_id(self, token: str) -> int:
        return self._ids.get(token, self._ids[str(self.unk_token)])

    def _convert_id_to_token(self, index: int) -> str:
        return self._tokens.get(index, str(self.unk_token))

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Start, delimiter and extract around the texts (section 3.3), once fine-tuning has added them; else none."""
        if self.cls_token_id is None:
            return super().build_inputs_with_special_tokens(token_ids_0, token_ids_1)
        start, delimiter, extract = ([getattr(self, f"{name}_token_id")] for name in ("bos", "sep", "cls"))
        return start + token_ids_0 + ([] if token_ids_1 is None else delimiter + token_ids_1) + extract

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Words with a space between them; the text's own spaces, capitals and quotes are not known any more."""
        return "".join(tokens).replace(END_OF_WORD, " ").strip(" ")

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, str]:
        """Writes vocab.json and merges.txt, from which every openai-gpt tokenizer can be made."""
        start = f"{filename_prefix}-" if filename_prefix else ""
        vocab, merges = (Path(save_directory) / (start + name) for name in self.vocab_files_names.values())
        vocab.write_text(json.dumps(self._ids, ensure_ascii=False), encoding="utf-8")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in self._merges), ""]
        merges.write_text("\n".join(lines), encoding="utf-8", newline="\n")
        return str(vocab), str(merges)


def standardized(text: str) -> str:
    """A text, mended by ftfy, as OpenAI's code hands it to spaCy."""
    text = RUNS_OF_A_MARK.sub(r" \g<0> ", text.translate(REPLACED))
    return OTHER_SPACES.sub(" ", AROUND_NEWLINES.sub(" \n ", text)).strip()


def words_of(text: str) -> list[str]:
    """The words that byte-pair encoding works in, in lower case; a newline is one."""
    mend, split = _english_words()
    words = (word.lower() for word in split(standardized(mend(text))))
    return [NEWLINE if NEWLINE in word else word for word in words if NEWLINE in word or word.strip()]


@functools.cache
def _english_words() -> tuple[Callable[[str], str], Callable[[str], Iterable[str]]]:
    """ftfy's repair of a text and spaCy's rules for English words, made once a process."""
    try:
        import ftfy
        from spacy.lang.en import English
    except ImportError as error:
        raise ImportError(
            "GPT's tokenizer of 2018 needs ftfy and spaCy; got neither or only one of them: run pip install "
            '"vaswani-transformer[gpt1]", or take the nearest stock one, transformers\' OpenAIGPTTokenizer, which '
            "gives other tokens for contractions, accents, curly quotes, ellipses and newlines"
        ) from error
    rules = English().tokenizer
    return ftfy.fix_text, lambda text: [token.text for token in rules(text)]
