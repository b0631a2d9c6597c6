"""`diff --plan` believes the truth, whatever its layout, and no lie (`lies`), whatever its kind.

Every kind is told about a few layouts, drawn once and for all; `benchmarks/lies.py` tells thousands more.
"""

from __future__ import annotations

import random

import lies
import pytest

LAYOUTS_PER_KIND = 2
HARMLESS_PER_LAYOUT = 3
# these once let original weights through, depending on the layout and on the order of the tensors
EVERYWHERE = (
    "the layer added under its diffusers name",
    "the layer added under its single file name",
    "the layer added under its prefixless name",
    "the layer added under its denoiser inside denoiser name",
    "other numbers added under a tensor's second name",
    "a planned layer reshaped",
)
# said of a file or tensor by its name: for these kinds a violation must name what was changed
NAMED = (
    "a row restored in one copy",
    "a bias entry restored",
    "an unplanned row zeroed",
    "one bit flipped",
    "a tensor removed",
    "a tensor retyped",
    "the layer added transposed",
    "the layer added under its backup name",
    "metadata added",
    "a value of a configuration changed",
    "a word added to the tokenizer",
    "a program added",
    "original weights added as a pickle",
    "original weights added as safetensors",
    "a hidden folder added",
    "a further link to original weights",
    "bytes behind the data",
)


@pytest.fixture(scope="module", params=lies.LAYOUTS)
def layout(request, tmp_path_factory):
    return lies.make_layout(request.param, tmp_path_factory.mktemp("layout") / "of")


def kinds_told_about(layout) -> list[str]:
    """The kinds of lies whose draw fell on this layout; some twice."""
    found = []
    for kind, entry in lies.LIES.items():
        names = [name for name in lies.LAYOUTS if entry.applies(lies.described(name))]
        drawn = random.Random(kind).sample(names, min(LAYOUTS_PER_KIND, len(names)))
        if layout.name in (names if kind in EVERYWHERE else drawn):
            found += [kind] * (2 if kind in EVERYWHERE else 1)
    return found


def test_truth_is_believed(layout):
    assert lies.answer(layout, layout.patched) == (True, [])


def test_harmless_changes_are_believed(layout, tmp_path):
    names = random.Random(layout.name).sample(list(lies.HARMLESS), HARMLESS_PER_LAYOUT)
    for name in names:
        try:
            path = lies.HARMLESS[name](lies.fresh(layout, tmp_path / "told"))
        except lies.NotHere:
            continue
        assert (name, *lies.answer(layout, path)) == (name, True, [])


def test_no_lie_is_believed(layout, tmp_path):
    believed, unnamed = [], []
    for number, kind in enumerate(kinds_told_about(layout)):
        found = lies.tell(kind, layout, f"{number} {kind} {layout.name}", tmp_path / "told")
        assert found is not None, f"{kind} cannot be told about {layout.name}"
        told, words = found
        is_believed, said = lies.answer(layout, told.path)
        if is_believed:
            believed.append(kind)
        elif (
            kind in NAMED
            and layout.is_patched
            and not any(word and word in sentence for word in words for sentence in said)
        ):
            unnamed.append((kind, words, said[:3]))
    assert not believed
    assert not unnamed


def _is_named(words, said) -> bool:
    return any(word and word in sentence for word in words for sentence in said)


def test_kinds_are_many_and_named_ones_exist():
    assert len(lies.LIES) > 140
    assert set(NAMED + EVERYWHERE) <= set(lies.LIES) >= set(lies.ONCE_BELIEVED)
