"""The house rules that a script can check: who may import whom, and what must stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "surgery"

# part -> the parts of the package it may import; those of OPEN_TO_ALL besides
ALLOWED = {
    "errors": set(),
    "neurons": set(),
    "fingerprint": set(),
    "manifest": set(),
    "recipe": set(),
    "checkpoint": {"manifest"},
    "model": set(),
    "localization": {"model"},
    "auditing": {"model", "localization", "checkpoint", "manifest"},
    "testbed": {"model", "localization", "auditing", "checkpoint", "manifest"},
}
OPEN_TO_ALL = {"errors", "neurons", "fingerprint", "files", "text"}


def imported_parts(path: Path) -> set[str]:
    """The parts of the package that a module imports, wherever in the module the import stands."""
    tree = ast.parse(path.read_text())
    # What stands under `if TYPE_CHECKING:` is never imported.
    unseen = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    parts = set()
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "surgery" else [f"surgery.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        parts |= {name.split(".")[1] for name in names if name.startswith("surgery.")}
    return parts


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_imports_go_one_way(part):
    files = [*PACKAGE.glob(f"{part}.py"), *PACKAGE.glob(f"{part}/*.py")]
    assert files, f"no module of {part} found"
    for file in files:
        strangers = imported_parts(file) - ALLOWED[part] - OPEN_TO_ALL - {part}
        assert not strangers, f"{file.relative_to(PACKAGE)} imports {sorted(strangers)}"


def test_only_the_bytes_wing_and_the_trainer_write_weights():
    writers = ("save_file", "save_pretrained", "torch.save(", "serialize_file")
    allowed = {"checkpoint", "testbed", "publish"}
    for file in PACKAGE.rglob("*.py"):
        part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        text = file.read_text()
        if part not in allowed and any(writer in text for writer in writers):
            # calibration statistics are saved as safetensors, and are no weights
            assert file.name in {"calibration.py"}, f"{file.relative_to(PACKAGE)} writes tensors"


def test_help_imports_nothing_heavy():
    code = (
        "import sys, surgery, surgery.cli\n"
        "try:\n    surgery.cli.main(['--help'])\n"
        "except SystemExit:\n    pass\n"
        "names = {'torch', 'numpy', 'diffusers', 'transformers', 'huggingface_hub', 'tqdm'}\n"
        "heavy = names & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "localize" in done.stdout


def test_every_public_name_resolves_and_is_documented():
    import surgery

    for name in surgery.__all__:
        assert getattr(surgery, name).__doc__, f"surgery.{name} has no docstring"
