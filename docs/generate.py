"""Write the generated regions of the documentation: tables that come from the code and nowhere else.

    python docs/generate.py            rewrite every region of README.md and docs/*.md
    python docs/generate.py --check    exit 1 where a region is stale, and name it

A region stands between `<!-- generated: NAME -->` and `<!-- end generated -->`; NAME is a key of `regions`.
`tests/test_docs.py` fails while a region is stale.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # the tree that this file lies in, whatever is installed

from surgery import formats  # noqa: E402
from surgery.cli import COMMANDS  # noqa: E402

REGION = re.compile(
    r"(?P<start><!-- generated: (?P<name>[a-z-]+) -->\n)(?P<inside>.*?)(?P<end><!-- end generated -->)", re.S
)
DOCUMENTED = {
    "neurons": formats.NEURONS,
    "calibration": formats.CALIBRATION,
    "journal": formats.JOURNAL,
    "scan-journal": formats.SCAN_JOURNAL,
    "scan": formats.SCAN,
    "edit": formats.EDIT,
    "hardening": formats.HARDENING,
    "hardening-state": formats.HARDENING_STATE,
    "manifest": formats.MANIFEST,
    "audit": formats.AUDIT,
    "audit-state": formats.AUDIT_STATE,
    "apply-state": formats.APPLY_STATE,
    "demo": formats.DEMO,
    "planted": formats.PLANTED,
}


def pages() -> list[Path]:
    """Every page that may hold regions."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def regions() -> dict[str, Callable[[], str]]:
    """Name of a region -> the function that writes what stands in it."""
    return {
        "commands": command_table,
        "exit-statuses": exit_status_table,
        **{f"options-{name}": partial(option_tables, name) for name in COMMANDS},
        "denoisers": denoiser_table,
        "text-paths": text_path_table,
        "refused-denoisers": refused_denoiser_table,
        "refused-names": refused_name_table,
        "similarities": similarity_table,
        "formats": format_overview,
        **{f"format-{name}": partial(format_table, one) for name, one in DOCUMENTED.items()},
        "recipe-keys": recipe_table,
        **{
            f"recipe-{name}": partial(recipe_settings_table, name) for name in ("localize", "harden", "audit")
        },
        "rooms": room_table,
    }


def rewritten(text: str, known: dict[str, Callable[[], str]] | None = None) -> tuple[str, list[str]]:
    """A page with its regions made anew, and the names of those that were stale.

    Raises:
        SystemExit: a region has a name that nobody knows.
    """
    writers = regions() if known is None else known
    stale = []

    def replace(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in writers:
            raise SystemExit(f"no region is called {name!r}; known: {', '.join(sorted(writers))}")
        inside = f"\n{writers[name]()}\n\n"
        if inside != match["inside"]:
            stale.append(name)
        return match["start"] + inside + match["end"]

    return REGION.sub(replace, text), stale


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = (" ".join(cell.split()).replace("|", r"\|") for cell in row)
        lines.append(re.sub(r"\|  (?=\|)", "| ", f"| {' | '.join(cells)} |"))
    return "\n".join(lines)


# commands


def command_table() -> str:
    """Every command and what it does."""
    return table(("command", "what it does"), ((f"`{name}`", words) for name, words in COMMANDS.items()))


def exit_status_table() -> str:
    """Every exit status, from the classes of errors."""
    from surgery import errors

    rows = [("0", "done")]
    for error in (errors.SurgeryError, errors.UsageError, errors.GateError):
        meaning = re.sub(r" \((?:exit )?status \d\)", "", error.__doc__ or "").strip().split("\n\n")[0]
        rows.append((str(error.exit_status), meaning[0].lower() + meaning[1:].rstrip(".")))
    return table(("status", "means"), rows)


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a command, for people."""

    group: str
    dest: str
    written: str
    default: str
    meaning: str
    action: argparse.Action


def command_options(name: str) -> list[Option]:
    """The options of a command, in the order of its help."""
    parser = argparse.ArgumentParser(prog=f"surgery {name}", add_help=False)
    importlib.import_module(f"surgery.commands.{name}").add_arguments(parser)
    found = []
    for group in parser._action_groups:
        for action in group._group_actions:
            if action.help == argparse.SUPPRESS or isinstance(action, argparse._HelpAction):
                continue
            default, meaning = _default_and_meaning(action, _expanded_help(parser, action))
            found.append(
                Option(group.title or "options", action.dest, _written(action), default, meaning, action)
            )
    return found


def option_tables(name: str) -> str:
    """The options of a command, one table for each group of its help."""
    options = command_options(name)
    parts = []
    for group in dict.fromkeys(one.group for one in options):
        members = [one for one in options if one.group == group]
        if group == "positional arguments":
            rows = [(one.written, one.meaning) for one in members]
            parts.append(table(("argument", "meaning"), rows))
            continue
        title = "Options" if group == "options" else f"Options: {group}"
        rows3 = [(one.written, one.default, one.meaning) for one in members]
        parts.append(f"**{title}**\n\n" + table(("option", "default", "meaning"), rows3))
    parts.append(
        "As every command, it also takes `--json` (JSON instead of a table) and `--quiet` (no progress bars, "
        "no notes)."
    )
    return "\n\n".join(parts)


def _expanded_help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return parser._get_formatter()._expand_help(action) if action.help else ""


def _written(action: argparse.Action) -> str:
    """`-o FILE`, `--curve N,N,...`, `SOURCE`: how an option is typed."""
    names = ", ".join(action.option_strings)
    value = _value(action)
    if not names:
        return f"`{value}`"
    return f"`{names}{' ' if value else ''}{value}`"


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    if action.metavar:
        one = action.metavar
    elif action.choices is not None:
        one = "{" + ",".join(str(choice) for choice in action.choices) + "}"
    else:
        one = action.dest.rpartition("_")[2].upper() if action.option_strings else action.dest
    if isinstance(action.nargs, int):
        return " ".join([one] * action.nargs)
    return {"+": f"{one} ...", "*": f"[{one} ...]", "?": f"[{one}]"}.get(str(action.nargs), one)


def _default_and_meaning(action: argparse.Action, help_text: str) -> tuple[str, str]:
    """The default of an option as its help says it, else as argparse knows it; and the help without it."""
    meaning = help_text.strip()
    # not "float32 (default on a CPU), float16, ...", which says it by itself
    if found := re.search(r"\s*\(default:? (?!on )((?:[^()]|\([^()]*\))*)\)", meaning):
        return found[1], meaning[: found.start()] + meaning[found.end() :]
    if found := re.match(r"default:? (.*)$", meaning):
        return found[1], ""
    if found := re.search(r"(\S+) \(default[,)]", meaning):
        return found[1], meaning
    if action.required:
        return "required", meaning
    if action.nargs == 0:
        return "off", meaning
    if action.default in (None, argparse.SUPPRESS) or action.default == []:
        return "", meaning
    return str(action.default), meaning


# checkpoints


def denoiser_table() -> str:
    """The denoisers that are understood."""
    from surgery.denoisers import DENOISERS

    rows = [
        (f"`{name}`", one.family, "yes", "yes" if one.conditioning else "no")
        for name, one in DENOISERS.items()
    ]
    return table(("denoiser class", "family", "inspect, patch, diff", "localize, audit"), rows)


def text_path_table() -> str:
    """How text goes round the value layers."""
    from surgery.denoisers import DENOISERS

    classes: dict[str, list[str]] = {}
    for name, known in DENOISERS.items():
        for path in known.text_paths:
            classes.setdefault(path.sentence, []).append(f"`{name}`")
    free = [f"`{name}`" for name, known in DENOISERS.items() if not known.text_paths]
    rows = [(sentence, ", ".join(names)) for sentence, names in classes.items()]
    return table(("way that zeroed rows do not close", "in"), [*rows, ("none", ", ".join(free))])


def refused_denoiser_table() -> str:
    """The denoisers that are refused by name."""
    from surgery.denoisers import REFUSED_CLASSES

    return table(("denoiser class", "why not"), ((f"`{name}`", why) for name, why in REFUSED_CLASSES.items()))


def refused_name_table() -> str:
    """The tensor names that `patch` refuses."""
    from surgery.checkpoint.names.value_layers import REFUSED_NAMES

    rows = [(one.cause, one.way_out, f"`{one.pattern.pattern}`") for one in REFUSED_NAMES]
    return table(("a file that", "way out", "is known by tensor names that match"), rows)


# audit


def similarity_table() -> str:
    """The similarity measures that need no weights."""
    from surgery.measures.similarity import DEFAULT, SIMILARITIES

    rows = [
        (
            f"`{name}`" + (" (default)" if name == DEFAULT else ""),
            (one.measure.__doc__ or "").split("\n")[0].rstrip("."),
            f"{one.threshold:g}",
            one.source,
        )
        for name, one in SIMILARITIES.items()
    ]
    return table(("name", "what", "replica from", "source"), rows)


# formats and recipes


def format_overview() -> str:
    """One line per format."""
    rows = [
        (
            one.name,
            f"`{one.tag}`" if one.tag else "",
            one.file,
            re.split("[:.]", one.public)[0].lower(),
        )
        for one in formats.FORMATS
    ]
    return table(("document", "format tag", "lies", "may be published"), rows)


def format_table(one: formats.Format) -> str:
    """The facts of a format and all its fields."""
    facts = [
        f"- Lies: {one.file}.",
        f"- Written by: {one.written_by}.",
        f"- May be published? {one.public}",
        f"- Shape: {one.shape}.",
    ]
    if one.tag:
        facts.insert(0, f"- Format tag: `{one.tag}`.")
    rows = [(f"`{each.path}`", _type(each), _meaning(each)) for each in one.fields]
    parts = ["\n".join(facts), table(("field", "type", "meaning"), rows)]
    if one.tensors:
        rows = [(f"`{each.path}`", each.type, _meaning(each)) for each in one.tensors]
        parts.append(table(("tensor", "type", "meaning"), rows))
    return "\n\n".join(parts)


def _type(field: formats.FormatField) -> str:
    return re.sub(
        r"^list of (integer|number|text)", lambda found: f"list of {_PLURALS[found[1]]}", field.type
    )


_PLURALS = {"integer": "integers", "number": "numbers", "text": "texts"}


def _meaning(field: formats.FormatField) -> str:
    return f"{field.meaning} (only {field.only})" if field.only else field.meaning


def recipe_table() -> str:
    """The keys of a recipe: types and defaults from the dataclasses, meanings from `surgery.formats`."""
    from surgery.applying import recipe
    from surgery.applying.strict import settings_of

    meanings = {one.path: one for one in formats.RECIPE.fields}
    rows = [("`format`", "text", "required", meanings["format"].meaning)]
    rows.append(("`description`", "text", "", meanings["description"].meaning))
    for section, kind in recipe.SECTIONS.items():
        for field in dataclasses.fields(kind):
            if settings_of(field):  # of a command, in a table of their own
                described = meanings[f"{section}.*"]
                rows.append((f"`[{section}] ...`", "", "", described.meaning))
                continue
            described = meanings[f"{section}.{field.name}"]
            rows.append(
                (f"`[{section}] {field.name}`", described.type, _toml(field.default), described.meaning)
            )
    rows.append(("`[card.fields] ...`", "", "", meanings["card.fields.*"].meaning))
    rows.append(("`audit = false`", "boolean", "", "there is to be no audit: a decision, in a review"))
    return table(("key", "type", "default", "meaning"), rows)


def recipe_settings_table(command: str) -> str:
    """The keys of `[localize]`, `[harden]` or `[audit]`: settings, with what the command's help says."""
    from surgery.applying.recipe import SECTIONS
    from surgery.applying.strict import settings_of

    options = {one.dest: one for one in command_options(command)}
    rows = []
    (settings,) = filter(None, map(settings_of, dataclasses.fields(SECTIONS[command])))
    for field in dataclasses.fields(settings):
        option = options.get(field.name)
        meaning, default = (option.meaning, option.default) if option else ("", "")
        written = option.written.split(" ")[0].strip("`") if option else ""
        if option and isinstance(option.action, argparse._StoreConstAction):
            meaning = f"`{_toml(option.action.const)}`: {meaning}"
        if field.default is not None:
            default = f"`{_toml(field.default)}`"
        rows.append((f"`{field.name}`", f"`{written}`" if written else "", default, meaning))
    return table(("key", f"option of `{command}`", "default", "meaning"), rows)


def _toml(value: object) -> str:
    """A default as a recipe would write it; "" for none."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    return (
        f'"{value}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
    )


# development


def room_table() -> str:
    """Every package and module with the first sentence of its docstring."""
    rows = []
    for folder in _packages(ROOT / "surgery"):
        name = folder.relative_to(ROOT).as_posix() + "/"
        rows.append((f"**`{name}`**", _first_sentence(folder / "__init__.py")))
        modules = sorted(path for path in folder.glob("*.py") if not path.stem.startswith("__"))
        rows += [(f"`{path.name}`", _first_sentence(path)) for path in modules]
    return table(("module", "what it is for"), rows)


def _packages(folder: Path) -> Iterator[Path]:
    yield folder
    for inner in sorted(folder.iterdir()):
        if (inner / "__init__.py").is_file():
            yield from _packages(inner)


def _first_sentence(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"(?<=[.?])\s+(?=[A-Z`])", paragraph)[0].rstrip(".:")


def main(arguments: Sequence[str] | None = None) -> int:
    """Rewrite, or check; the exit status."""
    parser = argparse.ArgumentParser(description="Write the generated regions of the documentation.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 where a region is stale")
    check = parser.parse_args(arguments).check
    known = regions()
    found = False
    for page in pages():
        text, stale = rewritten(page.read_text(encoding="utf-8"), known)
        for name in stale:
            print(f"{page.relative_to(ROOT)}: {name} {'is stale' if check else 'rewritten'}")
        found = found or bool(stale)
        if stale and not check:
            page.write_text(text, encoding="utf-8")
    return 1 if check and found else 0


if __name__ == "__main__":
    sys.exit(main())
