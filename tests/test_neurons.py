"""`NeuronSet` and its file."""

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.errors import UsageError
from surgery.neurons import FORMAT, NeuronSet, read_neurons

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
layer_names = st.from_regex(r"[a-z]{1,4}(\.[a-z0-9]{1,3}){1,3}", fullmatch=True)
rows = st.lists(st.integers(0, 50), max_size=6)
sets = st.dictionaries(layer_names, rows, max_size=5).map(NeuronSet)


def write(path, document):
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def test_rows_are_sorted_and_unique_and_empty_layers_vanish():
    neurons = NeuronSet({"a.b": [3, 1, 3], "c.d": []})
    assert dict(neurons) == {"a.b": (1, 3)}
    assert neurons.count == 2


def test_the_weight_suffix_is_the_same_layer():
    assert NeuronSet({LAYER + ".weight": [1]}) == NeuronSet({LAYER: [1]})


@given(sets, sets)
def test_union_holds_exactly_the_neurons_of_both(first, second):
    assert set(first.union(second).pairs()) == set(first.pairs()) | set(second.pairs())


@given(sets)
def test_a_set_survives_its_file(tmp_path_factory, neurons):
    path = tmp_path_factory.mktemp("neurons") / "neurons.json"
    assert read_neurons(write(path, {"format": FORMAT, "layers": neurons.as_json()})) == neurons


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ("{", "not valid JSON"),
        ("[]", "format"),
        ({"format": "surgery.neurons/2", "layers": {}}, "format"),
        ({"format": FORMAT}, "no `layers`"),
        ({"format": FORMAT, "layers": {LAYER: [-1]}}, "-1"),
        ({"format": FORMAT, "layers": {LAYER: [1.0]}}, "1.0"),
        ({"format": FORMAT, "layers": {LAYER: [True]}}, "True"),
        ({"format": FORMAT, "layers": {LAYER: 3}}, "list of integers"),
        ({"format": FORMAT, "layers": {LAYER: "12"}}, "list of integers"),
        ({"format": FORMAT, "layers": {"../etc/passwd": [1]}}, "not the name of a layer"),
        (f'{{"format": "{FORMAT}", "layers": {{"a.b": [1], "a.b": [2]}}}}', "stands twice"),
        ("[" * 100000, "not valid JSON"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path, document, complaint):
    path = write(tmp_path / "neurons.json", document)
    with pytest.raises(UsageError) as error:
        read_neurons(path)
    assert complaint in str(error.value)
    assert str(path) in str(error.value)


def test_two_spellings_of_one_layer_are_joined():
    assert NeuronSet({LAYER: [1], LAYER + ".weight": [2]}) == NeuronSet({LAYER: [1, 2]})


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        read_neurons(tmp_path / "absent.json")


@pytest.mark.parametrize("kind", ["sparse", "pipe", "folder"])
def test_what_never_ends_is_not_read(tmp_path, kind):
    path = tmp_path / "neurons.json"
    if kind == "sparse":
        with path.open("wb") as file:
            file.truncate(3 << 30)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(UsageError, match="is no regular file of at most 64 MB"):
        read_neurons(path)
