"""A hardening dealt out to processes: the edit of one, bit by bit, and going on with any number of them."""

import json
import pickle
from dataclasses import fields, is_dataclass, replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from launched import in_threads

from surgery import harden
from surgery.errors import SurgeryError
from surgery.hardening import ladder, sharing
from surgery.hardening.blinding_states import of_part
from surgery.hardening.dealing import Dealer, Job, groups_of
from surgery.hardening.material import gather
from surgery.hardening.settings import HardenSettings
from surgery.measures.similarity import named_similarity
from surgery.measures.subjects import subjects_from
from surgery.model.pipeline import load_pipeline
from surgery.neurons import NeuronSet
from surgery.ordinary import ordinary_prompts
from surgery.processes import Processes
from surgery.testbed.demo import training_images
from surgery.testbed.load import PLANTED_FOLDER, read_ground_truth

# two images a group: two pieces of each attack and of the paths under it, and both rounds attack
SMALL = HardenSettings(
    rungs=("hardened",), rounds=2, first_gate=2, embedding_steps=1, output_steps=1, attack_batch=1,
    blinding_states=4, further_steps=1, batch=2, keep_batch=2, positions=2, surrogates=1, ordinary=3,
    neighbors=1, drawing_steps=2, gate_embedding=1, gate_output=1, gate_controls=1, gate_ordinary=1,
    gate_seeds=1, gate_guidance=(1.0,), batch_size=2, trigger_rounds=0,
)  # fmt: skip
MEMORIES = read_ground_truth()[:3]
CAPTIONS = [memory.caption for memory in MEMORIES]
NEURONS = NeuronSet().union(*(memory.neurons for memory in MEMORIES))
IMAGES = dict(zip(CAPTIONS, training_images(MEMORIES), strict=True))


@pytest.fixture(scope="module")
def models():
    """One for each process."""
    return [load_pipeline(PLANTED_FOLDER, device="cpu", dtype="float32") for _ in range(3)]


@pytest.fixture(scope="module", autouse=True)
def quick():
    """No seconds in the record, and no secret: then nothing may differ. Only small layers are blinded, paths
    are short, and ordinary prompts are compared at one timestep.
    """
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("surgery.hardening.layer_inputs.MOST_INPUTS", 70)
        monkeypatch.setattr("surgery.hardening.attacked_paths.POSITIONS", 2)
        monkeypatch.setattr("surgery.hardening.gate.TIMESTEPS", 1)
        monkeypatch.setattr("surgery.hardening.ladder.time", SimpleNamespace(perf_counter=lambda: 0.0))
        monkeypatch.setattr("surgery.hardening.harden.secrets", SimpleNamespace(token_hex=lambda _: "salt"))
        monkeypatch.setattr("surgery.processes.SECONDS_TO_LOOK", 0)
        yield


def hardened(models, folder, count):
    """The files of the edit."""

    def work(processes):
        return harden(
            models[processes.rank], CAPTIONS, folder / "edit", neurons=NEURONS, images=IMAGES, settings=SMALL,
            keep_going=True, processes=processes,
        )  # fmt: skip

    results = in_threads(count, work)
    assert all(one.document == results[0].document and one.edit == folder / "edit" for one in results)
    return {file.name: file.read_bytes() for file in (folder / "edit").iterdir()}


@pytest.fixture(scope="module")
def alone(models, quick, tmp_path_factory):
    return hardened(models, tmp_path_factory.mktemp("alone"), 1)


@pytest.mark.parametrize(("count", "largest"), [(3, sharing.LARGEST), (2, 0)])
def test_several_processes_write_the_edit_of_one(models, alone, tmp_path, monkeypatch, count, largest):
    """Each has one term of a step; or every process trains alike by itself."""
    monkeypatch.setattr(sharing, "LARGEST", largest)
    assert hardened(models, tmp_path, count) == alone
    rounds = json.loads(alone["hardening.json"])["rungs"][0]["rounds"]
    assert [set(one["stages"]) >= {"attack", "blind", "train"} for one in rounds] == [True, True]
    assert [path.name for path in tmp_path.iterdir()] == ["edit"]


def test_a_hardening_goes_on_with_another_number_of_processes(models, alone, tmp_path, monkeypatch):
    """What two left is whole, and all three find it."""
    real = ladder._round

    def stopping(*given):
        if given[-1] == 1:
            raise SurgeryError("the machine", "was taken away")
        return real(*given)

    with monkeypatch.context() as patched, pytest.raises(SurgeryError, match=r"taken away|failed, so"):
        patched.setattr(ladder, "_round", stopping)
        hardened(models, tmp_path, 2)
    edit = hardened(models, tmp_path, 3)
    assert edit["edit.safetensors"] == alone["edit.safetensors"]
    rounds = [json.loads(one["hardening.json"])["rungs"][0]["rounds"] for one in (edit, alone)]
    assert rounds[0] == rounds[1]


def test_students_that_differ_become_that_of_the_first():
    def work(processes):
        content = {"weights": {"one": torch.full((2,), float(processes.rank))}, "optimizer": processes.rank}
        taken = []
        sharing.Sharing(sharing.Dealer(processes=processes)).agree(lambda: content, taken.append)
        return taken

    assert [[one["optimizer"] for one in taken] for taken in in_threads(3, work)] == [[0], [0], [0]]


def tensors_of(value):
    """All tensors of nested things, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if is_dataclass(value):
        value = [getattr(value, one.name) for one in fields(value)]
    if isinstance(value, dict):
        value = [value[name] for name in sorted(value)]
    return [found for one in value for found in tensors_of(one)] if isinstance(value, list | tuple) else []


def test_what_is_gathered_is_that_of_one_process(models, quick):
    """A memory without an image or rows is there, and a picture of the user's; nothing is asked twice."""
    captions, ordinary = CAPTIONS[:2], ordinary_prompts(str(PLANTED_FOLDER))[0]
    subjects = subjects_from(tuple(captions), {captions[0]: IMAGES[captions[0]]}, None, (64, 64))
    given = ordinary, [("a red circle", IMAGES[CAPTIONS[2]])], named_similarity("edges"), SMALL

    def work(processes):
        dealer, ran = Dealer(processes=processes), []
        hook = models[processes.rank].denoiser.register_forward_pre_hook(
            lambda module, arguments, keywords: ran.append(len((*arguments, *keywords.values())[0])),
            with_kwargs=True,
        )  # copies keep it
        try:
            found = gather(models[processes.rank], subjects, MEMORIES[0].neurons, *given, dealer)
        finally:
            hook.remove()
        return tensors_of(found), dealer.work.unet_sample_forwards, sum(ran)

    ((alone, spent, ran),) = in_threads(1, work)
    assert spent == ran
    shared = in_threads(2, work)
    assert sum(ran for _, _, ran in shared) == spent
    for found, booked, _ in shared:
        assert booked == spent
        assert all(torch.equal(one, other) for one, other in zip(found, alone, strict=True))


def test_what_comes_of_pieces_crosses_in_bundles(monkeypatch):
    """Six results of 4,000 bytes, two in a bundle: nobody sends more at once, and each job has its own."""
    monkeypatch.setattr("surgery.hardening.dealing.BUNDLE_BYTES", 10_000)
    sent, real = [], Processes.gather

    def gather(self, value):
        sent.append(len(pickle.dumps(value)))
        return real(self, value)

    monkeypatch.setattr(Processes, "gather", gather)

    def work(processes):
        first = Job([partial(torch.full, (1000,), float(place)) for place in range(4)], torch.stack)
        second = Job([partial(torch.full, (1000,), 9.0)] * 2, len)
        return Dealer(processes=processes).made_of(first, second)

    for stacked, count in in_threads(2, work):
        assert stacked[:, 7].tolist() == [0, 1, 2, 3] and count == 2
    assert 4_000 < max(sent) < 11_000


@pytest.mark.parametrize(("batches", "parts"), [(24, 8), (6, 4), (13, 8), (8, 8)])
def test_parts_of_two_halves_are_alike(batches, parts):
    """Every batch is in one part; neither half of the parts, which a process has, holds two batches more."""
    dealt = [of_part(range(batches), part, parts) for part in range(parts)]
    assert sorted(batch for part in dealt for batch in part) == list(range(batches))
    halves = [sum(map(len, dealt[: parts // 2])), sum(map(len, dealt[parts // 2 :]))]
    assert abs(halves[0] - halves[1]) <= 1


def test_groups_fill_one_call_of_the_denoiser_whatever_the_number_of_processes():
    default = HardenSettings()
    assert [(one.start, one.stop) for one in groups_of(18, default)] == [(0, 8), (8, 16), (16, 18)]
    assert [(one.start, one.stop) for one in groups_of(3, replace(default, batch_size=1))] == [
        (0, 1), (1, 2), (2, 3),
    ]  # fmt: skip
