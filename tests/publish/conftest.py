"""A patched folder, with its audit and card, and a Hub that lives in this process."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from fake_hub import FakeHub

import surgery
from surgery.cli import main
from surgery.testbed.load import PLANTED_FOLDER, read_ground_truth

TOKEN = "hf_" + "abcdefghij" * 3 + "wxyz"
DENOISER = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="session")
def memories():
    return read_ground_truth()


@pytest.fixture(scope="session")
def patched(tmp_path_factory, memories) -> Path:
    """The testbed with two memories' rows zeroed, as `patch` leaves it; not to be changed."""
    out = tmp_path_factory.mktemp("patched") / "out"
    surgery.patch(PLANTED_FOLDER, memories[0].neurons.union(memories[1].neurons), out)
    return out


def audit_of(out: Path, verdict: str = "removed", **changes) -> dict:
    """An audit's document, by hand, as far as publishing reads it."""
    weights = hashlib.sha256((out / DENOISER).read_bytes()).hexdigest()
    return {
        "format": "surgery.audit/2",
        "verdict": verdict,
        "phrase": f"{verdict} (embedding 200, output 50)",
        "counts": {verdict: 2},
        "reason": "16 of 17 images come back under the attack",
        "attacks": {"embedding": {"steps": 200, "attacked_prompts": 2, "replicating_after_attack": 1}},
        "private": False,
        "complete": True,
        "prompts": [
            {"id": f"p{place:012x}", "verdict": verdict, "phrase": f"{verdict} (embedding 200, output 50)"}
            for place in (1, 2)
        ],
        "models": {"patched": {"name": "out", "sha256": {Path(DENOISER).name: weights}}},
        **changes,
    }


@pytest.fixture(scope="session")
def finished(tmp_path_factory, patched) -> Path:
    """The same with an audit that says `removed`, and the card; not to be changed."""
    out = Path(shutil.copytree(patched, tmp_path_factory.mktemp("finished") / "out"))
    surgery.record_audit(out, audit_of(out))
    surgery.write_card(out, source=PLANTED_FOLDER)
    return out


@pytest.fixture
def bare(patched, tmp_path) -> Path:
    """A copy of the patched folder, to be changed."""
    return Path(shutil.copytree(patched, tmp_path / "bare"))


@pytest.fixture
def out(finished, tmp_path) -> Path:
    """A copy of the finished folder, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


@pytest.fixture
def online(monkeypatch) -> FakeHub:
    """huggingface_hub as its users have it, online and logged in, with a Hub in this process behind it."""
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    server = FakeHub()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub._commit_api.is_xet_available", lambda: False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(_http.time, "sleep", lambda _seconds: None)
    before = _http._GLOBAL_CLIENT_FACTORY
    huggingface_hub.set_client_factory(server.client)
    yield server
    huggingface_hub.set_client_factory(before)


@pytest.fixture
def surgery_run(capsys):
    """Run the command line; returns (status, stdout, stderr)."""

    def run(*words) -> tuple[int, str, str]:
        status = main([str(word) for word in words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def manifest_of(out: Path) -> dict:
    return json.loads((out / "surgery-manifest.json").read_text())


def rewrite_manifest(out: Path, change) -> None:
    """Rewrite a manifest as somebody would who knows how surgery writes it."""
    from surgery.checkpoint.edit.manifest import manifest_text

    manifest = manifest_of(out)
    change(manifest)
    (out / "surgery-manifest.json").write_text(manifest_text(manifest))
