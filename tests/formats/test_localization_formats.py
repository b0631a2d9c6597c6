"""What `localize`, `calibrate` and `scan` write is described, and what is described is written."""

import copy
import json
import struct

import pytest
import torch
from described import Described, held_against
from PIL import Image
from smallest import CORPUS, SEARCH

import surgery
from surgery import formats
from surgery.formats import RECORD
from surgery.localization.calibration_file import write_calibration
from surgery.localization.scan import scan
from surgery.measures.pictures import picture_size


def test_neurons_json_is_described(localized):
    described = held_against(formats.NEURONS, localized[0])
    by_hand = {"format": formats.NEURONS.tag, "layers": {"mid_block.attn2.to_v": [3]}}
    described.check(by_hand)
    described.assert_complete()


def test_the_journal_is_described(model, calibration, localized, tmp_path):
    _, (header, *records) = localized
    black = torch.zeros(3, *picture_size(model), dtype=torch.uint8)
    surgery.localize(
        model, CORPUS[2:], settings=SEARCH, calibration=calibration, images={CORPUS[2]: black},
        journal=tmp_path / "journal",
    )  # fmt: skip
    with_images = json.loads((tmp_path / "journal").read_text().splitlines()[0])
    held_against(formats.JOURNAL, header, with_images).assert_complete()
    # what is known when the whole corpus has been seen is not in the journal
    later = ("final", "joint", "second_look.corrected")
    described = Described(tuple(one for one in RECORD if not one.path.startswith(later)))
    for record in records:
        described.check(record)
    described.assert_complete()


def test_the_calibration_is_described(model, calibration, tmp_path):
    write_calibration(calibration, tmp_path / "calibration.safetensors")
    content = (tmp_path / "calibration.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    held_against(formats.CALIBRATION, json.loads(header.pop("__metadata__")["surgery"])).assert_complete()
    kinds = {name.partition("/")[0] + "/*" for name in header}
    assert kinds == {tensor.path for tensor in formats.CALIBRATION.tensors}
    assert all(tensor["dtype"] == "F32" and len(tensor["shape"]) == 1 for tensor in header.values())


def test_the_ranking_and_its_journal_are_described(model, calibration, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number in (1, 2):
        Image.linear_gradient("L").save(images / f"{number}.png")
    records = scan(
        model, CORPUS, settings=SEARCH, calibration=calibration, images=images, journal=tmp_path / "journal"
    ).records
    held_against(formats.SCAN, *(record.as_json() for record in records)).assert_complete()
    header, *lines = [json.loads(line) for line in (tmp_path / "journal").read_text().splitlines()]
    held_against(formats.SCAN_JOURNAL, header).assert_complete()
    held_against(formats.SCAN, *lines).assert_complete()


def test_a_field_that_nobody_described_is_noticed(localized):
    document = copy.deepcopy(localized[0])
    document["prompts"][0]["surprise"] = 1
    with pytest.raises(AssertionError, match="surprise is not described"):
        held_against(formats.NEURONS, document)
    document["prompts"][0] = {**localized[0]["prompts"][0], "k": "three"}
    with pytest.raises(AssertionError, match="is 'three', not integer"):
        held_against(formats.NEURONS, document)
