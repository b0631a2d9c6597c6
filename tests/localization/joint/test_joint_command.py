"""The joint mask through the command line, on the testbed: three memories, then a price for them."""

import json

import pytest
import torch

from surgery.cli import main
from surgery.localization.joint.live import LivePrompts
from surgery.localization.settings import LocalizeSettings
from surgery.measures.pictures import to_bytes_range, to_png
from surgery.model.pipeline import load_pipeline
from surgery.model.work import Work
from surgery.neurons import read_neurons
from surgery.testbed.load import PLANTED_FOLDER, read_ground_truth, read_ordinary_prompts
from surgery.testbed.memories import draw_memory

NAMES = ("flag", "mountain", "umbrella")  # one row; two memories that share a row
SMALL = [
    "--device", "cpu", "--seeds", "3", "--confirm-seeds", "2", "--confirm-pictures", "0",
    "--no-second-look", "--criterion", "seeds-diverge",
]  # fmt: skip
JOINT = ["--joint", "--joint-seeds", "2", "--joint-steps", "2"]


@pytest.fixture(scope="module")
def memories():
    return [memory for memory in read_ground_truth() if memory.name in NAMES]


@pytest.fixture(scope="module")
def localized(memories, tmp_path_factory):
    """Runs `localize --joint` with more words; the prompts' own records are made once, and kept."""
    folder = tmp_path_factory.mktemp("joint")
    (folder / "prompts.txt").write_text("\n".join(memory.caption for memory in memories))
    (folder / "images").mkdir()
    for number, memory in enumerate(memories, start=1):
        picture = to_bytes_range(torch.from_numpy(draw_memory(memory)))
        (folder / "images" / f"{number}.png").write_bytes(to_png(picture))
    (folder / "ordinary.txt").write_text("\n".join(read_ordinary_prompts()[::98]))

    def run(name, *more):
        output = folder / f"{name}.json"
        words = [
            "localize", str(PLANTED_FOLDER), "--prompts", str(folder / "prompts.txt"), "-o", str(output),
            "--ordinary", str(folder / "ordinary.txt"), "--journal", str(folder / "journal"),
            "--images", str(folder / "images"), *SMALL, *JOINT, *more,
        ]  # fmt: skip
        return main(words), output

    return run


@pytest.fixture(scope="module")
def whole(localized):
    status, output = localized("whole", "--strict")
    assert status == 0
    return output


def test_one_mask_breaks_every_memory_and_holds_planted_rows_only(whole, memories):
    neurons, document = read_neurons(whole), json.loads(whole.read_text())
    planted = {memory.name: set(memory.neurons.pairs()) for memory in memories}
    chosen = set(neurons.pairs())
    assert chosen <= set().union(*planted.values())
    assert all(chosen & rows for rows in planted.values())
    joint = document["joint"]
    assert (joint["prompts"], joint["judged"], joint["broken"]) == (3, 3, 3)
    assert joint["neurons"] == len(chosen) <= joint["union"]
    assert {one["joint"]["against"] for one in document["prompts"]} == {"training image"}
    # at seeds that no search has seen nobody draws the picture any more, and everybody did
    settings = LocalizeSettings(joint=True, seeds=3, joint_seeds=2, joint_steps=2)
    live = LivePrompts(
        load_pipeline(PLANTED_FOLDER, device="cpu"),
        [memory.caption for memory in memories],
        read_ordinary_prompts()[::196],
        settings,
        Work(),
    )
    assert live.prompts == 3
    off = live.mask(neurons)
    assert all(live.on_fresh_seeds(number, off, 7)[0] for number in range(3))
    assert not any(live.on_fresh_seeds(number, frozenset(), 7)[0] for number in range(3))


def test_a_price_is_kept_and_ends_with_status_3_where_a_memory_stays(localized, whole, capsys):
    limit = 0.6 * json.loads(whole.read_text())["joint"]["change"]
    capsys.readouterr()
    status, output = localized("cheap", "--max-change", str(limit), "--strict")
    assert status == 3
    document = json.loads(output.read_text())
    assert 0 < document["joint"]["change"] <= limit
    assert read_neurons(output).count == document["joint"]["neurons"]
    left = [one["prompt"] for one in document["prompts"] if not one["joint"]["broken"]]
    assert 0 < len(left) < 3
    said = capsys.readouterr().err
    assert all(prompt in said for prompt in left)
    assert main(["plan", str(output), "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert set(left) <= set(planned["left"])
    assert planned["chosen"]["prompts"] == 3 - len(planned["left"])
