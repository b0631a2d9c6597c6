"""Bad files cost little: each is refused, or read as torch reads it, within 5 seconds and 500 MB."""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy
import pytest
import torch
from checkpoint_builders import MIDDLE, single_file_tensors, small_unet, write_neurons
from safetensors.torch import load_file

import surgery
from surgery.checkpoint.comparison.tensors import compare_tensors
from surgery.checkpoint.formats import json_text, pickle_archive
from surgery.checkpoint.formats.pickle_file import PickleWeights
from surgery.checkpoint.formats.weights import SafetensorsWeights
from surgery.checkpoint.survey import scan
from surgery.errors import UsageError

MOST_MEGABYTES = 500  # of the whole process; importing torch alone takes 220
MOST_SECONDS = 5.0  # of the processor, at the pace below; what hangs runs into the timeout
# Processor seconds are no fixed unit either: neighbors on the same core, or a slow machine, stretch them. So
# a loop of plain Python runs before and after the command, and where it is slower than this, more is allowed.
PACE_SECONDS = 0.06
# the peak of this process alone (VmHWM): ru_maxrss also remembers the process that started it
MEASURED = """
import sys, time
from surgery.cli import main

def pace():
    begun, total = time.process_time(), 0
    for number in range(2_000_000):
        total += number & 7
    return time.process_time() - begun

before = pace()
status = main(sys.argv[1:])
seconds = time.process_time() - before
slowest = max(before, pace())
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(f"peak {peak.split()[1]} seconds {seconds} pace {slowest} status {status}", file=sys.stderr)
"""


def run_measured(*words) -> tuple[int, str]:
    """Run the command line in a process of its own; returns (status, stderr); its costs are asserted."""
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is read from /proc")
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, words)], capture_output=True, text=True, timeout=60
    )
    match = re.search(r"peak (\d+) seconds ([\d.]+) pace ([\d.]+) status (\d+)\n", done.stderr)
    assert match, done.stderr
    message = done.stderr.replace(match[0], "")
    assert int(match[1]) / 1024 < MOST_MEGABYTES, (message, match[0])
    assert float(match[2]) < MOST_SECONDS * max(1.0, float(match[3]) / PACE_SECONDS), (message, match[0])
    return int(match[4]), message


def assert_refused_cheaply(message, *words):
    status, err = run_measured(*words)
    assert status == 2 and message in err and err.count("\n") == 1 and len(err) < 1000, err


def with_header(path, text):
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    return path


def zipped(path, program, method=zipfile.ZIP_STORED, records=(("0", bytes(64)),)):
    """A torch archive made by hand."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/version", "3\n")
        for key, content in records:
            archive.writestr(f"archive/data/{key}", content)
    return path


STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x10tQ"
TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n("
    + STORAGE
    + b"K\x00K\x04K\x04\x86K\x04K\x01\x86\x89ccollections\nOrderedDict\n)RtR"
)


def document(more=b""):
    """The program of {"a": a tensor of 4 x 4, ...}."""
    return b"\x80\x02}(X\x01\x00\x00\x00a" + TENSOR + more + b"u."


HEADERS = {
    "lists": b'{"a":[' + b"[]," * 10_000_000 + b"[]]}",
    "as many lists as pass": b'{"a":[' + b"[]," * 2_200_000 + b"[]]}",
    "depth": b"[" * 30_000_000,
    "names": b'{"a":{' + b",".join(b'"%06d":"%06d"' % (i, i) for i in range(1_170_000)) + b"}}",
    "one long name": b'{"' + b"k" * 30_000_000 + b'":1}',
    "four bytes per letter": b'{"a":"' + "😀".encode() + b"x" * 30_000_000 + b'"}',
    "digits": b'{"a":' + b"9" * 30_000_000 + b"}",
    "99 MB": b'{"a":[' + b"[]," * 33_000_000 + b"[]]}",
}


@pytest.mark.parametrize("case", HEADERS)
def test_header_that_would_fill_the_memory(tmp_path, case):
    path = with_header(tmp_path / "model.safetensors", HEADERS[case])
    assert_refused_cheaply("model.safetensors: ", "inspect", path)


def test_header_of_a_hundred_thousand_tensors_passes(tmp_path):
    entry = {"dtype": "F16", "shape": [0, 320, 3, 3], "data_offsets": [0, 0]}
    names = [
        f"model.diffusion_model.transformer_blocks.{i}.attention.to_query.weight" for i in range(100_000)
    ]
    text = json.dumps(dict.fromkeys(names, entry) | {"__metadata__": {"format": "pt"}}).encode()
    assert len(text) < 32_000_000
    path = with_header(tmp_path / "model.safetensors", text)
    assert run_measured("inspect", path)[0] == 0


def sparse(size):
    def make(path):
        path.unlink(missing_ok=True)
        with path.open("wb") as file:
            file.truncate(size)

    return make


def device(path):
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/zero")


def pipe(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def lists(path):
    path.write_bytes(b"[" + b"[]," * 5_000_000 + b"[]]")


INDEX = "unet/diffusion_pytorch_model.safetensors.index.json"


@pytest.mark.parametrize("make", [sparse(3 << 30), device, pipe, lists])
@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json"])
def test_configuration_that_never_ends(model, make, name):
    make(model / name)
    assert_refused_cheaply(name, "inspect", model)


@pytest.mark.parametrize("make", [sparse(3 << 30), lists])
def test_index_that_never_ends(model, make):
    make(model / INDEX)
    assert_refused_cheaply("index.json", "inspect", model)


def test_index_that_is_a_pipe_is_left_out(model):
    pipe(model / INDEX)
    assert run_measured("inspect", model)[0] == 0


def test_tokenizer_that_never_ends(model, tmp_path):
    """Too large for any tokenizer: left out, unread. Too costly to parse: refused."""
    neurons = write_neurons(tmp_path / "neurons.json", {MIDDLE: [3]})
    sparse(3 << 30)(model / "tokenizer" / "tokenizer.json")
    status, _ = run_measured("patch", model, neurons, "-o", tmp_path / "left-out")
    assert status == 0 and not (tmp_path / "left-out" / "tokenizer" / "tokenizer.json").exists()
    (model / "tokenizer" / "tokenizer.json").unlink()
    lists(model / "tokenizer" / "tokenizer.json")
    assert_refused_cheaply("tokenizer/tokenizer.json", "patch", model, neurons, "-o", tmp_path / "out")


def test_tokenizer_of_the_largest_kind_passes():
    words = {f"word{i}": i for i in range(256_000)}
    merges = [[f"a{i}", f"b{i}"] for i in range(600_000)]
    json_text.check_parsed_size(json.dumps({"model": {"vocab": words, "merges": merges}}).encode())


def test_folders_within_folders_and_links_to_everywhere(model, tmp_path, monkeypatch):
    deep = model / "unet" / "deep"
    for _ in range(60):
        deep.mkdir()
        os.chdir(deep)  # beyond the longest path that the system takes
        deep = Path("d" * 200)
    os.chdir(tmp_path)
    (model / "everything").symlink_to("/")
    (model / "unet" / "everything").symlink_to("/")
    status, _ = run_measured("inspect", model)
    assert status == 0
    found = {file.path: file for file in scan.scan_folder(model)}
    assert found["everything/"].obstacle == "a symbolic link to a folder outside the checkpoint"
    assert found["unet/everything/"].bytes == 0 and "unet/deep/" in found
    (model / "unet" / "other").mkdir()
    for number in range(20):
        (model / "unet" / "other" / str(number)).write_bytes(b"12345")
    monkeypatch.setattr(scan, "MAX_COUNTED", 10)
    found = {file.path: file for file in scan.scan_folder(model)}
    assert any(
        "more than" in file.obstacle and "not counted to the end" in file.obstacle for file in found.values()
    )


def test_twelve_hundred_nested_folders(model):
    top = model / "unet" / "nested"
    top.mkdir()
    descriptor = os.open(top, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
    assert run_measured("inspect", model)[0] == 0
    subprocess.run(["rm", "-rf", str(top)], check=True)  # pytest's own removal recurses


def test_folder_of_too_many_files(model, monkeypatch):
    monkeypatch.setattr(scan, "MAX_ENTRIES", 5)
    with pytest.raises(UsageError, match="holds more than 5 files"):
        scan.scan_folder(model)


def expanded(path):
    torch.save({"a": torch.ones(1).expand(65536, 65536)}, path)


def bomb(path):
    zipped(path, document(), zipfile.ZIP_DEFLATED, [("0", bytes(300 << 20))])


def program_bomb(path):
    zipped(path, document() + bytes(200 << 20), zipfile.ZIP_DEFLATED)


def broken_record(path):
    """Torch reads what the memory holds where the compressed numbers end early."""
    zipped(path, document(), zipfile.ZIP_DEFLATED, [("0", os.urandom(64))])
    content = bytearray(path.read_bytes())
    place = content.index(b"archive/data/0") + len("archive/data/0")
    content[place : place + 2] = b"\x03\x00"  # the end of the data
    path.write_bytes(content)


def record_called_folder(path):
    """Torch unpacks nothing of it, and reads what the memory holds."""
    zipped(path, document(), zipfile.ZIP_DEFLATED, [("0", os.urandom(64))])
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02", 0, content.rindex(b"archive/data/0")) + 38] |= 16
    path.write_bytes(content)


BYTEARRAY = b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x03\x85R."


def shared_place(path):
    """Two records whose directory entries point to the same bytes."""
    zipped(path, document(), records=[("0", bytes(64)), ("1", bytes(64))])
    content = path.read_bytes()
    first, second = (content.index(b"archive/data/%d" % i, content.index(b"PK\x01\x02")) for i in (0, 1))
    content = content[: second - 4] + content[first - 4 : first] + content[second:]
    path.write_bytes(content)


def old_format(change):
    def make(path):
        torch.save({"a": torch.ones(4)}, path, _use_new_zipfile_serialization=False)
        content = path.read_bytes()
        assert change(content) != content
        path.write_bytes(change(content))

    return make


def raw(content):
    return lambda path: path.write_bytes(content)


def program(content):
    return lambda path: zipped(path, content)


def large(start):
    def make(path):
        with path.open("wb") as file:
            file.write(start)
            file.truncate(3 << 30)

    return make


def saved(value, **options):
    return lambda path: torch.save(value(), path, **options)


PICKLES = {
    "expanded": (expanded, "would take 17179869184 bytes"),
    "zip bomb": (bomb, "would unpack to"),
    "program bomb": (program_bomb, "holds a pickle program of 2097"),
    "compressed record that ends early": (broken_record, "is a broken zip archive"),
    "record that is called a folder": (record_called_folder, "is a broken zip archive"),
    "bytearray": (raw(BYTEARRAY), "it holds builtins.bytearray"),
    "bytearray in an archive": (program(BYTEARRAY), "it holds builtins.bytearray"),
    "tensor of 400 GB": (
        program(b"\x80\x02ctorch\nFloatTensor\n\x8a\x05\x00\x00\x00\x00\x19\x85R."),
        "it holds torch.FloatTensor",
    ),
    "storage larger than its record": (
        lambda path: zipped(path, document(), records=[("0", bytes(63))]),
        "holds 63 bytes where a tensor needs 64",
    ),
    "no such storage": (
        lambda path: zipped(path, document(), records=[("1", bytes(64))]),
        "holds 0 bytes where a tensor needs 64",
    ),
    "records that overlap": (shared_place, "overlap"),
    "records of one name": (
        lambda path: zipped(path, document(), records=[("a", bytes(64)), ("A", bytes(64)), ("0", bytes(64))]),
        "two records named 'archive/data/A'",
    ),
    "deep name": (program(document(b")" + b"\x85" * 300_000 + b"N")), "a name that is neither text nor"),
    "names that collide": (
        program(document(b"X\x01\x00\x00\x00b}(\x8a\x0c" + (5 * (2**61 - 1)).to_bytes(12, "little") + b"Nu")),
        "a name that is neither text nor",
    ),
    "too many objects": (program(document(b"X\x01\x00\x00\x00b](" + b"}" * 160_000 + b"e")), "more objects"),
    "copies of copies": (
        program(
            document(
                b"X\x01\x00\x00\x00b](c_codecs\nencode\nq\x01X\xe8\x03\x00\x00"
                + b"x" * 1000
                + b"q\x02X\x06\x00\x00\x00latin1q\x03"
                + b"h\x01h\x02h\x03\x86R" * 50_000
                + b"e"
            )
        ),
        "more copies of one object",
    ),
    "old format, storage of 4 TB": (
        old_format(lambda content: content.replace(b"K\x04N", b"\x8a\x06\0\0\0\0\0\x01N")),
        "is cut short: 4398046511104 bytes of numbers",
    ),
    "old format, numbers that are not named": (
        old_format(lambda content: re.sub(rb"\]q\x00X.{4}\d+q\x01a\.", b"]q\x00.", content)),
        "not a torch pickle",
    ),
    "old format, text without end": (large(b"\x80\x02X\xff\xff\xff\xbf"), "not a torch pickle"),
    "old format, line without end": (large(b"\x80\x02c"), "not a torch pickle"),
    "3 GB of nothing": (large(b""), "not a torch pickle"),
    "archive of nothing": (large(b"PK\x03\x04"), "broken zip archive"),
    "meta": (saved(lambda: {"a": torch.empty(4, device="meta")}), "_rebuild_meta_tensor_no_storage"),
    "nested": (
        saved(lambda: {"a": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}),
        "_rebuild_nested_tensor",
    ),
    "sparse": (saved(lambda: {"a": torch.ones(3).to_sparse()}), "is a pickle of a kind that is not read"),
    "conjugate": (saved(lambda: {"a": torch.ones(3, dtype=torch.complex64).conj()}), "dtype torch.complex64"),
    "half a surrogate pair": (saved(lambda: {"a\ud800": torch.ones(3)}), r"named 'a\ud800', which no safe"),
    "git-lfs pointer": (
        raw(b"version https://git-lfs.github.com/spec/v1\n"),
        "is a git-lfs pointer, not the weights; run `git lfs pull`",
    ),
    "web page": (raw(b"\n<!DOCTYPE html><html></html>"), "is a web page, not a pickle; download it again"),
    "GGUF": (raw(b"GGUF" + bytes(40)), "is a GGUF file (quantized weights)"),
    "safetensors": (raw(b"\x40" + bytes(7) + b'{"a":{}}'), "is a safetensors file, not a pickle"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", PICKLES)
def test_pickle_that_would_fill_the_memory(tmp_path, case):
    make, message = PICKLES[case]
    path = tmp_path / "model.ckpt"
    make(path)
    assert_refused_cheaply(message, "diff", path, path)


@pytest.mark.parametrize(
    "filling",
    [b"X\x04\x00\x00\x00\xf0\x9f\x98\x80" * 399_000, b"}" * 149_000, b")" + b"\x85" * 399_000],
    ids=["texts", "dictionaries", "depth"],
)
def test_the_largest_program_that_passes(tmp_path, filling):
    path = zipped(tmp_path / "model.ckpt", document(b"X\x01\x00\x00\x00b](" + filling + b"e"))
    assert run_measured("diff", path, path)[0] == 0


def rezipped(path, method=zipfile.ZIP_DEFLATED):
    """The archive as any archiver writes it again."""
    with zipfile.ZipFile(path) as archive:
        content = [(item.filename, archive.read(item)) for item in archive.infolist()]
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in content:
            archive.writestr(name, data)


def big_endian(path):
    with zipfile.ZipFile(path) as archive:
        content = [(item.filename, archive.read(item)) for item in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content:
            archive.writestr(name, b"big" if name.endswith("/byteorder") else data)


def layouts():
    torch.manual_seed(0)
    base = torch.randn(12, 10)
    halves = torch.randn(7, 3, 5).half()
    return {
        "plain": base,
        "view": base[3:7, 2:],
        "shared": base,
        "transposed": base.t(),
        "permuted": halves.permute(2, 0, 1),
        "steps": halves[::2, :, ::3],
        "expanded": torch.arange(4.0).expand(6, 5, 4),
        "expanded inside": torch.arange(6, dtype=torch.int16).reshape(2, 1, 3).expand(2, 4, 3),
        "negative": torch._neg_view(base),
        "negative, transposed": torch._neg_view(base.t()),
        "empty": torch.empty(0, 4),
        "empty inside": torch.empty(3, 0, 2),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "scalar view": base[2, 3],
        "truth": torch.tensor([[True, False, True], [False, True, True]]).t(),
        "bfloat16": torch.randn(5, 4).bfloat16().t(),
        "parameter": torch.nn.Parameter(base.t()),
    }


LAYOUTS = {
    "stored": (True, None),
    "deflated": (True, rezipped),
    "stored again": (True, lambda path: rezipped(path, zipfile.ZIP_STORED)),
    "big-endian": (True, big_endian),
    "old format": (False, None),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_every_storage_layout_is_read_as_torch_reads_it(tmp_path, case):
    is_zip, change = LAYOUTS[case]
    path = tmp_path / "model.ckpt"
    torch.save(layouts(), path, _use_new_zipfile_serialization=is_zip)
    if change:
        change(path)
    expected = torch.load(path, weights_only=True)
    weights = PickleWeights(path, "model.ckpt")
    assert weights.header.tensors.keys() == expected.keys()
    for name, tensor in weights.header.tensors.items():
        values = expected[name].detach().resolve_neg().contiguous()
        whole = values.reshape(-1).view(torch.uint8).numpy().tobytes() if values.numel() else b""
        assert tensor.shape == tuple(values.shape)
        assert weights.read(tensor.begin, tensor.end) == whole
        for begin, end in ((0, 1), (1, 7), (3, 90), (17, 18), (40, 200), (5, 10**6)):
            end = min(end, tensor.size)  # parts too, that begin and end within a row and within a number
            assert begin >= end or weights.read(tensor.begin + begin, tensor.begin + end) == whole[begin:end]


def test_large_compressed_record_is_read_to_its_end(tmp_path):
    """Larger than one step of unpacking, and of a length at which a step ends within a repetition."""
    for length in (3 * 2**20 + 1, 2**20 + 77, 2**20):
        path = tmp_path / f"{length}.ckpt"
        torch.save({"a": torch.arange(length, dtype=torch.int32).to(torch.uint8) // 7}, path)
        rezipped(path)
        weights = PickleWeights(path, "model.ckpt")
        tensor = weights.header.tensors["a"]
        expected = torch.load(path, weights_only=True)["a"]
        assert weights.read(tensor.begin, tensor.end) == expected.numpy().tobytes()


@pytest.mark.parametrize("case", ["deflated", "big-endian", "old format"])
def test_rezipped_checkpoint_is_patched_right(tmp_path, case):
    is_zip, change = LAYOUTS[case]
    path = tmp_path / "model.ckpt"
    torch.save(single_file_tensors(small_unet()), path, _use_new_zipfile_serialization=is_zip)
    if change:
        change(path)
    expected = torch.load(path, weights_only=True)
    surgery.patch(path, {MIDDLE: [3]}, tmp_path / "out.safetensors")
    written = load_file(tmp_path / "out.safetensors")
    changed = [
        name  # compared as bytes: numbers read in the other order are often none
        for name in expected
        if not written[name].view(torch.uint8).equal(expected[name].contiguous().view(torch.uint8))
    ]
    assert changed == ["model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_v.weight"]
    assert surgery.diff(path, tmp_path / "out.safetensors", plan={MIDDLE: [3]}).as_planned


def test_large_transposed_tensor_is_compared_in_seconds(tmp_path):
    """Made contiguous whole at every read, a tensor of 192 MB took 26 seconds."""
    path = tmp_path / "model.ckpt"
    torch.save({"a": torch.zeros(2048, 6144).t()}, path)
    os.link(path, tmp_path / "again.ckpt")
    status, _ = run_measured("diff", path, tmp_path / "again.ckpt")
    assert status == 0


def test_attributes_of_a_tensor_are_not_taken_for_its_methods(tmp_path):
    tensor = torch.ones(2, 3)
    tensor.is_contiguous = tensor.detach = tensor.flatten = "no method"
    torch.save({"a": tensor}, tmp_path / "model.ckpt")
    weights = PickleWeights(tmp_path / "model.ckpt", "model.ckpt")
    begin, end = weights.header.tensors["a"].begin, weights.header.tensors["a"].end
    assert weights.read(begin, end) == struct.pack("<6f", *[1.0] * 6)


def test_archive_that_says_of_itself_what_it_is_not(tmp_path):
    path = zipped(tmp_path / "model.ckpt", document())
    content = path.read_bytes()
    for change in (
        lambda data: data[:-22],  # no directory
        lambda data: data[:-12] + struct.pack("<H", 65535) + data[-10:],
        lambda data: data.replace(b"PK\x01\x02", b"PK\x01\x03"),
        lambda data: data[:-6] + struct.pack("<I", 2**32 - 1) + data[-2:],
    ):
        path.write_bytes(change(content))
        with pytest.raises(UsageError, match="zip archive"):
            PickleWeights(path, "model.ckpt")
    assert pickle_archive.MAX_EXPANSION >= 2


def test_fingerprint_of_an_impossible_norm(surgery_run, model, tmp_path):
    fingerprint = {"scheme": "row-norms/1", "layers": {MIDDLE: {"shape": [64, 24], "norms": [10**400] * 8}}}
    path = write_neurons(tmp_path / "neurons.json", {MIDDLE: [3]}, fingerprint=fingerprint)
    status, _, err = surgery_run("patch", model, path, "-o", tmp_path / "out")
    assert status == 2 and "its fingerprint cannot be read" in err and err.count("\n") == 1


def four_bits(path, data):
    text = b'{"a":{"dtype":"F4","shape":[2,3],"data_offsets":[0,3]}}'
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return SafetensorsWeights(path, path.name)


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("tolerance", [0, 0.1])
def test_rows_that_share_bytes_are_compared_whole(tmp_path, place, tolerance):
    """Three values of four bits are a byte and a half: the last byte was in no row."""
    changed = bytearray(b"\x12\x34\x56")
    changed[place] = 0
    first, second = four_bits(tmp_path / "a", b"\x12\x34\x56"), four_bits(tmp_path / "b", bytes(changed))
    one, other = first.header.tensors["a"], second.header.tensors["a"]
    start = one.begin
    assert [one.row_range(row) for row in range(2)] == [(start, start + 2), (start + 1, start + 3)]
    options = {"tolerance": tolerance, "name": "a", "across_layouts": False}
    found = compare_tensors(first, one, second, other, **options)
    assert (found.rows, found.zero_rows, found.total_rows) == ((0,), (), 1)
    assert compare_tensors(first, one, first, one, **options) is None
    zero = four_bits(tmp_path / "zero", bytes(3))
    assert compare_tensors(first, one, zero, zero.header.tensors["a"], **options).all_zero


def test_plain_pickles_of_python_values_are_refused(tmp_path):
    for value in ([1, 2], {"a": 1}, "text"):
        (tmp_path / "model.bin").write_bytes(pickle.dumps(value, 2))
        with pytest.raises(UsageError, match="is not a torch pickle"):
            PickleWeights(tmp_path / "model.bin", "model.bin")


@pytest.mark.parametrize("is_zip", [True, False])
def test_what_training_leaves_in_a_checkpoint_is_no_obstacle(tmp_path, is_zip):
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(3)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])  # holds a Counter
    document = {
        "state_dict": layer.state_dict(),  # an OrderedDict with an attribute
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [scheduler.state_dict()],
        "rng": torch.get_rng_state(),
        "device": torch.device("cuda", 0),
        "dtype": torch.float16,
        "size": torch.Size([2, 3]),
        "names": {"a", "b"},
        "number": numpy.float32(0.5),
        "pair": 1 + 2j,
        "content": b"\x00\xff",
        "large": 10**30,
        "keys": {("a", 1): 2, 3: None, None: 4, 2.5: 1},
    }
    path = tmp_path / "model.ckpt"
    torch.save(document, path, _use_new_zipfile_serialization=is_zip)
    weights = PickleWeights(path, "model.ckpt")
    assert list(weights.header.tensors) == ["weight", "bias"]
    assert weights.dropped == tuple(name for name in document if name != "state_dict")
