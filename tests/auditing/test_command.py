"""The command line: gates, bad inputs, nothing half-written."""

import argparse
import io
import json
import logging
import shlex
import subprocess
import sys

import made_up_findings
import pytest
import torch
from made_up_findings import STRONG

from surgery.auditing import audit as audit_module
from surgery.auditing.report.document import audit_document
from surgery.auditing.settings import STANDARD, AuditSettings
from surgery.cli import main
from surgery.commands.audit import add_arguments, table
from surgery.errors import UsageError
from surgery.image_files import slug
from surgery.measures.pictures import to_png
from surgery.measures.subjects import subjects_from
from surgery.options import settings_from

SMALL = [
    "--seeds",
    "2",
    "--steps",
    "2",
    "--guidance",
    "1",
    "--ordinary-count",
    "1",
    "--more-seeds",
    "1",
    "--similarity",
    "edges",
    "--device",
    "cpu",
    "--quiet",
]


@pytest.fixture(scope="module")
def folders(tiny_pipeline, tmp_path_factory):
    """A source checkpoint, a copy with one row zeroed, prompts, ordinary prompts."""
    folder = tmp_path_factory.mktemp("command")
    tiny_pipeline.save_pretrained(folder / "source")
    layer = tiny_pipeline.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2.to_v")
    kept = layer.weight[7].detach().clone()
    with torch.no_grad():
        layer.weight[7] = 0
        tiny_pipeline.save_pretrained(folder / "patched")
        layer.weight[7] = kept
    (folder / "prompts.txt").write_text("a red circle\nblue ring\n")
    (folder / "ordinary.txt").write_text("a green star\nwhite cross\n")
    return folder


def command(folders, output, *more):
    return [
        "audit", str(folders / "source"), str(folders / "patched"), "--prompts", str(folders / "prompts.txt"),
        "--ordinary", str(folders / "ordinary.txt"), "-o", str(output), *SMALL, *more,
    ]  # fmt: skip


def test_exit_status_follows_the_required_gate(folders, tmp_path, capsys):
    # every picture is a replica at this threshold, none at the other
    low, high = ("--threshold", "-2"), ("--threshold", "2")
    assert main(command(folders, tmp_path / "a", *low)) == 0
    printed = capsys.readouterr().out
    assert "still replicates: 2 of 2" in printed and "ordinary prompts" in printed
    assert main(command(folders, tmp_path / "b", *low, "--require", "replication")) == 3
    assert "the gate `replication` does not hold" in capsys.readouterr().err
    assert main(command(folders, tmp_path / "c", *high, "--require", "replication", "--json")) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["verdict"] == "not tested" and document["neurons"]["count"] == 1
    assert {entry["code"] for entry in document["prompts"]} == {"not-in-source"}
    assert document["models"]["patched"]["sha256"] and document["models"]["patched"]["name"] == "patched"
    assert str(tmp_path) not in json.dumps(document), "a path of this machine is in the document"
    assert main(command(folders, tmp_path / "d", *high, "--require", "attack")) == 3


def test_the_table_shows_what_the_verdict_used():
    attacks = {"embedding": [0.02, 0.83], "output": [0.01, 0.01]}
    document = audit_document(made_up_findings.findings(attacks, STRONG), include_private=False)
    lines = table(document).splitlines()
    assert len(lines[1:]) >= 4 and "embedding 200" in lines[1] and "output 50" in lines[2]
    judged = document["prompts"][1]["attacks"]["embedding"]["judged"]
    for shown in ("0.83", f"{judged['corrected_p_value']:.3f}", "1.000", "hidden, not removed"):
        assert shown in lines[3]
    assert lines[1].endswith("removed (embedding 200, output 50; 24 controls, 4 canaries)")
    assert document["sentence"] in lines and f"{document['phrase']}: {document['reason']}" in lines


def test_a_dry_run_refuses_what_the_audit_would_refuse(folders, tmp_path, capsys):
    assert main(command(folders, tmp_path / "out", "--dry-run", "--ordinary", str(tmp_path / "none"))) == 2
    assert "no such file" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_dry_run_says_what_it_would_cost_and_writes_nothing(folders, tmp_path, capsys):
    words = command(folders, tmp_path / "out", "--dry-run", "--attack", "embedding", "--controls", "24")
    words[1:3] = ["no", "model"]  # none is loaded
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "prompts:  2, 0 with a training image" in printed and "controls: 24; 19 are the least" in printed
    assert "attack: embedding" in printed
    assert "at most: not found by embedding 50" in printed and "`removed` takes" in printed
    assert main([*words, "--json", "--twin", "another"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["at_most"]["phrase"] == "not found by embedding 50"
    assert found["sample_forwards"] == sum(stage["sample_forwards"] for stage in found["stages"])
    assert not (tmp_path / "out").exists()
    assert main([*words, "--prompts", "absent.txt"]) == 2
    assert "no such file" in capsys.readouterr().err


def test_only_a_dry_run_needs_no_output(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = command(folders, "out")
    place = words.index("-o")
    del words[place : place + 2]
    assert main([*words, "--dry-run"]) == 0
    assert "prompts:  2" in capsys.readouterr().out
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("surgery audit: -o: is missing; ")
    assert not list(tmp_path.iterdir())


def test_the_command_is_recorded_as_it_was_given_also_when_called_as_a_function(folders, tmp_path, capsys):
    words = command(folders, tmp_path / "private", "--include-private", "--json")
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["command"] == shlex.join(["surgery", *words])
    assert main(command(folders, tmp_path / "public", "--json")) == 0
    recorded = json.loads(capsys.readouterr().out)["command"]
    assert recorded.startswith("surgery audit source patched --prompts prompts.txt")
    assert str(tmp_path) not in recorded


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        (["--seeds", "1"], "seeds: 1 is less than 2"),
        (["--curve", "10,5"], "does not rise"),
        (["--similarity", "sight"], "is not a similarity measure"),
        (["--sscd", "absent.pt"], "no such file"),
        (["--images", "absent"], "no such folder"),
        (["--control-images", "absent"], "no such folder"),
        (["--neurons", "absent.json"], "no such file"),
        (["--correction", "none"], "there is no 'none'"),
        (["--attack", "embedding,magic"], "there is no 'magic'"),
        (["--attack-seeds", "2"], "is less than 8"),
        (["--learning-rate", "0"], "is not positive"),
        (["--alpha", "2"], "is no level of a test"),
        (["--tolerance", "1"], "is not a share"),
        (["--fid-reference", "."], "need a feature extractor"),
        (["--ordinary", "absent.txt"], "no such file"),
        (["--ordinary", "memory.txt"], "no caption but the prompts"),
        (["--ordinary", "memory.txt", "--dry-run"], "no caption but the prompts"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(folders, tmp_path, capsys, more, cause, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "memory.txt").write_text((folders / "prompts.txt").read_text())
    assert main(command(folders, tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err.strip()
    assert cause in error and len(error.splitlines()) == 1 and error.startswith("surgery audit: ")
    assert not list((tmp_path / "out").glob("audit.*")) and not (tmp_path / "out" / "state").exists()


def test_options_become_settings_and_the_others_keep_their_defaults():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    needed = ["A", "B", "--prompts", "p.txt", "-o", "out"]
    assert settings_from(AuditSettings, parser.parse_args(needed)) == AuditSettings()
    more = ["--ordinary-count", "5", "--ordinary", "o.txt", "--curve", "0,3", "--attack", "--raw-images"]
    parsed = parser.parse_args([*needed, *more, "--attack-guidance", "2", "--sscd", "x.pt"])
    assert parsed.ordinary_file == "o.txt"
    expected = {"ordinary": 5, "curve": (0, 3), "attack": STANDARD, "raw_images": True}
    assert settings_from(AuditSettings, parsed) == AuditSettings(
        **expected, attack_guidance=(2.0,), sscd="x.pt"
    )
    named = settings_from(AuditSettings, parser.parse_args([*needed, "--attack", "latent,graft"]))
    assert named.attack == ("latent", "graft")


def test_a_curve_that_is_no_list_of_numbers_is_wrong_use(folders, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(command(folders, tmp_path / "out", "--curve", "5,x"))
    assert stopped.value.code == 2 and "'5,x' are not numbers" in capsys.readouterr().err


def test_help_waits_for_nothing_heavy():
    code = (
        "import sys, surgery.cli\n"
        "try:\n    surgery.cli.main(['audit', '--help'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'scipy', 'PIL', 'tqdm', 'diffusers', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "default: 0,10,25,50" in done.stdout and "default: benjamini-hochberg" in done.stdout


def test_cut_prompts_are_counted_once_and_the_libraries_stay_silent(folders, tmp_path, capsys):
    long = " ".join(["a red circle and a blue ring"] * 30)
    (tmp_path / "prompts.txt").write_text(f"{long}\nblue ring\n")
    (tmp_path / "ordinary.txt").write_text(f"{long} again\nwhite cross\n")
    libraries = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    logged = logging.StreamHandler(io.StringIO())

    def heard(name, *more):
        words = command(folders, tmp_path / name, "--threshold", "2", *more)
        words[words.index("--prompts") + 1] = str(tmp_path / "prompts.txt")
        words[words.index("--ordinary") + 1] = str(tmp_path / "ordinary.txt")
        words[words.index("--ordinary-count") + 1] = "2"
        words.remove("--quiet")
        assert main([*words, *more]) == 0
        return capsys.readouterr().err

    for library in libraries:
        library.addHandler(logged)
    try:
        said, silent = heard("loud"), heard("quiet", "--quiet")
    finally:
        for library in libraries:
            library.removeHandler(logged)
    assert "note: 1 of 2 ordinary prompts and 1 of 2 prompts are longer than the text encoder reads" in said
    assert said.count("note:") == 1 and "note:" not in silent
    assert "truncated" not in logged.stream.getvalue() and "Token indices" not in logged.stream.getvalue()
    assert logged.filters == [], "the libraries may speak again after the audit"


def test_models_that_do_not_belong_together_are_refused(folders, tmp_path, planted):
    other = planted.pipeline(planted.model)
    other.unet.register_to_config(sample_size=8)
    with pytest.raises(UsageError, match="latents differ"):
        audit_module.audit(folders / "source", other, ["a red circle"], output=tmp_path, device="cpu")
    with pytest.raises(UsageError, match="no such file or folder"):
        audit_module.audit(folders / "absent", other, ["a red circle"], output=tmp_path)
    with pytest.raises(UsageError, match="there are none"):
        audit_module.audit(folders / "source", folders / "patched", [" "], output=tmp_path)


def test_seeds_of_localization_are_refused(folders, tmp_path):
    from surgery.auditing.identity import neuron_counts

    layer = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
    document = {
        "format": "surgery.neurons/1",
        "layers": {layer: [7]},
        "settings": {"seed": 0, "confirm_seed": 1_000_003},
        "prompts": [{"prompt": "x", "refined": {layer: [7]}}, {"prompt": "y", "refined": {layer: [7, 8]}}],
    }
    path = tmp_path / "neurons.json"
    path.write_text(json.dumps(document))
    assert neuron_counts(path, [5]) == {layer: {7: 2, 8: 1}}
    with pytest.raises(UsageError, match="localization used seed 0"):
        neuron_counts(path, [0, 1])


def test_prompts_find_their_images(tmp_path):
    shown = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    prompts = ["A red circle!", "blue ring", "green star"]
    by_name = tmp_path / "by name"
    by_name.mkdir()
    (by_name / "a-red-circle.png").write_bytes(to_png(shown[0]))
    (by_name / "a-red-circle.mask.png").write_bytes(to_png(torch.full((3, 32, 32), 255, dtype=torch.uint8)))
    (by_name / "003.png").write_bytes(to_png(shown[2]))
    found = subjects_from(prompts, by_name, None, (32, 32))
    assert torch.equal(found[0].image, shown[0]) and bool(found[0].mask.all())
    assert found[1].image is None and torch.equal(found[2].image, shown[2])
    table = tmp_path / "table"
    table.mkdir()
    (table / "x.png").write_bytes(to_png(shown[3]))
    (table / "images.csv").write_text('prompt,image\n"A red circle!",x.png\n')
    assert torch.equal(subjects_from(prompts, table, None, (32, 32))[0].image, shown[3])
    (table / "images.csv").write_text("prompt,image\nblue ring\n")
    with pytest.raises(UsageError, match="line 2"):
        subjects_from(prompts, table, None, (32, 32))
    (table / "images.csv").write_text("prompt,image\nblue ring,gone.png\n")
    with pytest.raises(UsageError, match="no such picture"):
        subjects_from(prompts, table, None, (32, 32))
    with pytest.raises(UsageError, match="none of the prompts"):
        subjects_from(["something else"], by_name, None, (32, 32))
    assert slug("  Van Gogh's café, 1888 ") == "van-gogh-s-caf-1888"
