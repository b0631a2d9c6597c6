"""The three commands, and every bad input: message, exit status, nothing left behind."""

import json

import planted_model
import pytest
from planted_model import PLANTED, caption

from surgery.cli import main
from surgery.localization.scan import scan
from surgery.neurons import NeuronSet, read_neurons

CORPUS = [*map(caption, PLANTED), *planted_model.ordinary_captions(8, seed=5)]


@pytest.fixture(scope="module")
def prepared(planted_folder, tmp_path_factory):
    """A folder with prompts.txt and calibration.safetensors, made by the command."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "prompts.txt").write_text("\n".join(CORPUS))
    words = [
        "calibrate",
        str(planted_folder),
        "-o",
        str(folder / "calibration.safetensors"),
        "--score-prompts",
        "16",
    ]
    assert main([*words, "--device", "cpu", "--quiet"]) == 0
    return folder


def common(prepared):
    return ["--calibration", str(prepared / "calibration.safetensors"), "--device", "cpu"]


def test_localize_writes_the_neurons_and_prints_a_table(prepared, planted_folder, tmp_path, capsys):
    output = tmp_path / "neurons.json"
    words = ["localize", str(planted_folder), "--prompts", str(prepared / "prompts.txt"), "-o", str(output)]
    # Two deviations let one of the eight ordinary captions through.
    assert main([*words, *common(prepared), "--cutoff", "3"]) == 0
    printed = capsys.readouterr()
    planted = {pair for pairs in PLANTED.values() for pair in pairs}
    planted.remove(PLANTED["x"][0])  # with x's other row off, another pattern takes the place of its own
    assert read_neurons(output) == NeuronSet.from_pairs(planted)
    assert [path.name for path in tmp_path.iterdir()] == ["neurons.json"]  # the journal is gone
    table = printed.out.splitlines()
    assert table[0].split() == [
        "prompt",
        "outcome",
        "initial",
        "refined",
        "before",
        "after",
        "fresh",
        "replicas",
    ]
    assert sum(" localized " in line for line in table) == 5
    assert "5 neurons in 4 layers for 5 of 13 prompts" in printed.out
    assert "5 taps are used" in printed.err


def test_localize_prints_json_and_takes_single_prompts(prepared, planted_folder, tmp_path, capsys):
    words = [
        "localize",
        str(planted_folder),
        "--prompt",
        caption("w"),
        "-o",
        str(tmp_path / "n.json"),
        "--json",
        "--quiet",
    ]
    assert main([*words, *common(prepared)]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["layers"] == {PLANTED["w"][0][0]: [1, 6]}
    assert found["outcomes"] == {"localized": 1, "not_memorized": 0, "unresolved": 0}
    assert printed.err == ""


def test_unresolved_prompts_are_loud_and_strict_makes_them_a_gate(prepared, planted_folder, tmp_path, capsys):
    words = [
        "localize",
        str(planted_folder),
        "--prompt",
        caption("v"),
        "-o",
        str(tmp_path / "n.json"),
        "--quiet",
    ]
    words += [
        *common(prepared),
        "--criterion",
        "noise-changed",
        "--selection-threshold",
        "0.01",
        "--confirm-seed",
        "1000003",
    ]
    assert main(words) == 0
    assert "1 prompt(s) UNRESOLVED" in capsys.readouterr().err
    assert main([*words, "--strict"]) == 3
    err = capsys.readouterr().err
    assert "noise-changed cannot be reached" in err
    assert read_neurons(tmp_path / "n.json") == NeuronSet()


def test_scan_ranks_the_memorized_prompts_first_and_localize_reads_its_file(
    prepared, planted_folder, tmp_path, capsys
):
    ranking = tmp_path / "ranking.jsonl"
    words = [
        "scan",
        str(planted_folder),
        "--prompts",
        str(prepared / "prompts.txt"),
        "--only-memorized",
        "-o",
        str(ranking),
    ]
    assert main([*words, "--json", *common(prepared)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["prompts"] == 13
    assert {one["prompt"] for one in found["top"][:5]} == {caption(trigger) for trigger in PLANTED}
    assert found["work"]["unet_sample_forwards"] == sum(one["seeds"] for one in found["top"]) < 130
    order = [(one["memorized"], one["score"]) for one in found["top"]]
    assert order == sorted(order, reverse=True)
    assert len(ranking.read_text().splitlines()) == found["memorized"]
    output = tmp_path / "neurons.json"
    words = [
        "localize",
        str(planted_folder),
        "--prompts",
        str(ranking),
        "--limit",
        "1",
        "-o",
        str(output),
        "--json",
    ]
    assert main([*words, *common(prepared)]) == 0
    assert json.loads(capsys.readouterr().out)["outcomes"]["localized"] == 1


def test_scan_scores_do_not_depend_on_the_batch(planted, calibration):
    from surgery.localization.settings import LocalizeSettings

    by_batch = [
        scan(planted, CORPUS[:4], calibration=calibration, settings=LocalizeSettings(batch_size=size)).records
        for size in (40, 10, 3)
    ]
    for records in by_batch[1:]:
        assert [one.prompt for one in records] == [one.prompt for one in by_batch[0]]
        assert [one.score for one in records] == pytest.approx([one.score for one in by_batch[0]], rel=1e-3)


@pytest.mark.parametrize("detector", ["noise-magnitude", "noise-changed"])
def test_the_other_detectors_separate_memorized_from_ordinary(prepared, planted_folder, detector, capsys):
    words = ["scan", str(planted_folder), "--prompts", str(prepared / "prompts.txt"), "--detector", detector]
    assert main([*words, *common(prepared), "--quiet", "--top", "13"]) == 0
    rows = capsys.readouterr().out.splitlines()[1:14]
    top = {row[28:].strip() for row in rows[:5]}
    assert top == {caption(trigger) for trigger in PLANTED}
    assert all("memorized" in row for row in rows[:5])


def test_calibrate_prints_its_distributions(prepared, planted_folder, tmp_path, capsys):
    words = [
        "calibrate",
        str(planted_folder),
        "--score-prompts",
        "4",
        "--confirm-seeds",
        "0",
        "--device",
        "cpu",
    ]
    words += ["--cutoff", "3", "-o", str(tmp_path / "c.safetensors")]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "threshold of seeds-diverge" in printed
    assert "80 ordinary prompts (ordinary-prompts.txt)" in printed
    assert main([*words, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    prompts = facts["scores"]["prompts"]
    assert facts["thresholds"]["seeds-diverge"] == pytest.approx(
        prompts["mean"] + 3 * prompts["std"], rel=1e-4
    )
    assert "confirm_prompts" not in facts["scores"]


LOCALIZE = ["localize", "{model}", "--prompts", "{prompts}", "-o", "{out}/neurons.json"]


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ([*LOCALIZE[:1], "{out}/nothing", *LOCALIZE[2:]], "no such file or folder"),
        ([*LOCALIZE[:1], "{out}", *LOCALIZE[2:]], "no model_index.json"),
        ([*LOCALIZE[:3], "{out}/nothing.txt", *LOCALIZE[4:]], "no such file"),
        ([*LOCALIZE[:3], "{empty}", *LOCALIZE[4:]], "holds no prompt"),
        ([*LOCALIZE[:2], *LOCALIZE[4:]], "give either a file of prompts or --prompt"),
        ([*LOCALIZE[:5], "{out}/no/such/folder.json"], "no such folder"),
        ([*LOCALIZE[:5], "{out}"], "is a folder"),
        ([*LOCALIZE, "--criterion", "magic"], "there is no 'magic'"),
        ([*LOCALIZE, "--seeds", "1"], "less than 2"),
        ([*LOCALIZE, "--limit", "0"], "less than 1"),
        ([*LOCALIZE, "--theta-start", "nan"], "not a number"),
        ([*LOCALIZE, "--min-prompts", "0"], "less than 1"),
        ([*LOCALIZE, "--device", "abacus"], "cannot be used here"),
        ([*LOCALIZE, "--calibration", "{prompts}"], "is not a calibration"),
        ([*LOCALIZE, "--calibration", "{out}/none"], "no such file"),
        ([*LOCALIZE, "--ordinary", "{empty}"], "holds no prompt"),
        ([*LOCALIZE, "--calibration", "{calibration}", "--seed", "9"], "was made with seed 1, not 9"),
        ([*LOCALIZE, "--calibration", "{calibration}", "--journal", "{prompts}"], "is not a journal"),
        (["scan", "{model}", "--prompts", "{prompts}", "--detector", "nose"], "there is no 'nose'"),
        (["scan", "{model}", "--prompts", "{prompts}", "-o", "{out}/a/b"], "no such folder"),
        (["scan", "{empty}", "--prompts", "{prompts}"], "is no checkpoint"),
        (["calibrate", "{model}", "-o", "{out}/c", "--prompts", "{one}"], "single caption"),
        (["calibrate", "{model}", "-o", "{out}/c", "--score-prompts", "1"], "less than 2"),
    ],
)
def test_bad_input_is_one_line_exit_status_2_and_nothing_left_behind(
    words, cause, prepared, planted_folder, tmp_path, capsys
):
    inputs, out = tmp_path / "inputs", tmp_path / "out"
    inputs.mkdir()
    out.mkdir()
    (inputs / "empty.txt").write_text("\n")
    (inputs / "one.txt").write_text("a b\n")
    places = {
        "model": planted_folder,
        "prompts": prepared / "prompts.txt",
        "calibration": prepared / "calibration.safetensors",
        "empty": inputs / "empty.txt",
        "one": inputs / "one.txt",
        "out": out,
    }
    words = [word.format(**places) for word in words]
    assert main([*words, *([] if "--device" in words else ["--device", "cpu"])]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.strip().splitlines()) == 1, printed.err
    assert printed.err.startswith(f"surgery {words[0]}: ")
    assert cause in printed.err
    assert list(out.iterdir()) == []
