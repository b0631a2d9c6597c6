"""The house rules that a script can check: who may import whom, who may write weights, what stays light."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "surgery"
FOUNDATIONS = {
    "errors", "neurons", "denoisers", "options", "files", "progress", "versions", "fingerprint", "corpus",
    "ordinary", "captions", "formats", "text", "processes", "launchers", "image_files",
}  # fmt: skip
BYTES = ["checkpoint.formats", "checkpoint.names", "checkpoint.survey", "checkpoint.edit",
         "checkpoint.comparison"]  # fmt: skip
MODELS = {"model"}
# room -> the rooms it may import, beside itself and the foundations. A room's own modules are under its name;
# whatever is not listed here fails the test, so that a new room must find its place.
MAY_IMPORT = {
    **{room: set(BYTES[:place]) for place, room in enumerate(BYTES)},
    "checkpoint": set(BYTES),
    "model": set(),
    "measures": MODELS,
    "localization": MODELS
    | {"measures", "localization.search", "localization.discovery", "localization.joint"},
    "localization.joint": MODELS | {"localization", "localization.search"},
    "localization.search": MODELS | {"localization"},
    "localization.discovery": MODELS | {"localization"},
    "auditing": MODELS
    | {"measures", "auditing.measures", "auditing.attack", "auditing.judgement", "auditing.report"},
    "auditing.measures": MODELS | {"measures", "auditing"},
    "auditing.attack": MODELS | {"measures", "auditing", "auditing.measures"},
    "auditing.judgement": set(),
    "auditing.report": {"measures", "auditing", "auditing.attack", "auditing.measures", "auditing.judgement"},
    "hardening": MODELS | {"measures", "auditing", "auditing.attack", "auditing.measures", "checkpoint.edit"},
    "publish": {"checkpoint", *BYTES},
    "testbed": MODELS | {"measures", "localization", "auditing", "auditing.measures", "checkpoint"},
    "applying": MODELS
    | {
        "measures",
        "localization",
        "auditing",
        "hardening",
        "checkpoint",
        "publish",
        *BYTES,
        "applying.steps",
    },
    "applying.steps": MODELS
    | {"applying", "measures", "localization", "auditing", "hardening", "checkpoint", *BYTES, "publish"},
    "commands": MODELS
    | {
        "measures",
        "localization",
        "localization.discovery",
        "localization.joint",
        "auditing",
        "hardening",
        "testbed",
        "checkpoint",
        "checkpoint.comparison",
        "applying",
        "publish",
    },
    "cli": {"commands"},
    "__init__": set(),  # the public API names its modules as text and imports none
    "__main__": {"cli"},
}
for foundation in FOUNDATIONS:
    MAY_IMPORT[foundation] = set()


def modules() -> dict[str, Path]:
    """Dotted name below the package -> file."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
        if parts[-1] == "__init__" and len(parts) > 1:
            parts.pop()
        found[".".join(parts)] = path
    return found


def room_of(name: str) -> str:
    """The longest room that a module's name begins with."""
    words = name.split(".")
    heads = [".".join(words[:count]) for count in range(len(words), 0, -1)]
    return next((head for head in heads if head in MAY_IMPORT), name)


@cache
def imports() -> dict[str, set[str]]:
    """Module -> modules of the package it imports, wherever the import stands, TYPE_CHECKING too."""
    known = modules()
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        wanted = []
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name} imports relatively"
                wanted += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                wanted += [alias.name for alias in node.names]
        inner = {one.removeprefix("surgery.") for one in wanted if one.startswith("surgery.")}
        # `from surgery.model import pipeline` names a package on the way to a module
        found[name] = {one for one in inner if one in known and one != name}
    return found


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_go_one_way(name):
    room = room_of(name)
    assert room in MAY_IMPORT, f"{name} lies in no room: give it a place in this test and in the docs"
    allowed = MAY_IMPORT[room] | FOUNDATIONS | {room}
    strangers = {other for other in imports()[name] if room_of(other) not in allowed}
    assert not strangers, f"{name} (room {room}) imports {sorted(strangers)}"


def test_no_modules_import_each_other_in_a_circle():
    left = {name: set(others) for name, others in imports().items()}
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"these import each other in a circle, or something that does: {sorted(left)}"


def imported_libraries(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
    return found


def test_no_torch_in_the_bytes_wing():
    live = {"torch", "diffusers", "transformers", "safetensors", "accelerate"}
    for path in (PACKAGE / "checkpoint").rglob("*.py"):
        if path.name not in PICKLES:
            assert not imported_libraries(path) & live, f"{path.relative_to(PACKAGE)} imports a live library"


PICKLES = {"pickle_file.py", "pickle_file_loading.py"}  # the modules of the bytes wing that know torch

# Every way to bring bytes to a disk that Python has: calls by name, whatever they are called on.
WRITING_CALLS = {
    "save", "save_file", "save_model", "save_pretrained", "serialize", "serialize_file", "dump", "tofile",
    "write_bytes", "write_text", "pwrite", "pwritev", "sendfile", "copy_file_range", "copyfile", "copy2",
    "copytree", "copyfileobj", "move", "savez", "savez_compressed", "memmap", "mmap", "to_file",
    "write", "writelines", "rename", "link", "symlink", "hardlink_to", "symlink_to",
}  # fmt: skip
# (module, call) -> why this one does not write weights
WRITES_NO_WEIGHTS = {
    ("files", "write"): "the one atomic writer; its callers are listed below",
    ("localization.journal", "write"): "a line of the journal",
    ("localization.calibration_file", "save"): "statistics of activations, to bytes",
    ("auditing.bench", "save"): "a unit, as JSON",
    ("auditing.store", "save"): "the copy of SOURCE that canaries were taught to; removed at the end",
    ("measures.pictures", "save"): "a PNG, to memory",
    ("auditing.report.pictures", "save"): "a PNG, to memory",
    ("applying.steps.localize", "write"): "neurons.json",
    ("hardening.state", "save"): "the student between two rounds; removed at the end",
    ("hardening.ladder", "save"): "the same",
    ("commands.localize", "write"): "neurons.json",
}
MAY_WRITE_ATOMICALLY = {
    "localization.records": "neurons.json",
    "localization.joint.plots": "the picture of a plan",
    "localization.calibration_file": "a calibration",
    "auditing.store": "units, as JSON",
    "auditing.audit": "audit.json and audit.html",
    "commands.scan": "the ranking",
    "checkpoint.edit.edit_file": "edit.json",
    "hardening.state": "what the state depends on, and what the gate said",
    "hardening.harden": "hardening.json",
    "applying.ledger": "state.json",
    "publish.stage": "the manifest, with its section `published`",
    "publish.card": "README.md",
    "publish.proof": "the manifest without that section, in a temporary folder",
}


def calls(path: Path) -> set[str]:
    """The names of all functions and methods that a module calls, and `open for writing`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        found.add(name)
        if name in ("open", "fdopen", "NamedTemporaryFile", "TemporaryFile"):
            constants = [one.value for one in [*node.args, *(k.value for k in node.keywords)]
                         if isinstance(one, ast.Constant) and isinstance(one.value, str)]  # fmt: skip
            if any(set(mode) & set("wax+") and len(mode) <= 4 for mode in constants):
                found.add("open for writing")
    return found


def test_no_weight_is_written_outside_the_bytes_wing_and_the_trainer():
    """Whoever writes a file outside is listed above with what it writes; any new way of saving fails here."""
    used = set()
    for name, path in modules().items():
        if room_of(name).split(".")[0] in ("checkpoint", "testbed"):
            continue
        called = calls(path)
        for call in called & WRITING_CALLS:
            assert (name, call) in WRITES_NO_WEIGHTS, f"{name} calls {call}(): what does it write?"
            used.add((name, call))
        if "open for writing" in called:
            assert name in ("files", "localization.journal"), f"{name} opens a file for writing"
        if "write_atomically" in called:
            assert name in MAY_WRITE_ATOMICALLY, f"{name} writes a file: what is it?"
    assert used == WRITES_NO_WEIGHTS.keys(), "an entry of the list is no longer needed"


@pytest.mark.parametrize("command", ["--help", "patch --help", "diff --help", "inspect --help"])
def test_help_imports_nothing_heavy(command):
    code = (
        "import sys, surgery, surgery.cli\n"
        f"try:\n    surgery.cli.main({command.split()!r})\n"
        "except SystemExit:\n    pass\n"
        "names = {'torch', 'numpy', 'diffusers', 'transformers', 'huggingface_hub', 'tqdm'}\n"
        "heavy = names & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "surgery" in done.stdout


def test_every_public_name_resolves_and_is_documented():
    import surgery

    for name in surgery.__all__:
        assert getattr(surgery, name).__doc__, f"surgery.{name} has no docstring"


def test_no_module_is_far_longer_than_it_should_be():
    """250 lines is the aim; a module that needs more than 280 holds two things."""
    long = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert not {name: lines for name, lines in long.items() if lines > 280}
