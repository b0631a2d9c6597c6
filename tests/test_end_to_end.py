"""The main job on the embedded testbed, through the command line, held against its ground truth."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from surgery.neurons import read_neurons
from surgery.testbed.load import PLANTED_FOLDER, read_ground_truth

TRUTH = {memory.name: memory for memory in read_ground_truth()}


def surgery(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "surgery", *map(str, arguments)], capture_output=True, text=True, cwd=cwd
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo's folder and its JSON line, two seeds a prompt to keep it short."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    done = surgery("demo", "-o", folder, "--seeds", 2, "--json")
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


def test_the_demo_ends_every_memory_and_little_else(demo):
    _, summary = demo
    assert summary["verbatim"]["before"] >= 0.9
    assert summary["verbatim"]["after"] <= 0.05
    assert summary["template"]["before"] >= 0.9
    assert summary["template"]["after"] <= 0.2
    assert summary["ordinary_change"] <= 0.33
    assert summary["own_guidance"]["replicas"] <= 0.05 * summary["own_guidance"]["pictures"]
    assert set(summary) == {
        "verbatim", "template", "own_guidance", "ordinary_change", "neurons", "seconds",
    }  # fmt: skip


def test_what_is_found_was_planted(demo):
    folder, summary = demo
    found = set(read_neurons(folder / "neurons.json").pairs())
    planted = {pair for memory in TRUTH.values() for pair in memory.neurons.pairs()}
    assert len(found) == summary["neurons"]
    assert len(found & planted) >= 0.95 * len(found)
    document = json.loads((folder / "neurons.json").read_text())
    assert list(document)[:2] == ["format", "layers"]
    outcomes = {record["prompt"]: record["outcome"] for record in document["prompts"]}
    for memory in TRUTH.values():
        assert outcomes[memory.caption] == "localized", memory.name


def test_the_demo_leaves_a_picture_and_a_loadable_checkpoint(demo):
    from diffusers import StableDiffusionPipeline
    from PIL import Image

    folder, summary = demo
    picture = Image.open(folder / "demo.png")
    assert picture.width > 600
    assert picture.height > 600
    StableDiffusionPipeline.from_pretrained(folder / "patched")
    details = json.loads((folder / "demo.json").read_text())
    assert details["verbatim"] == summary["verbatim"]
    assert set(details["memories"]) == set(TRUTH)
    # What is published quotes no memorized prompt.
    for file in (folder / "patched").rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not any(memory.caption.encode() in content for memory in TRUTH.values()), file


def test_zeroed_weights_and_hooks_predict_the_same_noise_to_the_bit(demo):
    from surgery.model.denoising import NoisePredictor, encode_prompts, seeded_latents
    from surgery.model.pipeline import load_pipeline

    folder, _ = demo
    neurons = read_neurons(folder / "neurons.json")
    source, patched = load_pipeline(str(PLANTED_FOLDER), "cpu"), load_pipeline(str(folder / "patched"), "cpu")
    latents = seeded_latents(source, 3, 4)
    for caption in (TRUTH["sunset"].caption, "a red circle"):
        conditioning = encode_prompts(source, [caption])
        plain = NoisePredictor(source).predict(latents, conditioning)
        hooked = NoisePredictor(source).predict(latents, conditioning, neurons)
        zeroed = NoisePredictor(patched).predict(latents, conditioning)
        assert torch.equal(hooked, zeroed)
        assert not torch.equal(plain, zeroed)


def test_step_by_step_with_the_commands(tmp_path):
    memories = [TRUTH["sunset"], TRUTH["face"], TRUTH["shelf"]]
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join([*(memory.caption for memory in memories), "a red circle"]) + "\n")
    neurons, patched = tmp_path / "neurons.json", tmp_path / "patched"
    done = surgery("localize", PLANTED_FOLDER, "--prompts", prompts, "-o", neurons)
    assert done.returncode == 0, done.stderr
    assert "not_memorized" in done.stdout
    found = set(read_neurons(neurons).pairs())
    assert found <= {pair for memory in memories for pair in memory.neurons.pairs()}
    assert all(found & set(memory.neurons.pairs()) for memory in memories)

    assert surgery("patch", PLANTED_FOLDER, neurons, "-o", patched).returncode == 0
    proven = surgery("diff", PLANTED_FOLDER, patched, "--plan", neurons)
    assert proven.returncode == 0, proven.stdout + proven.stderr

    other = tmp_path / "other.json"
    layer, row = sorted(found)[0]
    other.write_text(json.dumps({"format": "surgery.neurons/1", "layers": {layer: [row]}}))
    assert surgery("diff", PLANTED_FOLDER, patched, "--plan", other).returncode == 3


def test_a_recipe_does_the_whole_job(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(TRUTH["boat"].caption + "\n")
    shipped = Path(__file__).parent.parent / "recipes" / "testbed.toml"
    text = shipped.read_text().replace('"../surgery/testbed', f'"{shipped.parent.parent}/surgery/testbed')
    for name, few in (
        ("[localize]\n", "[calibrate]\nscore_prompts = 6\n[localize]\nseeds = 4\nconfirm_seeds = 2\n"),
        ("\nseeds = 4\nmore", "\nseeds = 2\nmore"),
        ("steps = 20\nordinary = 4\n", "steps = 4\nordinary = 1\n"),
    ):
        assert name in text
        text = text.replace(name, few)
    recipe = tmp_path / "testbed.toml"
    recipe.write_text(text)
    done = surgery("apply", recipe, "--prompts", prompts, "-o", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["prompts"] == 1
    assert summary["neurons"] >= 1
    assert [step["name"] for step in summary["steps"]] == [
        "calibrate", "localize", "patch", "diff", "audit", "card", "verify",
    ]  # fmt: skip
    found = set(read_neurons(tmp_path / "out.evidence" / "neurons.json").pairs())
    assert found <= set(TRUTH["boat"].neurons.pairs())
    assert surgery("verify", tmp_path / "out", "--source", PLANTED_FOLDER).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["demo", "-o", "{taken}"], "exists already"),
        (["demo", "-o", "{free}", "--seeds", "0"], "too few"),
        (["localize", "{absent}", "--prompts", "{prompts}", "-o", "{free}"], "no such file or folder"),
        (["localize", "{model}", "--prompts", "{absent}", "-o", "{free}"], "absent"),
        (["localize", "{model}", "--prompts", "{empty}", "-o", "{free}"], "empty"),
        (["localize", "{taken}", "--prompts", "{prompts}", "-o", "{free}"], "model_index.json"),
        (["localize", "{model}", "--prompts", "{prompts}", "-o", "{free}", "--criterion", "x"], "criterion"),
        (["apply", "{absent}", "-o", "{free}"], "no such recipe"),
        (["patch", "{model}", "{absent}", "-o", "{free}"], "no such file"),
        (["patch", "{model}", "{unknown}", "-o", "{free}"], "no.such.layer"),
        (["patch", "{model}", "{beyond}", "-o", "{free}"], "9999"),
        (["diff", "{model}", "{absent}"], "absent"),
        (["nonsense"], "invalid choice"),
    ],
)
def test_bad_input_gets_one_line_status_2_and_leaves_nothing(tmp_path, arguments, complaint):
    layer = sorted(TRUTH["sunset"].neurons)[0]
    (tmp_path / "taken").mkdir()
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    (tmp_path / "empty.txt").write_text("\n\n")
    for name, layers in (("unknown", {"no.such.layer": [1]}), ("beyond", {layer: [9999]})):
        (tmp_path / f"{name}.json").write_text(json.dumps({"format": "surgery.neurons/1", "layers": layers}))
    places = {
        "model": PLANTED_FOLDER,
        "taken": tmp_path / "taken",
        "free": tmp_path / "free",
        "absent": tmp_path / "absent",
        "prompts": tmp_path / "prompts.txt",
        "empty": tmp_path / "empty.txt",
        "unknown": tmp_path / "unknown.json",
        "beyond": tmp_path / "beyond.json",
    }
    before = sorted(tmp_path.rglob("*"))
    done = surgery(*(word.format(**places) for word in arguments))
    assert done.returncode == 2, done.stderr
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
    if arguments != ["nonsense"]:
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_the_twin_shares_all_but_the_unet_and_never_saw_a_planted_image(tmp_path):
    from surgery.localization.scan import scan
    from surgery.testbed.load import assemble_variant

    weights = Path(__file__).parent / "data" / "twin.safetensors"
    twin = assemble_variant(weights, tmp_path / "twin")
    captions = [memory.caption for memory in TRUTH.values()]
    in_planted, in_twin = (
        {record.prompt: record.score for record in scan(model, captions, threshold=0.5).records}
        for model in (PLANTED_FOLDER, twin)
    )
    for caption in captions:
        assert in_twin[caption] < in_planted[caption] - 0.1
    assert max(in_twin.values()) < min(in_planted.values())
