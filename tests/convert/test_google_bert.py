"""Checkpoints of Google's BERT: one that TensorFlow wrote, and others that the writer below makes of its format.

The writer and the model at the end know nothing of the package's code. fixtures/google_bert was saved by TensorFlow
2.21's tf.compat.v1.train.Saver; its numbers are those of `numbers`.
"""

import json
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

import vaswani_transformer
from vaswani_transformer.convert import convert, google_bert
from vaswani_transformer.convert.crc32c import masked
from vaswani_transformer.convert.tensor_bundle import read_index, read_tensors

FIXTURE = Path(__file__).parents[1] / "fixtures" / "google_bert"
SETTINGS: dict[str, Any] = json.loads((FIXTURE / "bert_config.json").read_text())
D, FF, V = SETTINGS["hidden_size"], SETTINGS["intermediate_size"], SETTINGS["vocab_size"]
TYPES = {"float32": 1, "float64": 2, "int64": 9, "float16": 19}


def numbers(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return (np.random.RandomState(zlib.crc32(name.encode())).randn(*shape) * 0.3).astype(np.float32)


def dense(scope: str, ins: int, outs: int) -> dict[str, tuple[int, ...]]:
    return {f"{scope}/kernel": (ins, outs), f"{scope}/bias": (outs,)}


def norm(scope: str) -> dict[str, tuple[int, ...]]:
    return {f"{scope}/LayerNorm/{name}": (D,) for name in ("gamma", "beta")}


def shapes(*heads: str) -> dict[str, tuple[int, ...]]:
    """Google's variables, of the encoder and of heads."""
    rows = {"word": V, "token_type": 2, "position": SETTINGS["max_position_embeddings"]}
    found: dict[str, tuple[int, ...]] = {f"bert/embeddings/{name}_embeddings": (n, D) for name, n in rows.items()}
    found |= norm("bert/embeddings") | dense("bert/pooler/dense", D, D)
    for layer in range(SETTINGS["num_hidden_layers"]):
        scope = f"bert/encoder/layer_{layer}"
        for name in ("query", "key", "value"):
            found |= dense(f"{scope}/attention/self/{name}", D, D)
        found |= dense(f"{scope}/attention/output/dense", D, D) | norm(f"{scope}/attention/output")
        found |= dense(f"{scope}/intermediate/dense", D, FF) | dense(f"{scope}/output/dense", FF, D)
        found |= norm(f"{scope}/output")
    parts: dict[str, dict[str, tuple[int, ...]]] = {
        "words": {
            **dense("cls/predictions/transform/dense", D, D),
            **norm("cls/predictions/transform"),
            "cls/predictions/output_bias": (V,),
        },
        "sentences": {"cls/seq_relationship/output_weights": (2, D), "cls/seq_relationship/output_bias": (2,)},
        "squad": {"cls/squad/output_weights": (2, D), "cls/squad/output_bias": (2,)},
        "classes": {"output_weights": (3, D), "output_bias": (3,)},
    }
    for head in heads:
        found |= parts[head]
    return found


# --- an independent writer of TensorFlow's format --------------------------------------------------------------------


def varint(value: int) -> bytes:
    made = b""
    while value > 127:
        made, value = made + bytes([value & 127 | 128]), value >> 7
    return made + bytes([value])


def message(**fields: int | bytes) -> bytes:
    """A message of protocol buffers whose fields are called f1, f2 and so on."""
    made = b""
    for name, value in fields.items():
        number = int(name[1:])
        if number == 6 and isinstance(value, int):
            made += varint(number << 3 | 5) + value.to_bytes(4, "little")
        elif isinstance(value, int):
            made += varint(number << 3) + varint(value)
        else:
            made += varint(number << 3 | 2) + varint(len(value)) + value
    return made


def crc32c(data: bytes) -> int:
    """Bit by bit, and masked as the format wants it."""
    crc = 2**32 - 1
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    crc ^= 2**32 - 1
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def block(pairs: list[tuple[bytes, bytes]], *, kind: int = 0, every: int = 16) -> bytes:
    """Keys and values with shared prefixes, the places of whole keys, the kind of compression, the checksum."""
    made, restarts, last = b"", [], b""
    for number, (key, value) in enumerate(pairs):
        shared = 0
        if number % every == 0:
            restarts.append(len(made))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        made += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    made += b"".join(place.to_bytes(4, "little") for place in [*restarts, len(restarts)]) + bytes([kind])
    return made + crc32c(made).to_bytes(4, "little")


def table(pairs: list[tuple[bytes, bytes]], *, a_block: int = 50, kind: int = 0) -> bytes:
    data, index = b"", []
    for start in range(0, len(pairs), a_block):
        part = pairs[start : start + a_block]
        made = block(part, kind=kind)
        index.append((part[-1][0], varint(len(data)) + varint(len(made) - 5)))
        data += made
    ends = b""
    for made in (block([]), block(index, every=1)):
        ends += varint(len(data)) + varint(len(made) - 5)
        data += made
    return data + ends.ljust(40, b"\0") + 0xDB4775248B80FB57.to_bytes(8, "little")


def entry(array: np.ndarray, offset: int, *, part: int = 0, **changes: int | bytes) -> bytes:
    dims = b"".join(message(f2=message(f1=size)) for size in array.shape)
    kind = TYPES[array.dtype.name]
    crc = crc32c(array.tobytes())
    return message(**{"f1": kind, "f2": dims, "f3": part, "f4": offset, "f5": array.nbytes, "f6": crc, **changes})


def write(folder: Path, arrays: dict[str, np.ndarray], *, parts: int = 1, **options: Any) -> Path:
    """A folder of Google's; of several parts, every so manieth array is in each."""
    shutil.copytree(FIXTURE, folder)
    for old in folder.glob("bert_model.ckpt.*"):
        old.unlink()
    data, pairs = [b""] * parts, [(b"", message(f1=parts, f3=message(f1=1)))]
    for number, (name, array) in enumerate(sorted(arrays.items())):
        part = number % parts
        pairs.append((name.encode(), entry(array, len(data[part]), part=part)))
        data[part] += array.tobytes()
    (folder / "bert_model.ckpt.index").write_bytes(table(pairs, **options))
    for part, content in enumerate(data):
        (folder / f"bert_model.ckpt.data-{part:05d}-of-{parts:05d}").write_bytes(content)
    return folder


def arrays(*heads: str) -> dict[str, np.ndarray]:
    return {name: numbers(name, shape) for name, shape in shapes(*heads).items()}


# --- an independent model, on Google's variables ---------------------------------------------------------------------


class Google:
    """Google's computation, an array at a time: x kernel + bias, tanh GELU, norms with epsilon 1e-12."""

    def __init__(self, variables: dict[str, np.ndarray]) -> None:
        self.of = {name: value.astype(np.float64) for name, value in variables.items()}

    def dense(self, x: np.ndarray, scope: str) -> np.ndarray:
        return x @ self.of[f"{scope}/kernel"] + self.of[f"{scope}/bias"]

    def norm(self, x: np.ndarray, scope: str) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * self.of[f"{scope}/LayerNorm/gamma"] + self.of[f"{scope}/LayerNorm/beta"]

    @staticmethod
    def gelu(x: np.ndarray) -> np.ndarray:
        return x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    @staticmethod
    def softmax(x: np.ndarray) -> np.ndarray:
        x = np.exp(x - x.max(-1, keepdims=True))
        return x / x.sum(-1, keepdims=True)

    def encoded(self, ids: np.ndarray, segments: np.ndarray) -> np.ndarray:
        tables = (self.of[f"bert/embeddings/{name}_embeddings"] for name in ("word", "token_type", "position"))
        words, types, positions = tables
        x = self.norm(words[ids] + types[segments] + positions[: len(ids)], "bert/embeddings")
        for layer in range(SETTINGS["num_hidden_layers"]):
            scope, heads = f"bert/encoder/layer_{layer}", SETTINGS["num_attention_heads"]
            query, key, value = (
                np.stack(np.split(self.dense(x, f"{scope}/attention/self/{name}"), heads, axis=-1))
                for name in ("query", "key", "value")
            )
            attended = self.softmax(query @ key.transpose(0, 2, 1) / np.sqrt(D / heads)) @ value
            attended = self.dense(np.concatenate(list(attended), axis=-1), f"{scope}/attention/output/dense")
            x = self.norm(x + attended, f"{scope}/attention/output")
            inner = self.gelu(self.dense(x, f"{scope}/intermediate/dense"))
            x = self.norm(x + self.dense(inner, f"{scope}/output/dense"), f"{scope}/output")
        return x

    def words(self, x: np.ndarray) -> np.ndarray:
        x = self.norm(self.gelu(self.dense(x, "cls/predictions/transform/dense")), "cls/predictions/transform")
        return x @ self.of["bert/embeddings/word_embeddings"].T + self.of["cls/predictions/output_bias"]

    def head(self, x: np.ndarray, scope: str) -> np.ndarray:
        return x @ self.of[f"{scope}output_weights"].T + self.of[f"{scope}output_bias"]

    def pooled(self, x: np.ndarray) -> np.ndarray:
        return np.tanh(self.dense(x[0], "bert/pooler/dense"))


IDS, SEGMENTS = np.array([2, 5, 6, 7, 3, 8, 4, 3]), np.array([0, 0, 0, 0, 0, 1, 1, 1])


def outputs(folder: Path) -> tuple[str, Any]:
    """The class of a folder of ours, and what it computes."""
    (name,) = json.loads((folder / "config.json").read_text())["architectures"]
    model = getattr(vaswani_transformer, name).from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return name, model(torch.tensor(IDS)[None], token_type_ids=torch.tensor(SEGMENTS)[None])


def close(got: torch.Tensor, expected: np.ndarray) -> None:
    torch.testing.assert_close(got[0].double(), torch.tensor(expected), rtol=0, atol=1e-5)


def test_what_tensorflow_wrote_becomes_ours_with_googles_logits(tmp_path):
    found = convert(FIXTURE, format="google-bert", out=tmp_path / "out")
    assert (found.weights, found.dropped, found.difference) == (46, ("global_step",), None)
    assert found.absent == "Google's code runs on TensorFlow 1 alone"
    name, got = outputs(tmp_path / "out")
    assert name == "VaswaniBertForPreTraining"
    google = Google(arrays("words", "sentences"))
    x = google.encoded(IDS, SEGMENTS)
    close(got.prediction_logits, google.words(x))
    close(got.seq_relationship_logits, google.head(google.pooled(x), "cls/seq_relationship/"))


def test_every_number_of_what_tensorflow_wrote_is_kept_bit_for_bit(tmp_path):
    convert(FIXTURE, format="google-bert", out=tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    for name, shape in shapes("words", "sentences").items():
        expected = torch.from_numpy(numbers(name, shape))
        expected = expected.T if name.endswith("/kernel") else expected
        assert torch.equal(weights[google_bert.our_name(name)], expected), name


def test_the_writer_of_these_tests_writes_what_tensorflow_does(tmp_path):
    mine = read_index(write(tmp_path / "mine", arrays("words", "sentences")) / "bert_model.ckpt.index")
    theirs = read_index(FIXTURE / "bert_model.ckpt.index")
    assert set(theirs) - set(mine) == {"global_step"}
    for name, found in mine.items():
        assert (found.shape, found.size, found.dtype) == (theirs[name].shape, theirs[name].size, theirs[name].dtype)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize(
    ("heads", "expected"),
    [
        ((), "VaswaniBertModel"),
        (("words",), "VaswaniBertForMaskedLM"),
        (("sentences",), "VaswaniBertForNextSentencePrediction"),
        (("squad",), "VaswaniBertForQuestionAnswering"),
        (("classes",), "VaswaniBertForSequenceClassification"),
    ],
)
def test_every_head_of_googles_code_is_read_with_its_logits(tmp_path, heads, expected, parts):
    variables = arrays(*heads)
    pooled = heads != ("words",)
    if not pooled:
        variables = {name: value for name, value in variables.items() if "pooler" not in name}
    found = convert(write(tmp_path / "in", variables, parts=parts), format="google-bert", out=tmp_path / "out")
    poolers = ("bert/pooler/dense/bias", "bert/pooler/dense/kernel")
    assert found.dropped == (poolers if heads == ("squad",) else ())
    name, got = outputs(tmp_path / "out")
    assert name == expected
    google = Google(variables)
    x = google.encoded(IDS, SEGMENTS)
    if not heads:
        close(got.last_hidden_state, x)
        close(got.pooler_output, google.pooled(x))
    elif heads == ("words",):
        close(got.logits, google.words(x))
    elif heads == ("squad",):
        close(got.start_logits, google.head(x, "cls/squad/")[:, 0])
        close(got.end_logits, google.head(x, "cls/squad/")[:, 1])
    else:
        close(
            got.logits, google.head(google.pooled(x), {"sentences": "cls/seq_relationship/", "classes": ""}[heads[0]])
        )


def test_the_state_of_the_optimiser_is_left_out(tmp_path):
    variables = arrays("words", "sentences")
    states = {f"{name}/{kind}": value for name, value in variables.items() for kind in ("adam_m", "adam_v")}
    more = {**variables, **states, "global_step": np.array(3)}
    found = convert(write(tmp_path / "in", more), format="google-bert", out=tmp_path / "out")
    assert found.weights == len(variables)
    assert set(found.dropped) == {*states, "global_step"}


def test_half_precision_stays(tmp_path):
    halves = {name: value.astype(np.float16) for name, value in arrays("words", "sentences").items()}
    convert(write(tmp_path / "in", halves), format="google-bert", out=tmp_path / "out")
    weights = load_file(tmp_path / "out" / "model.safetensors")
    name = "bert/encoder/layer_1/output/dense/kernel"
    assert torch.equal(weights[google_bert.our_name(name)], torch.from_numpy(halves[name]).T)


def test_bfloat16_is_read(tmp_path):
    folder = write(tmp_path / "in", {"a": np.zeros((2, 2), np.float16)})
    x = torch.tensor([[1.5, -2], [3e38, 1e-30]], dtype=torch.bfloat16)
    (folder / "bert_model.ckpt.data-00000-of-00001").write_bytes(x.view(torch.uint8).numpy().tobytes())
    crc = crc32c(x.view(torch.uint8).numpy().tobytes())
    pair = (b"a", entry(np.zeros((2, 2), np.float16), 0, f1=14, f6=crc))
    (folder / "bert_model.ckpt.index").write_bytes(table([(b"", message(f1=1)), pair]))
    assert torch.equal(read_tensors(read_index(folder / "bert_model.ckpt.index"))["a"], x)


@pytest.mark.parametrize("cased", [True, False])
def test_the_vocabulary_comes_along_and_says_whether_it_is_cased(tmp_path, cased):
    folder = write(tmp_path / "in", arrays())
    words = (folder / "vocab.txt").read_text()
    (folder / "vocab.txt").write_text(words.replace("a\n", "A\n") if cased else words)
    convert(folder, format="google-bert", out=tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("The hats", "dog!")["input_ids"] == [2, 1 if cased else 5, 6, 7, 3, 8, 9, 3]


def test_a_checkpoint_without_a_vocabulary_has_no_tokenizer_and_it_is_told(tmp_path, caplog):
    folder = write(tmp_path / "in", arrays())
    (folder / "vocab.txt").unlink()
    convert(folder, format="google-bert", out=tmp_path / "out")
    assert "no tokenizer" in caplog.text
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_of_several_checkpoints_the_one_named_is_read(tmp_path):
    folder = write(tmp_path / "in", arrays())
    for path in folder.glob("bert_model.ckpt.*"):
        shutil.copy(path, path.with_name(path.name.replace("bert_model.ckpt", "model.ckpt-20")))
    with pytest.raises(ValueError, match=r"one checkpoint.*got bert_model\.ckpt\.index, model\.ckpt-20\.index in"):
        convert(folder, format="google-bert", out=tmp_path / "out")
    found = convert(folder / "model.ckpt-20.index", format="google-bert", out=tmp_path / "out")
    assert found.weights == len(shapes())


def test_keys_over_many_blocks_are_read(tmp_path):
    many: dict[str, np.ndarray] = {
        f"bert/{number:x}/{'x' * (number % 90)}": np.array([number], np.float32) for number in range(1000)
    }
    entries = read_index(write(tmp_path / "in", many, a_block=7) / "bert_model.ckpt.index")
    assert {name: float(value) for name, value in read_tensors(entries).items()} == {n: x[0] for n, x in many.items()}


# --- broken and hostile checkpoints ----------------------------------------------------------------------------------


def test_an_index_cut_anywhere_is_refused(tmp_path):
    whole = (FIXTURE / "bert_model.ckpt.index").read_bytes()
    for end in (*range(0, len(whole), 61), len(whole) - 1):
        (tmp_path / "a.index").write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"a whole \.index file"):
            read_index(tmp_path / "a.index")


def test_any_byte_of_an_index_changed_is_noticed(tmp_path):
    whole, index = (FIXTURE / "bert_model.ckpt.index").read_bytes(), tmp_path / "a.index"
    for place in range(0, len(whole) - 48, 13):
        index.write_bytes(whole[:place] + bytes([whole[place] ^ 5]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"a whole \.index file"):
            read_index(index)


def test_any_byte_of_a_weight_changed_is_noticed(tmp_path):
    shutil.copytree(FIXTURE, tmp_path / "in")
    data = tmp_path / "in" / "bert_model.ckpt.data-00000-of-00001"
    whole = data.read_bytes()
    for place in range(0, len(whole) - 8, 397):  # the last eight are the step's
        data.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"checksum of its index; got another for (bert|cls)/.*was altered"):
            convert(tmp_path / "in", format="google-bert", out=tmp_path / "out")


@pytest.mark.parametrize("length", [0, 1, 3, 4, 63, 64, 65, 1000, 4096, 40_001])
def test_the_checksum_is_that_of_a_bit_by_bit_one(length):
    data = np.random.default_rng(length).integers(0, 256, length, dtype=np.uint8).tobytes()
    assert masked(data) == crc32c(data)


def test_the_checksum_of_rfc_3720():
    crc = 0x8A9136AA  # of 32 zeros, appendix B.4
    assert masked(bytes(32)) == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def test_any_bytes_in_the_place_of_a_message_or_a_footer_are_read_or_refused(tmp_path):
    random, index, refused = np.random.default_rng(0), tmp_path / "a.index", 0
    for turn in range(400):
        noise = random.integers(0, 256, random.integers(1, 40), dtype=np.uint8).tobytes()
        made = table([(b"", message(f1=1)), (b"a", noise)])
        if turn % 2:
            made = made[:-48] + noise.ljust(40, b"\0")[:40] + made[-8:]
        index.write_bytes(made)
        try:
            read_index(index)
        except ValueError:
            refused += 1
    assert refused > 300


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"f4": 2**62}, r"files must be whole; got .*data-00000-of-00001 of 24 bytes, a ends at"),
        ({"f4": 4}, "files must be whole"),
        ({"f5": 2**40}, "bytes of its shape; got 1099511627776"),
        ({"f2": message(f2=message(f1=2**40)), "f5": 2**42}, "files must be whole"),
        ({"f2": message(f2=message(f1=2**64 - 1))}, "no number of 0 or more"),
        ({"f2": message(f2=message(f1=0)), "f5": 0}, r"bytes of its shape; got 0 for a \(0,\)"),
        ({"f3": 1}, "part 1 of 1 files"),
        ({"f1": 7}, "floating-point numbers; got a of TensorFlow's type 7"),
        ({"f7": b""}, "whole; got a in slices"),
        ({"f4": b"12345678"}, "no number of 0 or more"),
    ],
)
def test_what_an_entry_claims_is_held_against_the_files(tmp_path, changes, told):
    folder = write(tmp_path / "in", {"a": np.ones((2, 3), np.float32)})
    pair = (b"a", entry(np.ones((2, 3), np.float32), 0, **changes))
    (folder / "bert_model.ckpt.index").write_bytes(table([(b"", message(f1=1)), pair]))
    with pytest.raises(ValueError, match=told):
        read_tensors(read_index(folder / "bert_model.ckpt.index"))


def test_many_weights_of_the_same_bytes_are_refused(tmp_path):
    folder, array = write(tmp_path / "in", {"a": np.ones((2, 3), np.float32)}), np.ones((2, 3), np.float32)
    pairs = [(name.encode(), entry(array, 0)) for name in ("a", "b")]
    (folder / "bert_model.ckpt.index").write_bytes(table([(b"", message(f1=1)), *pairs]))
    with pytest.raises(ValueError, match="must hold what it claims; got 48 bytes in 24"):
        read_tensors(read_index(folder / "bert_model.ckpt.index"))


def test_an_index_that_grows_when_it_is_read_is_refused(tmp_path):
    longer = [(b"x" * number, b"") for number in range(1, 2000)]  # each shares all of the one before it
    (tmp_path / "a.index").write_bytes(table(longer, a_block=3000))
    with pytest.raises(ValueError, match="a name or a value longer than it may be"):
        read_index(tmp_path / "a.index")
    made = block([(b"", message(f1=1)), (b"a", b"")])
    again = block([(b"%03d" % number, varint(0) + varint(len(made) - 5)) for number in range(500)], every=1)
    ends = varint(0) + varint(len(made) - 5) + varint(len(made)) + varint(len(again) - 5)
    (tmp_path / "a.index").write_bytes(made + again + ends.ljust(40, b"\0") + 0xDB4775248B80FB57.to_bytes(8, "little"))
    with pytest.raises(ValueError, match="blocks that lie in one another"):
        read_index(tmp_path / "a.index")


def test_compressed_blocks_and_high_bytes_first_are_refused(tmp_path):
    pairs = [(b"", message(f1=1)), (b"a", entry(np.ones(1, np.float32), 0))]
    (tmp_path / "a.index").write_bytes(table(pairs, kind=1))
    with pytest.raises(ValueError, match="compressed blocks: save the checkpoint by any TensorFlow"):
        read_index(tmp_path / "a.index")
    (tmp_path / "a.index").write_bytes(table([(b"", message(f1=1, f2=1)), pairs[1]]))
    with pytest.raises(ValueError, match="high bytes first"):
        read_index(tmp_path / "a.index")


def test_a_checkpoint_of_something_else_is_told(tmp_path):
    folder = write(tmp_path / "in", {"model/layer-0/kernel": np.ones(3, np.float32)})
    with pytest.raises(ValueError, match=r"start with bert/; got model/layer-0/kernel in .*: one of Keras"):
        convert(folder, format="google-bert", out=tmp_path / "out")


def test_an_unknown_weight_and_a_missing_one_are_named(tmp_path):
    variables = arrays()
    variables["bert/loss/x"] = variables.pop("bert/pooler/dense/bias")
    with pytest.raises(ValueError, match=r"without a number \(pooler\.dense\.bias\), 1 unknown \(loss\.x\)"):
        convert(write(tmp_path / "in", variables), format="google-bert", out=tmp_path / "out")


def test_two_variables_of_one_name_are_refused(tmp_path):
    variables = arrays() | {"bert/pooler/dense/gamma": np.ones((D, D), np.float32)}
    with pytest.raises(ValueError, match="a name of its own among ours; got two of one name"):
        convert(write(tmp_path / "in", variables), format="google-bert", out=tmp_path / "out")


def test_sizes_that_the_settings_claim_are_not_believed(tmp_path):
    folder = write(tmp_path / "in", arrays())
    for field, value in (("num_hidden_layers", 10**9), ("vocab_size", 10**12), ("intermediate_size", 10**12)):
        (folder / "bert_config.json").write_text(json.dumps({**SETTINGS, field: value}))
        with pytest.raises(ValueError, match=r"every layer must have its weights|of another shape"):
            convert(folder, format="google-bert", out=tmp_path / "out")
