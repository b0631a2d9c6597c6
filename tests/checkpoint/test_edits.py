"""One idea of an edit: `expected` alone says what the output holds, and a second kind needs nothing else."""

from dataclasses import dataclass

import pytest
from checkpoint_builders import DOWN, MIDDLE, save_single_file, single_file_tensors, small_unet
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import surgery
from surgery.checkpoint.edit.edits import ZEROS, Edit, FileEdits
from surgery.checkpoint.formats.safetensors_file import Tensor
from surgery.errors import GateError, SurgeryError

WEIGHT = f"{DOWN}.weight"


@dataclass(frozen=True)
class Fours:
    """A second kind of content: the float32 number 4, everywhere."""

    name: str = "made_four"
    failure: str = "is not four"

    def read(self, begin, end):
        return (b"\x00\x00\x80\x40" * (end // 4 + 1))[begin:end]

    def entry(self, edit):
        return list(edit.rows)

    def edits(self, copy):
        layer = copy.layers[DOWN]
        yield Edit(layer.file, DOWN, layer.weight, (1, 2, 5), self)


@pytest.mark.parametrize("layout", ["folder", "single file"])
def test_a_second_kind_of_edit_is_patched_verified_and_proved(layout, sd1_folder, tmp_path):
    source, output = sd1_folder, tmp_path / "out"
    if layout == "single file":
        tensors = single_file_tensors(small_unet(), ema=True)
        source, output = save_single_file(tmp_path / "a.safetensors", tensors), tmp_path / "b.safetensors"
    neurons = {MIDDLE: [3]}
    result = surgery.patch(source, neurons, output, changes=[Fours()])
    edited = [entry for entry in result.manifest["files"] if "made_four" in entry]
    assert [list(entry["made_four"].values()) for entry in edited] == [[[1, 2, 5]] * len(result.copies)]
    for path in [output] if output.is_file() else [output / "unet" / "diffusion_pytorch_model.safetensors"]:
        for name, tensor in load_file(path).items():
            if name in edited[0]["made_four"]:
                assert (tensor[[1, 2, 5]] == 4).all() and (tensor[[0, 3, 4]] != 4).all()
    assert surgery.diff(source, output, plan=neurons, changes=[Fours()]).as_planned
    # and the proof is about this content, not about any
    plain = surgery.diff(source, output, plan=neurons)
    assert any("3 unplanned rows 1-2, 5" in sentence for sentence in plain.violations)
    other = surgery.diff(source, output, plan={MIDDLE: [3], DOWN: [1, 2, 5]})
    assert any(sentence.endswith("is not zero") for sentence in other.violations)
    missing = surgery.diff(source, source, plan=neurons, changes=[Fours()])
    assert any(sentence.endswith("is not four") for sentence in missing.violations)


def test_the_gate_asks_the_edit_and_not_the_writer(sd1_folder, tmp_path, monkeypatch):
    """A writer that writes other bytes than `expected` says is caught, whatever the kind of edit."""
    from surgery.checkpoint.edit import writing

    real = writing.os.pwrite
    monkeypatch.setattr(
        writing.os, "pwrite", lambda file, data, place: real(file, bytes(byte ^ 1 for byte in data), place)
    )
    with pytest.raises(GateError, match="is not four"):
        surgery.patch(sd1_folder, {}, tmp_path / "out", changes=[Fours()])
    assert not (tmp_path / "out").exists()


def test_edits_that_want_the_same_bytes_or_rows_that_are_not_there_are_refused():
    tensor = Tensor("w", "U8", (4, 2), 100, 108)
    with pytest.raises(SurgeryError, match="the same bytes"):
        FileEdits([Edit("f", "l", tensor, (1, 2), ZEROS), Edit("f", "l", tensor, (2,), Fours())])
    with pytest.raises(SurgeryError, match="no row 4"):
        Edit("f", "l", tensor, (1, 4), ZEROS)


@given(
    rows=st.sets(st.integers(0, 7)),
    more=st.sets(st.integers(0, 4)),
    start=st.integers(0, 60),
    length=st.integers(0, 60),
)
@settings(max_examples=300)
def test_any_window_of_a_file_shows_the_same_output(rows, more, start, length):
    """`expected` of a part is the part of `expected`, however the file is cut into windows."""
    first, second = Tensor("a", "U8", (8, 3), 10, 34), Tensor("b", "U8", (5, 5), 34, 59)
    edits = FileEdits(
        [
            Edit("f", "a", first, tuple(sorted(rows)), ZEROS),
            Edit("f", "b", second, tuple(sorted(more)), Fours()),
        ]
    )
    source = bytes(range(1, 71))
    whole = bytearray(source)
    for row in rows:
        whole[10 + 3 * row : 13 + 3 * row] = bytes(3)
    for row in more:
        whole[34 + 5 * row : 39 + 5 * row] = Fours().read(5 * row, 5 * row + 5)
    window = source[start : start + length]
    assert edits.expected(window, start) == bytes(whole[start : start + length])
    touched = [place for place in range(70) if any(a <= place < b for a, b in edits.ranges)]
    planned = {10 + 3 * row + byte for row in rows for byte in range(3)}
    assert set(touched) == planned | {34 + 5 * row + byte for row in more for byte in range(5)}
    if not touched:
        assert edits.expected(window, start) is window
