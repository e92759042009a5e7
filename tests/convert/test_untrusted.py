"""Hostile and broken files: each is refused with a ValueError, and none runs, writes or takes what it wants."""

import argparse
import collections
import gzip
import io
import json
import os
import pickle
import pickletools
import resource
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vaswani_transformer.convert.untrusted import (
    Plain,
    load_json,
    load_npy,
    load_plain_pickle,
    load_torch,
    load_weights,
    plain_dict,
    state_dict,
    unpack,
)

WEIGHTS = {"a": torch.arange(100.0).view(10, 10), "b": torch.ones(3)}


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def rewritten(path: Path, change: Any, *, compression: int = zipfile.ZIP_STORED) -> Path:
    """A file of torch with its pickle changed, or its entries packed."""
    out = path.with_name("hostile.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", compression) as new:
        for entry in old.infolist():
            content = old.read(entry)
            new.writestr(entry.filename, change(content) if entry.filename.endswith("data.pkl") else content)
    return out


def saved(folder: Path, content: Any, *, legacy: bool = False) -> Path:
    torch.save(content, folder / "model.pt", _use_new_zipfile_serialization=not legacy)
    return folder / "model.pt"


@pytest.mark.parametrize("legacy", [False, True])
def test_what_torch_saved_comes_back(tmp_path, legacy):
    found = load_torch(saved(tmp_path, {**WEIGHTS, "tied": WEIGHTS["a"], "turned": WEIGHTS["a"].T}, legacy=legacy))
    assert torch.equal(found["a"], WEIGHTS["a"])
    assert torch.equal(found["turned"], WEIGHTS["a"].T)
    assert found["tied"].data_ptr() == found["a"].data_ptr()


@pytest.mark.parametrize("legacy", [False, True])
def test_a_weight_under_several_names_is_held_once(tmp_path, legacy):
    weight = torch.zeros(2**18)
    path = saved(tmp_path, {name: weight.detach() for name in ("source", "target", "output")}, legacy=legacy)
    assert path.stat().st_size < 2 * 2**20
    assert load_torch(path)["output"].shape == weight.shape


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("function", [os.mkdir, eval, exec, subprocess.call, Path.mkdir, __import__, pickle.loads])
def test_a_call_in_a_pickle_is_refused_and_not_made(tmp_path, function, legacy):
    mark = tmp_path / "ran"
    arguments: dict[Any, Any] = {
        os.mkdir: str(mark),
        eval: f"__import__('os').mkdir({str(mark)!r})",
        exec: f"import os; os.mkdir({str(mark)!r})",
        subprocess.call: ["mkdir", str(mark)],
        Path.mkdir: mark,
        __import__: "antigravity",
        pickle.loads: pickle.dumps(Calls(os.mkdir, str(mark))),
    }
    path = saved(tmp_path, {"a": torch.ones(2), "x": Calls(function, arguments[function])}, legacy=legacy)
    with pytest.raises(
        ValueError, match=r"tensors and plain values alone; got .*model\.pt: it names \S+, which could be run"
    ):
        load_torch(path, allowed=[argparse.Namespace])
    assert not mark.exists()
    assert "antigravity" not in sys.modules


def test_the_same_pickle_does_run_where_it_is_trusted(tmp_path):
    mark = tmp_path / "ran"
    torch.load(saved(tmp_path, Calls(os.mkdir, str(mark))), weights_only=False)
    assert mark.exists()


def test_a_bare_pickle_is_refused_and_not_run(tmp_path):
    (tmp_path / "model.pt").write_bytes(pickle.dumps(Calls(os.mkdir, str(tmp_path / "ran"))))
    with pytest.raises(ValueError, match="a whole file of torch"):
        load_torch(tmp_path / "model.pt")
    assert not (tmp_path / "ran").exists()


def test_an_allowed_class_comes_with_its_values_and_any_other_is_refused(tmp_path):
    path = saved(tmp_path, {"args": argparse.Namespace(arch="transformer")})
    assert load_torch(path, allowed=[argparse.Namespace])["args"].arch == "transformer"
    with pytest.raises(ValueError, match=r"argparse\.Namespace"):
        load_torch(path)


def test_a_call_inside_an_allowed_class_is_refused(tmp_path):
    path = saved(tmp_path, argparse.Namespace(arch=Calls(os.mkdir, str(tmp_path / "ran"))))
    with pytest.raises(ValueError, match="it names"):
        load_torch(path, allowed=[argparse.Namespace])
    assert not (tmp_path / "ran").exists()


def test_a_class_of_another_library_is_replaced_by_its_values(tmp_path):
    path = saved(tmp_path, {"meter": argparse.Namespace(sum=3), "calls": Calls(argparse.Namespace, 4)})
    found = load_torch(path, allowed=[(Plain, "argparse.Namespace")])
    assert type(found["meter"]) is type(found["calls"]) is Plain
    assert found["meter"].sum == 3
    assert not vars(found["calls"])


def test_a_dict_of_another_class_is_a_dict_without_a_factory(tmp_path):
    path = saved(tmp_path, collections.defaultdict(int, {"a": 1}))
    allowed = [(plain_dict, "collections.defaultdict"), (Plain, "builtins.int")]
    with pytest.raises(ValueError, match="it names"):
        load_torch(path, allowed=allowed[1:])
    found = load_torch(path, allowed=allowed)
    assert found == {"a": 1}
    with pytest.raises(KeyError):
        found["b"]


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_cut_anywhere_is_refused(tmp_path, legacy):
    whole = saved(tmp_path, WEIGHTS, legacy=legacy).read_bytes()
    for end in (*range(0, len(whole) - 1, 97), len(whole) - 1):
        (tmp_path / "cut.pt").write_bytes(whole[:end])
        with pytest.raises(ValueError, match="a whole file of torch"):
            load_torch(tmp_path / "cut.pt")


@pytest.mark.parametrize("part", ["start", "end"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_with_any_bytes_changed_is_read_or_refused(tmp_path, legacy, part):
    whole, random = saved(tmp_path, WEIGHTS, legacy=legacy).read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        content = bytearray(whole)
        for place in random.integers(0, 700, 3):
            content[place if part == "start" else -1 - place] = random.integers(0, 256)
        (tmp_path / "changed.pt").write_bytes(content)
        try:
            load_torch(tmp_path / "changed.pt")
        except ValueError:
            refused += 1
    assert refused > 10


@pytest.mark.parametrize("claimed", [101, 10**6, 2**31 - 1])
def test_a_tensor_larger_than_its_entry_is_refused(tmp_path, claimed):
    path = saved(tmp_path, WEIGHTS)
    number = b"J" + claimed.to_bytes(4, "little")
    hostile = rewritten(path, lambda pickled: pickled.replace(b"Kd", number, 1))
    with pytest.raises(ValueError, match=r"must hold what it claims|a whole file of torch"):
        load_torch(hostile)


def test_a_tensor_larger_than_its_file_of_before_2020_is_refused_before_memory_is_taken(tmp_path):
    whole = saved(tmp_path, {"a": torch.zeros(100)}, legacy=True).read_bytes()
    assert whole.count(b"Kd") == 2  # the storage's size, the tensor's
    (tmp_path / "hostile.pt").write_bytes(whole.replace(b"Kd", b"J" + (2**31 - 1).to_bytes(4, "little")))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"must hold what it claims|a whole file of torch"):
        load_torch(tmp_path / "hostile.pt")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 2**18  # KiB: 8 GiB are claimed


def test_a_tensor_that_repeats_its_storage_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must lie in its storage; got \[100000, 1000\] in 4 bytes"):
        load_torch(saved(tmp_path, torch.zeros(1).expand(100_000, 1000)))


def test_a_packed_file_of_torch_is_refused_before_it_is_unpacked(tmp_path):
    path = saved(tmp_path, {"a": torch.zeros(2**20)})
    hostile = rewritten(path, lambda pickled: pickled, compression=zipfile.ZIP_DEFLATED)
    assert hostile.stat().st_size < 2**16
    with pytest.raises(ValueError, match=r"must hold what it claims, unpacked; got .* packed"):
        load_torch(hostile)


def test_a_sparse_tensor_is_refused(tmp_path):
    with pytest.raises(ValueError, match="tensors must be dense"):
        load_torch(saved(tmp_path, torch.eye(3).to_sparse()))


def test_tangled_containers_are_read(tmp_path):
    tangled: list[Any] = [1]
    for _ in range(60):
        tangled = [tangled, tangled]  # 2^60 leaves to whom walks them all
    found = load_torch(saved(tmp_path, {"x": tangled, "a": torch.ones(1)}))
    assert found["a"] == 1


@pytest.mark.parametrize(
    ("found", "told"),
    [([], "got list"), ({}, "got dict"), ({"a": torch.ones(1), "b": 3}, "got 'b'"), ({1: torch.ones(1)}, "got 1 ")],
)
def test_what_is_no_state_dict_is_told(found, told):
    with pytest.raises(ValueError, match=f"tensors under names; {told}"):
        state_dict(found, "model.pt")


def test_weights_are_read_from_either_file_of_transformers_and_broken_ones_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must hold model\.safetensors or pytorch_model\.bin"):
        load_weights(tmp_path)
    torch.save(WEIGHTS, tmp_path / "pytorch_model.bin")
    assert torch.equal(load_weights(tmp_path)["a"], WEIGHTS["a"])
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    assert torch.equal(load_weights(tmp_path)["b"], WEIGHTS["b"])
    whole = (tmp_path / "model.safetensors").read_bytes()
    for content in (whole[:-5], b"", (2**60).to_bytes(8, "little") + whole[8:]):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match="a whole file of safetensors"):
            load_weights(tmp_path)


@pytest.mark.parametrize("content", ["", '{"a": 1', "[1]", "[" * 100_000, "\udcff"])
def test_json_that_is_broken_or_no_object_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"config\.json must"):
        load_json(tmp_path / "config.json")


def npy(shape: str, content: bytes, *, dtype: str = "<f4", version: bytes = b"\1\0") -> bytes:
    """A .npy file whose header says anything."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    length = len(header).to_bytes(2 if version == b"\1\0" else 4, "little")
    return b"\x93NUMPY" + version + length + header + content


def test_an_array_comes_back_whatever_its_order_and_its_type(tmp_path):
    for array in (np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3)), np.float32(3)):
        np.save(tmp_path / "a.npy", array)
        np.testing.assert_array_equal(load_npy(tmp_path / "a.npy"), array, strict=True)


def test_an_array_of_objects_and_an_archive_of_arrays_are_refused(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array([Calls(os.mkdir, str(tmp_path / "ran"))], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"array must be a whole .* elements of object, not numbers"):
        load_npy(path)
    assert not (tmp_path / "ran").exists()
    np.savez(tmp_path / "b.npz", a=np.ones(3))
    with pytest.raises(ValueError, match="array must be a whole"):
        load_npy(tmp_path / "b.npz")


def test_an_array_cut_anywhere_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(50.0))
    whole = (tmp_path / "a.npy").read_bytes()
    for end in range(0, len(whole), 7):
        (tmp_path / "cut.npy").write_bytes(whole[:end])
        with pytest.raises(ValueError, match="array must be a whole"):
            load_npy(tmp_path / "cut.npy")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (npy("(2,)", bytes(12)), r"12 bytes for the shape \(2,\) of float32, which takes 8"),
        (npy("(4611686018427387904, 4)", bytes(0)), "takes 73786976294838206464"),  # 0 in 64 bits
        (npy("(-1, -2)", bytes(8)), r"\(-1, -2\)"),
        (npy("(0, 4)", b""), r"\(0, 4\)"),
        (npy("(2,)", bytes(16), dtype="<U2"), "not numbers"),
        (npy("(2,)", bytes(8), version=b"\2\0"), "version"),
        (npy("(__import__('os').mkdir('ran'),)", bytes(8)), "array must be a whole"),
        (npy("(" * 500, bytes(8)), "array must be a whole"),
    ],
)
def test_an_array_that_is_not_what_its_header_claims_is_refused(tmp_path, monkeypatch, content, told):
    monkeypatch.chdir(tmp_path)
    Path("a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=told):
        load_npy("a.npy")
    assert not Path("ran").exists()


def test_a_pickle_of_plain_values_comes_back_and_any_call_is_refused(tmp_path):
    plain = {"stoi": {"a": 0, "\n": 1}, "itos": {0: "a", 1: "\n"}, "vocab_size": 2, "more": (1.5, None, b"x", [True])}
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(plain))
    assert load_plain_pickle(tmp_path / "meta.pkl") == plain
    for function, argument in ((os.mkdir, str(tmp_path / "ran")), (eval, "1"), (set, ()), (bytearray, b"")):
        (tmp_path / "meta.pkl").write_bytes(pickle.dumps({"stoi": Calls(function, argument)}))
        with pytest.raises(ValueError, match=r"containers, strings and numbers alone; .* it names \S+"):
            load_plain_pickle(tmp_path / "meta.pkl")
    assert not (tmp_path / "ran").exists()


def test_a_pickle_cut_anywhere_is_refused(tmp_path):
    whole = pickle.dumps({"stoi": {"a": 0, "b": 1}, "more": [1.5] * 9})
    for end in range(len(whole)):
        (tmp_path / "meta.pkl").write_bytes(whole[:end])
        with pytest.raises(ValueError, match="a pickle must hold"):
            load_plain_pickle(tmp_path / "meta.pkl")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_weights_in_parts_are_read_by_their_index_and_a_missing_part_is_told(tmp_path, name):
    for part, tensor in WEIGHTS.items():
        save = save_file if name.endswith("safetensors") else torch.save
        save({part: tensor}, tmp_path / f"{part}.part")
    places = {part: f"{part}.part" for part in WEIGHTS}
    (tmp_path / f"{name}.index.json").write_text(json.dumps({"weight_map": places}))
    found = load_weights(tmp_path)
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[part], WEIGHTS[part]) for part in WEIGHTS)
    (tmp_path / "b.part").unlink()
    with pytest.raises(ValueError, match=r"must have all 2 files that .* without b\.part: is the download complete"):
        load_weights(tmp_path)


@pytest.mark.parametrize("part", ["../a.part", "/tmp/a.part", "..\\a.part", "C:a.part", "sub/a.part", "", "..", "a\0"])
def test_a_part_outside_the_folder_is_refused(tmp_path, part):
    (tmp_path / "in").mkdir()
    save_file(WEIGHTS, tmp_path / "a.part")
    (tmp_path / "in" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": part}}))
    with pytest.raises(ValueError, match="parts of a model must lie beside their index"):
        load_weights(tmp_path / "in")


def packed(path: Path, files: dict[str, bytes | tarfile.TarInfo]) -> Path:
    """An archive as its name says, with any names in it."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                assert isinstance(content, bytes)
                archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
        return path
    mode: Any = f"w:{path.suffix[1:]}"
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


ENDS = ["zip", "tar.gz", "tar.bz2", "tar.xz"]


@pytest.mark.parametrize("end", ENDS)
def test_an_archive_is_unpacked_and_its_only_folder_found(tmp_path, end):
    archive = packed(tmp_path / f"a.{end}", {"model/dict.en.txt": b"a 1\n", "model/sub/code": b"x"})
    folder = unpack(archive, tmp_path / "out")
    assert folder == tmp_path / "out" / "model"
    assert (folder / "dict.en.txt").read_bytes() == b"a 1\n"
    assert (folder / "sub" / "code").read_bytes() == b"x"


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/tmp/out.txt", "..\\out.txt", "C:\\out.txt", "C:x"])
def test_a_path_that_leads_out_of_the_folder_is_refused(tmp_path, end, name):
    archive = packed(tmp_path / f"a.{end}", {"fine": b"1", name: b"2"})
    with pytest.raises(ValueError, match="must stay in its folder"):
        unpack(archive, tmp_path / "in" / "deep")
    assert {path.name for path in tmp_path.rglob("*")} == {f"a.{end}", "in", "deep", "fine"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_an_archive_are_refused(tmp_path, kind):
    link = tarfile.TarInfo("link")
    link.type, link.linkname = kind, "/etc/passwd"
    with pytest.raises(ValueError, match="plain files alone; got 'link'"):
        unpack(packed(tmp_path / "a.tar.gz", {"link": link, "link/x": b""}), tmp_path / "out")
    assert not os.path.lexists(tmp_path / "out" / "link")


def test_the_same_file_twice_in_an_archive_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        for content in (b"1", b"2"):
            member = tarfile.TarInfo("a")
            member.size = 1
            archive.addfile(member, io.BytesIO(content))
    with pytest.raises(ValueError, match="must be a whole"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")


@pytest.mark.parametrize("end", ENDS)
def test_an_archive_that_unpacks_to_far_more_than_itself_is_refused(tmp_path, end):
    archive = packed(tmp_path / f"a.{end}", {"zeros": bytes(2**26 + 1)})
    assert archive.stat().st_size < 2**17
    with pytest.raises(ValueError, match="must unpack to at most 67108864"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out" / "zeros").exists()


def test_an_archive_of_too_many_files_is_refused(tmp_path):
    archive = packed(tmp_path / "a.zip", {str(number): b"" for number in range(10_001)})
    with pytest.raises(ValueError, match="in 10000 files"):
        unpack(archive, tmp_path / "out")


def test_a_bomb_in_the_headers_of_a_tar_is_refused(tmp_path):
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 2**32
    with gzip.GzipFile(tmp_path / "a.tar.gz", "wb") as file:
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(80):
            file.write(bytes(2**20))
    with pytest.raises(ValueError, match="more in its headers"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")


@pytest.mark.parametrize("end", ENDS)
def test_an_archive_cut_short_or_of_another_kind_is_refused(tmp_path, end):
    archive = packed(tmp_path / f"a.{end}", {"a": os.urandom(5000)})
    whole = archive.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:10], b"", b"no archive at all" * 100):
        archive.write_bytes(content)
        with pytest.raises(ValueError, match="must be a whole"):
            unpack(archive, tmp_path / str(len(content)))


def test_the_pickles_above_are_what_they_are_meant_to_be(tmp_path):
    with zipfile.ZipFile(saved(tmp_path, WEIGHTS)) as archive:
        pickled = archive.read("model/data.pkl")
    numbers = [value for _, value, _ in pickletools.genops(pickled) if value == 100]
    assert numbers == [100]  # the storage's size, which `Kd` is
