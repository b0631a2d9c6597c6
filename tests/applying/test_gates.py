"""What a gate says no to, what is refused before any work, and what a dry run says. No model is run."""

import json
import shutil
from pathlib import Path

import pytest
from small_recipes import AUDIT, SEARCH, write_small_recipe

from surgery.applying.apply import apply_recipe
from surgery.applying.forecast import plan_recipe
from surgery.applying.results import UNCHANGED
from surgery.errors import UsageError
from surgery.testbed.load import PLANTED_FOLDER

OLD, NEW = "a" * 40, "b" * 40
GIVEN = '[localize]\nneurons = "neurons.json"\n'
NO_AUDIT = "audit = false\n"


@pytest.fixture
def by_hand(write_recipe, given_neurons, surgery_run, tmp_path):
    """Apply a recipe whose neurons are given: returns (status, JSON, stderr)."""

    def run(*outcomes, head=NO_AUDIT, body="", options=()):
        given_neurons(*outcomes)
        recipe = write_recipe(body=GIVEN + body, head=head)
        status, out, err = surgery_run("apply", recipe, "-o", tmp_path / "out", "--json", "--quiet", *options)
        return status, json.loads(out or "null"), err

    return run


def test_a_declined_audit_is_said_aloud_and_passes(by_hand, tmp_path):
    status, summary, error = by_hand("localized")
    assert (status, summary["passed"], summary["verdict"]) == (0, True, None)
    assert "NOTHING WAS AUDITED" in error
    assert (
        "not audited" in (tmp_path / "out" / "README.md").read_text().lower()
        or "no audit" in (tmp_path / "out" / "README.md").read_text()
    )
    manifest = json.loads((tmp_path / "out" / "surgery-manifest.json").read_text())
    assert manifest["published"]["audit"] is None and not manifest["published"]["gate"]["passed"]


def test_an_audit_that_nobody_decided_about_is_a_gate_that_says_no(by_hand):
    status, summary, error = by_hand("localized", head="")
    assert status == 3 and not summary["passed"]
    assert "NOTHING WAS AUDITED" in error and "do not publish" in error


@pytest.mark.parametrize(
    ("outcomes", "unresolved", "unconfirmed"),
    [(("localized", "unconfirmed"), 0, 1), (("unresolved", "localized"), 1, 0)],
)
def test_a_memory_that_is_left_is_never_passed_over(by_hand, outcomes, unresolved, unconfirmed):
    status, summary, error = by_hand(*outcomes)
    assert (status, summary["unresolved"], summary["unconfirmed"]) == (3, unresolved, unconfirmed)
    assert "do not publish" in error


def test_a_first_version_recipe_ends_honestly(write_recipe, given_neurons, surgery_run, tmp_path):
    given_neurons("localized")
    path = write_recipe(body=GIVEN)
    path.write_text(
        path.read_text().replace("surgery.recipe/2", "surgery.recipe/1").replace('images = "images"\n', "")
    )
    status, _, error = surgery_run("apply", path, "-o", tmp_path / "out", "--quiet")
    assert status == 3 and "NOTHING WAS AUDITED" in error


def test_the_proof_is_asked_whatever_else_was(by_hand, monkeypatch):
    """A patch that goes wrong in one row more than the plan."""
    from surgery.applying.steps import patch as step
    from surgery.neurons import NeuronSet, read_neurons

    def patch_more(source, neurons, output, **options):
        more = read_neurons(neurons).union(step_more(read_neurons(neurons)))
        return original(source, more, output, **options)

    def step_more(neurons):
        layer, rows = next(iter(neurons.items()))
        return NeuronSet({layer: [(rows[-1] + 1) % 8]})

    original = step.patch
    monkeypatch.setattr(step, "patch", patch_more)
    status, summary, error = by_hand("localized")
    assert (status, summary) == (3, None)
    assert "more than the plan" in error
    monkeypatch.setattr(step, "patch", original)
    assert by_hand("localized")[0] == 0  # what was written wrongly is written anew


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A hand-made Hub cache: `main` is the newer commit, whose text encoder differs from the older one's."""
    model = tmp_path / "cache" / "models--me--model"
    shutil.copytree(PLANTED_FOLDER, model / "snapshots" / OLD)
    shutil.copytree(model / "snapshots" / OLD, model / "snapshots" / NEW)
    weights = model / "snapshots" / NEW / "text_encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(NEW)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    return "me/model"


def hub_recipe(path: Path, revision: str, source: str) -> None:
    text = path.read_text().replace(str(PLANTED_FOLDER.resolve()), source)
    path.write_text(text.replace("[corpus]", f'revision = "{revision}"\n[corpus]'))


@pytest.mark.parametrize(("revision", "commit"), [(OLD, OLD), ("main", NEW)])
def test_everything_is_of_the_recipe_s_revision(
    write_recipe, given_neurons, cached, tmp_path, revision, commit
):
    """Not of `main`, which may hold other weights."""
    given_neurons("localized")
    path = write_recipe(body=GIVEN, head=NO_AUDIT)
    hub_recipe(path, revision, cached)
    applied = apply_recipe(path, tmp_path / "out")
    source = json.loads((applied.output / "surgery-manifest.json").read_text())["source"]
    assert (source["name"], source["revision"], applied.exit_status) == (cached, commit, 0)
    assert f"base_model: {cached}" in (applied.output / "README.md").read_text()


def test_a_folder_has_no_revision(write_recipe, given_neurons, cached, tmp_path, surgery_run):
    given_neurons("localized")
    path = write_recipe(body=GIVEN, head=NO_AUDIT)
    copy = shutil.copytree(PLANTED_FOLDER, tmp_path / "copy")
    hub_recipe(path, OLD, cached)
    # in the place of the recipe's model, its revision is not meant
    assert surgery_run("apply", path, "-o", tmp_path / "out", "--model", copy, "--quiet")[0] == 0
    path = write_recipe(body=GIVEN, head=NO_AUDIT)
    hub_recipe(path, OLD, str(copy))
    status, _, error = surgery_run("apply", path, "-o", tmp_path / "new", "--quiet")
    assert status == 2 and "only a Hub id has revisions" in error and not (tmp_path / "new").exists()


def test_a_single_file_becomes_a_folder_that_verifies(given_neurons, write_recipe, tmp_path):
    from surgery.publish.verify import verify

    given_neurons("localized")
    path = write_recipe(body=GIVEN, head=NO_AUDIT)
    single = tmp_path / "denoiser.safetensors"
    shutil.copy(PLANTED_FOLDER / "unet" / "diffusion_pytorch_model.safetensors", single)
    applied = apply_recipe(path, tmp_path / "out", model=single)
    assert {file.name for file in applied.output.iterdir()} == {
        "denoiser.safetensors", "denoiser.safetensors.surgery-manifest.json", "README.md",
    }  # fmt: skip
    assert verify(applied.output, source=single).ok
    again = apply_recipe(path, tmp_path / "out", model=single)
    assert {step.state for step in again.steps} == {UNCHANGED}


def everything(folder: Path) -> dict[Path, object]:
    return {
        path: [path.stat().st_mtime_ns, path.is_file() and path.read_bytes()] for path in folder.rglob("*")
    }


@pytest.mark.parametrize(
    ("body", "corpus", "options", "complaint"),
    [
        ("[localise]\n", "", (), "did you mean 'localize'?"),
        (SEARCH + "[audit]\nsteps = true\n", "", (), "is not of type integer"),
        (SEARCH + "[harden]\nround = 2\n", "", (), "did you mean 'rounds'?"),
        (SEARCH, 'prompts = "absent.txt"\n', (), "absent.txt: no such file"),
        (SEARCH, 'prompts = "prompts.txt"\nimages = "absent"\n', (), "(images of the recipe)"),
        (SEARCH + '[audit]\ntwin = "absent"\n', "", (), "(twin of the recipe)"),
        (SEARCH + '[card]\nfile = "absent.md"\n', "", (), "(card of the recipe)"),
        (SEARCH + '[publish]\nrepo_id = "nobody"\n', "", (), "is no name of a repository"),
        ('[localize]\nneurons = "prompts.txt"\n', "", (), "prompts.txt"),
        (SEARCH, "", ("--work", "{out}/inside"), "lie in each other"),
        (SEARCH, "", ("--work", "{taken}"), "is no working folder of apply"),
        (SEARCH, "", ("-o", "{taken}"), "exists, and not by a recipe"),
        (SEARCH, "", ("-o", "{taken}/no/out"), "no such folder"),
        (SEARCH, "", ("--model", "absent/folder/deep"), "no such file or folder"),
        (SEARCH, "", ("--model", "{taken}"), ""),
        (SEARCH, "", ("--dtype", "float8"), "float8"),
        (SEARCH, "", ("-o", "{inside}"), "lies inside the source"),
    ],
)
def test_wrong_input_gets_one_line_and_leaves_nothing(
    tmp_path, surgery_run, body, corpus, options, complaint
):
    path = write_small_recipe(tmp_path, body=body, corpus=corpus)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "a file").write_text("somebody's")
    before = everything(tmp_path)
    places = {name: tmp_path / name for name in ("out", "taken")}
    places["inside"] = PLANTED_FOLDER.resolve() / "new"
    words = [str(word).format(**places) for word in options]
    output = () if "-o" in words else ("-o", tmp_path / "out")
    status, out, error = surgery_run("apply", path, *output, *words)
    assert (status, out) == (2, ""), error
    assert complaint in error and len(error.strip().splitlines()) == 1
    assert everything(tmp_path) == before


def test_the_models_that_cannot_be_searched_are_told_at_once(tmp_path, surgery_run):
    path = write_small_recipe(tmp_path)
    other = shutil.copytree(PLANTED_FOLDER, tmp_path / "other")
    configuration = json.loads((other / "unet" / "config.json").read_text())
    (other / "unet" / "config.json").write_text(
        json.dumps({**configuration, "_class_name": "PixArtTransformer2DModel"})
    )
    status, _, error = surgery_run("apply", path, "-o", tmp_path / "out", "--model", other)
    assert status == 2 and "[localize] neurons = FILE" in error


def test_a_dry_run_writes_nothing_and_counts(tmp_path, surgery_run):
    body = SEARCH + "[harden]\nrounds = 2\n" + AUDIT
    path = write_small_recipe(tmp_path, body=body)
    before = everything(tmp_path)
    status, out, _ = surgery_run("apply", path, "-o", tmp_path / "out", "--dry-run", "--json")
    plan = json.loads(out)
    assert status == 0 and everything(tmp_path) == before
    steps = {step["name"]: step for step in plan["steps"]}
    assert list(steps) == ["calibrate", "localize", "harden", "patch", "diff", "audit", "card", "verify"]
    # (4 ordinary prompts + the empty one) x (3 + 2 latents); 2 prompts x 3 latents
    assert steps["calibrate"]["forwards"] == 25 and steps["localize"]["forwards"] == 6
    # both models: 2 prompts x 2 seeds x 2 steps; 1 stand-in; one ordinary prompt
    assert steps["audit"]["bound"] == "at most" and steps["audit"]["forwards"] >= 16
    assert steps["harden"]["forwards"] > 1000
    carried = (PLANTED_FOLDER / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert carried < plan["bytes"] < 2 * carried
    assert plan["sample_forwards"] == sum(step["forwards"] or 0 for step in plan["steps"])
    status, out, _ = surgery_run("apply", path, "-o", tmp_path / "out", "--dry-run")
    assert "nothing was written" in out and "at most" in out and "at least" in out


def test_a_dry_run_knows_what_is_done(write_recipe, given_neurons, tmp_path):
    given_neurons("localized")
    path = write_recipe(body=GIVEN, head=NO_AUDIT)
    apply_recipe(path, tmp_path / "out")
    assert {step.state for step in plan_recipe(path, tmp_path / "out").steps} == {UNCHANGED}
    write_recipe(body=GIVEN + "[card]\nbase_model = 'a/b'\n", head=NO_AUDIT)
    states = {step.name: step.state for step in plan_recipe(path, tmp_path / "out").steps}
    assert states["diff"] == UNCHANGED and states["card"] == "changed: base_model"


def test_an_output_of_another_recipe_is_not_replaced(write_recipe, given_neurons, tmp_path):
    given_neurons("localized")
    path = write_recipe(body=GIVEN, head=NO_AUDIT)
    apply_recipe(path, tmp_path / "out")
    with pytest.raises(UsageError, match="exists, and not by a recipe"):
        apply_recipe(path, tmp_path / "out", work=tmp_path / "other.evidence")
    with pytest.raises(UsageError, match="is the working folder of"):
        apply_recipe(path, tmp_path / "second", work=tmp_path / "out.evidence")


def test_a_full_disk_is_told_before_the_search(write_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    with pytest.raises(UsageError, match=r"needs 0\.01 GB, and 0\.00 GB are free"):
        apply_recipe(write_recipe(), tmp_path / "out", device="cpu")
    assert not (tmp_path / "out.evidence").exists()


def test_two_runs_do_not_work_in_one_folder(write_recipe, given_neurons, tmp_path):
    from surgery.applying.ledger import Ledger

    given_neurons("localized")
    path = write_recipe(body=GIVEN, head=NO_AUDIT)
    with Ledger(tmp_path / "out.evidence", tmp_path / "out").held():
        with pytest.raises(UsageError, match="another run is at work"):
            apply_recipe(path, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    assert apply_recipe(path, tmp_path / "out").passed


def test_nothing_to_zero_writes_nothing(write_recipe, tmp_path, surgery_run):
    (tmp_path / "neurons.json").write_text('{"format": "surgery.neurons/1", "layers": {}}')
    path = write_recipe(body=GIVEN, head=NO_AUDIT)
    status, out, _ = surgery_run("apply", path, "-o", tmp_path / "out", "--quiet")
    assert status == 0 and "nothing to zero" in out and not (tmp_path / "out").exists()
