"""The documentation: short where it should be, never stale, no dead link, nothing said in two places."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
# a folder of somebody's machine, at the root of its disk
MACHINE_PATHS = re.compile(r"/(?:home|root|work|tmp|opt|usr|srv|mnt|Users)/")
BRITISH = re.compile(
    r"\b(\w*(?:colour|behaviour|favour|neighbour)\w*|licence|grey|centre|artefacts?|"
    r"\w*(?:optimis|quantis|normalis|recognis|memoris|initialis|summaris|organis)\w*)\b",
    re.I,
)


@pytest.fixture(scope="module")
def generate():
    specification = importlib.util.spec_from_file_location("generate_docs", DOCS / "generate.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


def prose(path: Path) -> str:
    """A page without code blocks and generated regions."""
    text = re.sub(r"<!-- generated: .*?<!-- end generated -->", "", path.read_text(), flags=re.S)
    return re.sub(r"```.*?```", "", text, flags=re.S)


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(
        r"^#+ (.+)$", re.sub(r"```.*?```", "", path.read_text(), flags=re.S), flags=re.M
    ):
        name = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        count = found.get(name, 0)
        found[name] = count + 1
        names.add(f"{name}-{count}" if count else name)
    return names


def test_the_readme_is_for_a_reader_of_five_minutes():
    assert len((ROOT / "README.md").read_bytes()) <= 12_288


@pytest.mark.parametrize(
    ("marker", "command"),
    [
        ("<!-- main command -->", "pip install -c constraints.txt . && surgery demo -o demo"),
        (
            "<!-- test command -->",
            'pip install -c constraints.txt -e ".[test]" && HF_HUB_OFFLINE=1 python -m pytest',
        ),
    ],
)
def test_scripts_find_the_two_commands_below_their_markers(marker, command):
    lines = (ROOT / "README.md").read_text().splitlines()
    assert lines.count(marker) == 1
    at = lines.index(marker)
    assert lines[at + 1 : at + 4] == ["```bash", command, "```"]


def test_no_generated_region_is_stale(generate, capsys):
    assert generate.main(["--check"]) == 0, f"run python docs/generate.py: {capsys.readouterr().out}"


def test_a_stale_region_is_named_and_made_anew(generate):
    written = generate.regions()["commands"]()
    text = "before\n<!-- generated: commands -->\nold\n<!-- end generated -->\nafter\n"
    fresh, stale = generate.rewritten(text)
    assert stale == ["commands"]
    assert fresh == f"before\n<!-- generated: commands -->\n\n{written}\n\n<!-- end generated -->\nafter\n"
    assert generate.rewritten(fresh) == (fresh, [])
    with pytest.raises(SystemExit, match="no region is called 'absent'"):
        generate.rewritten("<!-- generated: absent -->\n<!-- end generated -->")


def test_every_region_stands_on_exactly_one_page(generate):
    """A new command or format without a place in the documentation fails here: give it a region."""
    used = [name for page in PAGES for name in re.findall(r"<!-- generated: ([a-z-]+) -->", page.read_text())]
    assert sorted(used) == sorted(generate.regions())


def test_every_format_is_documented(generate):
    from surgery import formats

    missing = {one.name for one in formats.FORMATS} - {one.name for one in generate.DOCUMENTED.values()}
    assert missing == {formats.RECIPE.name}, "the recipe has a page of its own, every other a table"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{target}: no such file"
        if anchor:
            assert anchor in anchors(path), f"{target}: no such heading, but {sorted(anchors(path))}"


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda path: path.name)
def test_a_page_says_at_once_what_it_is_for_and_the_readme_leads_to_it(page):
    lines = page.read_text().splitlines()
    assert lines[0].startswith("# ") and lines[1] == ""
    assert lines[2].startswith("This page is for ") and lines[3] == ""
    assert f"](docs/{page.name})" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_spelling_is_american_and_no_machine_is_named(page):
    assert not (found := BRITISH.findall(prose(page))), found
    assert not (found := MACHINE_PATHS.findall(page.read_text())), found


def test_limits_are_told_on_one_page():
    for page in PAGES:
        headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.M)
        assert "Limits" not in headings or page.name == "limits.md", page.name


def test_no_long_sentence_stands_on_two_pages():
    """What is said twice is soon said in two ways. The README may quote, a page may not."""
    seen: dict[str, str] = {}
    for page in sorted(DOCS.glob("*.md")):
        for line in prose(page).splitlines():
            if len(line) > 90 and not line.startswith("|---"):
                assert seen.setdefault(line, page.name) == page.name, f"{page.name}: {line}"


def test_every_place_of_the_map_exists():
    text = (DOCS / "development.md").read_text()
    rows = text.split("## One obvious place")[1].split("\n## ")[0]
    places = [place for place in re.findall(r"`([^`\s]+)`", rows) if "/" in place]
    assert len(places) > 15
    for place in places:
        assert (ROOT / place).exists(), place
