"""Inside auditing imports go one way, and what settings and judgement need is light."""

import ast
from pathlib import Path

import surgery.auditing

FOLDER = Path(surgery.auditing.__file__).parent
# room or module -> its storey; who stands higher may import who stands lower, and rooms import themselves
STOREYS = {
    "judgement": 0,
    "registry": 0,  # of the attacks: names alone
    "drawing": 0,
    "units": 0,
    "ledger": 0,
    "budget": 0,
    "settings": 1,
    "measures": 2,
    "identity": 3,
    "store": 3,
    "sensitivity": 3,
    "bench": 4,
    "controls": 5,
    "stages": 5,
    "attack": 6,
    "canaries": 7,
    "findings": 6,
    "report": 7,
    "inputs": 7,
    "attacks": 8,
    "estimate": 8,
    "audit": 9,
}


def imported(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_imports_go_one_way():
    for file in FOLDER.rglob("*.py"):
        own = file.relative_to(FOLDER).parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        for name in imported(file):
            assert not name.startswith("surgery.localization"), f"{file} imports {name}"
            if not name.startswith("surgery.auditing."):
                continue
            parts = name.split(".")
            other = "registry" if parts[2:4] == ["attack", "registry"] else parts[2]
            assert other == own or STOREYS[other] < STOREYS[own], f"{file} imports {name}"


def test_every_attack_of_the_stages_is_behind_the_protocol():
    names = set(imported(FOLDER / "attack" / "stages.py"))
    assert "surgery.auditing.attack.protocol.Attack" in names
    assert not {name for name in names if ".embedding." in name or ".registry." in name}
