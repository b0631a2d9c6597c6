"""The upload against a Hub in this process: gates, faults, and that nothing unverified is ever offered."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path

import pytest
from conftest import DENOISER, TOKEN, audit_of
from fake_hub import CUT, LOST, Repository

import surgery
from surgery.errors import GateError, SurgeryError, UsageError
from surgery.publish.verify import verify

REPO = "lab/model"
STEPS = ("info", "tree", "refs", "create", "preupload", "batch", "store", "check", "commit")


def verified(out: Path) -> set[str]:
    return {file.sha256 for file in verify(out).files}


def published(server, repo: str = REPO) -> dict[str, bytes]:
    held = server.repositories[repo].files
    return {path: content for path, (content, _) in held.items() if path != ".gitattributes"}


def on_disk(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def test_a_dry_run_lists_every_file_with_its_hash_and_sends_nothing(finished, online, surgery_run):
    status, shown, _ = surgery_run("upload", finished, "--repo-id", REPO)
    assert status == 0
    for path, content in on_disk(finished).items():
        line = next(line for line in shown.splitlines() if line.endswith(f" {path}"))
        assert hashlib.sha256(content).hexdigest() in line and str(len(content)) in line
    assert "nothing was sent" in shown and "before: absent" in shown
    assert set(online.calls) == {"info"} and not online.repositories and not online.offered


def test_a_push_makes_a_private_repository_that_holds_exactly_the_folder(finished, online):
    done = surgery.upload(finished, REPO, push=True)
    assert done.pushed and done.private and done.commit
    assert published(online) == on_disk(finished)
    assert online.repositories[REPO].private
    assert online.offered == verified(finished)
    assert online.calls[-3:] == ["info", "tree", "refs"], "the remote list is read back at the end"
    assert online.tokens == {f"Bearer {TOKEN}"}


def test_a_second_push_sends_nothing(finished, online):
    surgery.upload(finished, REPO, push=True)
    calls = len(online.calls)
    assert surgery.upload(finished, REPO, push=True).pushed
    assert {"commit", "store", "preupload"}.isdisjoint(online.calls[calls:])


FAULTS = [
    *((step, what) for step in STEPS for what in (500, CUT)),
    *((step, what) for step in ("create", "preupload", "commit") for what in (401, 403, 409, 429)),
    *((step, what) for step in ("info", "tree", "batch") for what in (401, 403, 429)),
    ("store", 403),
    ("store", 429),
    ("create", LOST),
    ("store", LOST),
    ("commit", LOST),
]


@pytest.mark.parametrize(("step", "what"), FAULTS, ids=str)
def test_after_any_fault_a_second_run_completes(finished, online, step, what):
    """The fault stays for the whole first run; nothing unverified is offered in either."""
    online.fail(step, what, headers={"Retry-After": "7"} if what == 429 else {})
    try:
        first = surgery.upload(finished, REPO, push=True).pushed
    except SurgeryError as error:
        assert error.exit_status == 1
        assert "run again" in str(error) or what in (401, 403)
        if (step, what) == ("info", 401):  # what the Hub says of a repository that a stranger asks for
            assert "cannot be seen; check your token" in str(error)
        else:
            assert what in (CUT, LOST, 409) or str(what) in str(error)
        first = False
    online.faults.clear()
    assert first == ((step, what) == ("commit", LOST)), "a commit that landed is found in the list"
    if first:
        assert published(online) == on_disk(finished)
    assert surgery.upload(finished, REPO, push=True).pushed
    assert published(online) == on_disk(finished)
    assert online.offered <= verified(finished)
    assert len(online.repositories[REPO].commits) == 2, "one commit, whatever happened"


def test_what_the_store_has_taken_is_not_sent_again(finished, online):
    """An upload that ends in its midst goes on: the second run sends the one large file that is missing."""
    missing = hashlib.sha256((finished / DENOISER).read_bytes()).hexdigest()

    def cut(oid: str) -> None:
        if oid == missing:
            raise OSError("the machine was taken away")

    online.on_store = cut
    with pytest.raises(SurgeryError, match="the machine was taken away"):
        surgery.upload(finished, REPO, push=True)
    assert online.stored and missing not in online.stored
    sent: list[str] = []
    online.on_store = sent.append
    assert surgery.upload(finished, REPO, push=True).pushed
    assert sent == [missing]
    assert published(online) == on_disk(finished)


def test_a_lost_answer_and_a_list_that_cannot_be_read_are_no_second_commit(finished, online):
    online.fail("commit", LOST)
    online.before_commit = lambda: online.fail("info", CUT)
    with pytest.raises(SurgeryError, match="could not take the commit"):
        surgery.upload(finished, REPO, push=True)
    online.faults.clear()
    calls = len(online.calls)
    done = surgery.upload(finished, REPO, push=True)
    assert done.pushed and done.commit == online.repositories[REPO].commits[1]
    assert {"commit", "store"}.isdisjoint(online.calls[calls:]), "it landed, and the list says so"


@pytest.mark.parametrize("what", [500, CUT, 429])
def test_no_signed_address_is_logged_before_another_try(finished, online, caplog, what):
    online.fail("store", what, times=2)
    assert surgery.upload(finished, REPO, push=True).pushed
    warned = [record.getMessage() for record in caplog.records if "store.example" in record.getMessage()]
    assert warned and not any("SECRETSIGNATURE" in line or TOKEN in line for line in warned)


@pytest.fixture
def xet(online, monkeypatch):
    """Large files through Xet: what is sent is hashed only where no hash is known, and nobody checks it."""
    from huggingface_hub import _commit_api

    sent: list[str] = []

    def upload_files(*, additions, **_others) -> None:
        for addition in additions:
            with addition.as_file() as file:
                content = file.read()
            if not addition.upload_info.is_hashed:
                addition.upload_info.sha256 = hashlib.sha256(content).digest()
            oid = addition.upload_info.sha256.hex()
            sent.append(addition.path_in_repo)
            online.offered.add(hashlib.sha256(content).hexdigest())
            online.stored[oid] = content

    monkeypatch.setattr(_commit_api, "is_xet_available", lambda: True)
    monkeypatch.setattr(_commit_api, "_upload_xet_files", upload_files)
    monkeypatch.setattr("surgery.publish.hub._HELD_IN_MEMORY", 0)  # every file is sent from the disk
    return sent


def test_through_xet_the_repository_holds_exactly_the_folder(finished, online, xet):
    assert surgery.upload(finished, REPO, push=True).pushed
    assert sorted(xet) == sorted(LARGE) and published(online) == on_disk(finished)
    assert online.offered == verified(finished)


def test_through_xet_other_bytes_than_the_verified_never_become_a_commit(out, online, xet, monkeypatch):
    """Even where the file system says nothing: what was sent was hashed as it was sent."""
    monkeypatch.setattr("surgery.publish.hub.is_unchanged", lambda _file: True)
    preupload = online._preupload

    def change(request, id):
        content = bytearray((out / DENOISER).read_bytes())
        content[-1] ^= 1
        (out / DENOISER).write_bytes(content)
        return preupload(request, id)

    place = next(at for at, route in enumerate(online.routes) if route[0] == "preupload")
    online.routes[place] = (*online.routes[place][:3], change)
    with pytest.raises(GateError, match=f"{DENOISER}: changed after it was verified"):
        surgery.upload(out, REPO, push=True)
    assert DENOISER in xet and "commit" not in online.calls


def test_a_short_fault_is_waited_out(finished, online):
    """huggingface_hub repeats what can be repeated, after the time that the Hub asks for."""
    online.fail("preupload", 429, headers={"Retry-After": "3"}, times=2)
    online.fail("store", 500, times=1)
    assert surgery.upload(finished, REPO, push=True).pushed
    assert published(online) == on_disk(finished)


def test_a_rate_limit_is_told_with_its_seconds(finished, online):
    online.fail("commit", 429, headers={"Retry-After": "41"})
    with pytest.raises(SurgeryError, match="wait 41 seconds"):
        surgery.upload(finished, REPO, push=True)


def test_no_token_and_no_signed_address_is_ever_shown(finished, online, surgery_run):
    online.fail("store", 403, message=f"token {TOKEN} for {DENOISER}?signature=SECRETSIGNATURE")
    status, shown, complaint = surgery_run("upload", finished, "--repo-id", REPO, "--push", "--quiet")
    assert status == 1 and "403" in complaint
    for secret in (TOKEN, "SECRETSIGNATURE", "Bearer"):
        assert secret not in shown + complaint
    assert not any(TOKEN.encode() in content for content in on_disk(finished).values())


LARGE = (
    "text_encoder/model.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
)


@pytest.mark.parametrize("changed", LARGE)
@pytest.mark.parametrize("meanwhile", ["sent", "sent first", "answers lost", "raises"])
def test_a_file_changed_after_it_was_verified_is_never_committed(
    out, online, monkeypatch, changed, meanwhile
):
    """Between the check and the use, whichever file it is and whatever else goes wrong at that moment.

    huggingface_hub sends several files at once: the first to fail may be another than the one that changed.
    """
    monkeypatch.setattr("surgery.publish.hub._HELD_IN_MEMORY", 0)  # every file is sent from the disk
    own = hashlib.sha256((out / changed).read_bytes()).hexdigest()
    lock, done = threading.Lock(), threading.Event()

    def change(oid: str) -> None:
        with lock:
            if done.is_set() or (meanwhile == "sent first" and oid != own):
                return
            content = bytearray((out / changed).read_bytes())
            content[-1] ^= 1
            (out / changed).write_bytes(content)
            done.set()
        if meanwhile == "raises":
            raise RuntimeError("something else")

    online.on_store = change
    if meanwhile == "answers lost":
        online.fail("store", LOST)
    with pytest.raises(GateError, match=f"{changed}: changed after it was verified"):
        surgery.upload(out, REPO, push=True)
    assert "commit" not in online.calls


def test_the_cause_of_an_error_that_the_library_wraps_is_told(out, online):
    def fail(_oid: str) -> None:
        try:
            raise OSError("the disk is gone")
        except OSError:
            raise KeyError("no message of use")  # noqa: B904 -- no cause, only a context

    online.on_store = fail
    with pytest.raises(SurgeryError, match=r"Error while uploading .* to the Hub.*the disk is gone"):
        surgery.upload(out, REPO, push=True)


def test_a_store_that_takes_other_bytes_is_caught_before_the_commit(out, online, monkeypatch):
    monkeypatch.setattr("surgery.publish.hub._HELD_IN_MEMORY", 0)
    online.checks_what_is_stored = False
    online.on_store = lambda _oid: (out / DENOISER).write_bytes(b"unpatched weights")
    with pytest.raises(GateError, match="changed after it was verified"):
        surgery.upload(out, REPO, push=True)
    assert "commit" not in online.calls


def test_a_repository_that_holds_other_bytes_afterwards_is_not_called_published(finished, online):
    """A Hub that lies: the commit lands, and one file of it is another."""
    done = online._commit

    def lying(request, id):
        answer = done(request, id)
        online.repositories[id].hold(DENOISER, b"the unpatched weights")
        return answer

    place = next(at for at, route in enumerate(online.routes) if route[0] == "commit")
    online.routes[place] = (*online.routes[place][:3], lying)
    with pytest.raises(GateError, match=f"other bytes as {DENOISER}"):
        surgery.upload(finished, REPO, push=True, public=True)
    assert online.repositories[REPO].private, "it is not shown to anybody"


def test_a_commit_by_somebody_else_in_between_is_not_overwritten(finished, online):
    def somebody() -> None:
        held = online.repositories[REPO]
        if len(held.commits) == 1:
            held.hold("unet/theirs.safetensors")
            held.commits.append("f" * 40)

    online.before_commit = somebody
    with pytest.raises(SurgeryError, match="it changed while this ran"):
        surgery.upload(finished, REPO, push=True)
    with pytest.raises(GateError, match="holds 1 files already"):
        surgery.upload(finished, REPO, push=True)
    assert published(online) == {"unet/theirs.safetensors": b"of an earlier upload"}


def test_it_becomes_public_only_after_it_was_compared(finished, online):
    done = surgery.upload(finished, REPO, push=True, public=True)
    assert done.pushed and not done.private and not online.repositories[REPO].private
    assert online.calls.index("settings") > online.calls.index("commit")


def test_a_lost_answer_to_becoming_public_is_repaired_by_a_second_run(finished, online):
    online.fail("settings", 500)
    with pytest.raises(SurgeryError):
        surgery.upload(finished, REPO, push=True, public=True)
    assert online.repositories[REPO].private
    online.faults.clear()
    assert not surgery.upload(finished, REPO, push=True, public=True).private


def test_a_public_repository_needs_the_word_public(finished, online):
    online.repositories[REPO] = Repository(private=False)
    with pytest.raises(GateError, match="is public"):
        surgery.upload(finished, REPO, push=True)
    assert surgery.upload(finished, REPO, push=True, public=True).pushed


STALE = ("unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.safetensors.index.json", "v1.ckpt")


def earlier(online) -> None:
    held = online.repositories[REPO] = Repository()
    held.branches.append("fp16")
    for path in (*STALE, "README.md", "samples/one.png", "unet/config.json", ".gitignore"):
        held.hold(path)


def test_a_repository_that_is_not_empty_is_refused(finished, online, surgery_run):
    earlier(online)
    before = published(online)
    status, shown, _ = surgery_run("upload", finished, "--repo-id", REPO)
    assert status == 3 and "holds 7 files already" in shown and "fp16" in shown
    with pytest.raises(GateError, match="give --replace"):
        surgery.upload(finished, REPO, push=True)
    assert published(online) == before and not online.offered


def test_replace_deletes_stale_files_in_the_same_commit_and_speaks_of_history(finished, online, surgery_run):
    earlier(online)
    status, shown, _ = surgery_run("upload", finished, "--repo-id", REPO, "--replace", "--json")
    plan = json.loads(shown)
    assert status == 0 and set(plan["deletes"]) == {*STALE, ".gitignore"}
    assert plan["keeps"] == ["samples/one.png"]
    assert any("super_squash_history('lab/model')" in note for note in plan["notes"])
    assert surgery.upload(finished, REPO, push=True, replace=True).pushed
    assert published(online) == {**on_disk(finished), "samples/one.png": b"of an earlier upload"}
    assert len(online.repositories[REPO].commits) == 2


def test_offline_a_push_is_refused_and_a_dry_run_says_that_it_could_not_ask(finished, surgery_run):
    status, _, complaint = surgery_run("upload", finished, "--repo-id", REPO, "--push")
    assert status == 2 and "HF_HUB_OFFLINE is set" in complaint
    status, shown, _ = surgery_run("upload", finished, "--repo-id", REPO)
    assert status == 0 and "was not asked" in shown


@pytest.mark.parametrize("name", ["model", "a/b/c", "../x", "a/..", "https://hub/a/b", "a b/c", ""])
def test_a_name_that_is_none_is_refused(finished, name):
    with pytest.raises(UsageError, match="no name of a repository"):
        surgery.upload(finished, name)


@pytest.mark.parametrize("verdict", ["hidden, not removed", "not found", "still replicates", "not tested"])
def test_any_verdict_but_removed_needs_an_accepted_risk(bare, online, verdict):
    surgery.record_audit(bare, audit_of(bare, verdict))
    surgery.write_card(bare)
    with pytest.raises(GateError, match=f"the audit says '{verdict}"):
        surgery.upload(bare, REPO, push=True)
    assert not online.repositories and not online.offered
    reason = "Agreed with the owner of the images; see ticket 7"
    plan = surgery.upload(bare, REPO, accept_risk=reason)
    assert not plan.refusals
    assert b"ticket 7" not in (bare / "README.md").read_bytes(), "a dry run writes nothing"
    done = surgery.upload(bare, REPO, push=True, accept_risk=reason)
    assert {file.path: file.sha256 for file in plan.files} == {file.path: file.sha256 for file in done.files}
    assert reason in published(online)["README.md"].decode()
    assert verdict in published(online)["README.md"].decode()


@pytest.mark.parametrize("changes", [{"complete": False}, {"models": {}}], ids=["part", "of no weights"])
def test_an_audit_that_proves_nothing_about_these_weights_does_not_open_the_gate(bare, online, changes):
    surgery.record_audit(bare, audit_of(bare, **changes))
    surgery.write_card(bare)
    with pytest.raises(GateError, match=r"not complete|does not name the weight files"):
        surgery.upload(bare, REPO, push=True)


def test_without_an_audit_or_a_card_nothing_is_published(bare, online):
    with pytest.raises(GateError, match=r"records no audit.*no README\.md"):
        surgery.upload(bare, REPO, push=True)
    with pytest.raises(UsageError, match="nothing was recorded"):
        surgery.upload(bare, REPO, push=True, accept_risk="because")
    assert not online.repositories


def test_what_does_not_verify_is_not_published(out, online):
    (out / "unet" / "extra.safetensors").write_bytes((out / DENOISER).read_bytes())
    with pytest.raises(GateError, match=r"extra\.safetensors is an unverified weight file"):
        surgery.upload(out, REPO, push=True)
    assert not online.repositories and not online.offered
