"""`scan --images`: captions of images that occur often come first, with all seeds, and are named."""

import json

import planted_model
import pytest
from PIL import Image
from planted_model import caption

from surgery.cli import main
from surgery.localization.calibration_file import write_calibration

ORDINARY = planted_model.ordinary_captions(5, seed=5)
DUPLICATED = [ORDINARY[3], caption("v")]


@pytest.fixture
def words(planted_folder, calibration, tmp_path):
    """The command without its options; the last ordinary caption's image has no copy."""
    (tmp_path / "prompts.txt").write_text("\n".join([*ORDINARY, caption("v")]))
    write_calibration(calibration, tmp_path / "c.safetensors")
    images = tmp_path / "images"
    images.mkdir()
    gradient = Image.linear_gradient("L")
    rows = ["prompt,image"]
    for number, (prompt, picture) in enumerate(
        [
            (DUPLICATED[0], gradient),
            (DUPLICATED[1], gradient.resize((100, 100))),
            (ORDINARY[4], Image.radial_gradient("L")),
            ("a caption of another corpus", gradient.resize((64, 64))),
        ]
    ):
        picture.save(images / f"{number}.png")
        rows.append(f"{prompt},{number}.png")
    (images / "images.csv").write_text("\n".join(rows))
    return [
        *("scan", str(planted_folder), "--prompts", str(tmp_path / "prompts.txt")),
        *("--calibration", str(tmp_path / "c.safetensors"), "--images", str(images)),
        *("--device", "cpu", "--quiet"),
    ]


def test_duplicated_captions_are_scanned_first_and_in_full(words, tmp_path, capsys):
    journal, output = tmp_path / "journal", tmp_path / "r.jsonl"
    assert main([*words, "-o", str(output), "--journal", str(journal), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"] == {
        "pictures": 4, "featureless": 0, "without_caption": 1, "duplicated": 3, "captions": 2
    }  # fmt: skip
    scanned = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    assert [line["prompt"] for line in scanned[:2]] == DUPLICATED
    assert {line["prompt"]: line["copies"] for line in scanned if line["copies"]} == dict.fromkeys(
        DUPLICATED, 2
    )
    assert all(line["seeds"] == 10 for line in scanned[:2])
    ranking = [json.loads(line) for line in output.read_text().splitlines()]
    assert ranking[0]["prompt"] == caption("v")
    assert len(ranking) == 6


def test_only_duplicated_captions(words, capsys):
    assert main([*words, "--only-duplicated"]) == 0
    printed = capsys.readouterr().out
    assert "1 of 2 prompts" in printed
    assert "(2 near-duplicates)" in printed
    assert main([*words, "--only-duplicated", "--near", "99"]) == 2
    assert "give 0 to 15" in capsys.readouterr().err
