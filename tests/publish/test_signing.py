"""Signatures: with the package they hold and break; without it, one clear line."""

from __future__ import annotations

import importlib.util
import sys

import pytest

import surgery
from surgery.errors import UsageError
from surgery.publish.signing import sign

INSTALLED = importlib.util.find_spec("model_signing") is not None
needs_package = pytest.mark.skipif(not INSTALLED, reason="needs the extra `signing`")


@pytest.fixture
def keys(tmp_path):
    """(private key, public key) as PEM files."""
    if not INSTALLED:
        for name in ("private", "public"):
            (tmp_path / f"{name}.pem").write_text("a key")
        return tmp_path / "private.pem", tmp_path / "public.pem"
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    private.write_bytes(
        key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def test_without_the_package_one_clear_line_says_what_to_install(out, keys, monkeypatch, surgery_run):
    for name in ("model_signing", "model_signing.signing", "model_signing.verifying"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=r"is not installed.*install it: pip install .surgery\[signing\]"):
        sign(out, keys[0])
    assert not (out / "model.sig").exists()
    (out / "model.sig").write_text("{}")
    status, _, complaint = surgery_run("verify", out, "--public-key", keys[1])
    assert status == 2 and "pip install" in complaint


def test_a_signature_that_is_asked_for_and_is_not_there_is_a_violation(out, keys):
    found = surgery.verify(out, public_key=keys[1])
    assert not found.ok and found.signature == "bad"


def test_a_signature_that_nobody_checked_is_said_to_be_so(out):
    (out / "model.sig").write_text("{}")
    found = surgery.verify(out)
    assert found.ok and found.signature == "not checked"
    assert any("--public-key" in note for note in found.notes)


@needs_package
def test_a_signed_folder_verifies_and_any_change_breaks_it(out, keys):
    sign(out, keys[0])
    assert surgery.verify(out, public_key=keys[1]).signature == "good"
    manifest = out / "surgery-manifest.json"
    before = manifest.read_text()
    manifest.write_text(before.replace('"family"', '"family" ', 1))
    assert surgery.verify(out, public_key=keys[1]).signature == "bad"
    manifest.write_text(before)
    (out / "model.sig").write_text("{}")
    assert surgery.verify(out, public_key=keys[1]).signature == "bad"


@needs_package
def test_another_key_does_not_vouch(out, keys, tmp_path):
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric import ec

    sign(out, keys[0])
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "other.pem").write_bytes(
        other.public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
    )
    assert surgery.verify(out, public_key=tmp_path / "other.pem").signature == "bad"


@needs_package
def test_a_push_signs_what_it_sends(out, keys, online):
    done = surgery.upload(out, "lab/model", push=True, sign=keys[0], public_key=keys[1])
    assert done.pushed and "model.sig" in online.repositories["lab/model"].files
    assert surgery.upload(out, "lab/model", push=True, public_key=keys[1]).pushed
