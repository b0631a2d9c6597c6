"""Settings said once: a field of a settings dataclass carries its help, and all else comes from it.

A field made by `setting` holds default, help, least value and choices. From there come the option on the
command line (`add_options`), its default in the help text, and the check of its value (`check_settings`); the
tables in `docs/` are made from the help. Options that were not given are not passed on, so that defaults
stand in the dataclass alone. Nothing heavy is imported: help must stay fast.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, TypeVar

from surgery.errors import UsageError

Settings = TypeVar("Settings")
_KEY = "option"


@dataclass(frozen=True)
class Option:
    """What a field knows about itself.

    Attributes:
        help: one clause for people; the default is appended to it.
        group: the heading under which help lists it.
        flag: the option's name, where it is not the field's own with dashes; "" for that. A field that is
            true by default is switched off by `--no-...`.
        metavar: what stands for the value in help.
        choices: the words that are allowed (each of them, for a field that holds several). A table that grows
            may stand here: it is read when a value is checked or help is printed.
        least: the smallest number that is allowed.
        constant: where the option takes no value, the value that naming it stands for.
        bare: where the option takes a value or none, the value that naming it alone stands for.
        unset: what None means, in words: "calibrated", "the measure's own".
    """

    help: str
    group: str = "options"
    flag: str = ""
    metavar: str = ""
    choices: Collection[str] = ()
    least: float | None = None
    constant: Any = None
    bare: Any = None
    unset: str = ""


def setting(default: Any, help: str, **more: Any) -> Any:
    """A dataclass field with its default and its `Option`."""
    return field(default=default, metadata={_KEY: Option(help, **more)})


def option_fields(settings: type, groups: Iterable[str] | None = None) -> list[tuple[Field[Any], Option]]:
    """The fields that are options, in their order, of the named groups or of all."""
    wanted = None if groups is None else set(groups)
    found = [(one, one.metadata[_KEY]) for one in fields(settings) if _KEY in one.metadata]
    return [(one, option) for one, option in found if wanted is None or option.group in wanted]


def add_options(
    parser: argparse.ArgumentParser,
    settings: type,
    groups: Sequence[str] | None = None,
    leave_out: Iterable[str] = (),
) -> dict[str, argparse._ArgumentGroup]:
    """Add the options of a settings class to a parser, each group under its heading.

    Args:
        groups: only these groups, in this order; default: all, in the order of the fields.
        leave_out: names of fields that the command does not take.

    Returns:
        Heading -> its group in the parser, for options of the command that belong there too.
    """
    listed = option_fields(settings, groups)
    order = list(groups) if groups is not None else list(dict.fromkeys(option.group for _, option in listed))
    skipped, headings = set(leave_out), {}
    for name in order:
        members = [pair for pair in listed if pair[1].group == name and pair[0].name not in skipped]
        if not members:
            continue
        heading = headings[name] = parser.add_argument_group(name)
        for one, option in members:
            heading.add_argument(flag_of(one), dest=one.name, help=help_of(one), **_parsing(one, option))
    return headings


def settings_from(settings: type[Settings], arguments: argparse.Namespace, **fixed: Any) -> Settings:
    """The settings that the given options describe; `fixed` for some, defaults for all others.

    Raises:
        UsageError: a value makes no sense.
    """
    named = vars(arguments)
    given = {one.name: named[one.name] for one, _ in option_fields(settings) if one.name in named}
    return settings(**{**given, **fixed})


def check_settings(settings: Any) -> None:
    """Refuse values that are not finite, below their least, or not among their choices.

    Raises:
        UsageError: naming the option.
    """
    for one, option in option_fields(type(settings)):
        value, name = getattr(settings, one.name), flag_of(one).removeprefix("--")
        if option.constant is not None:  # its option is named after one value, not after the field
            name = one.name.replace("_", "-")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise UsageError(name, f"{number} is not a number", "give a finite number")
        if option.least is not None and value is not None and value < option.least:
            raise UsageError(
                name, f"{value} is less than {option.least:g}", f"give at least {option.least:g}"
            )
        if option.choices and value is not None:
            for word in (value,) if isinstance(value, str) else value:
                if word not in option.choices:
                    raise UsageError(
                        name, f"there is no {word!r}", f"choose from {', '.join(option.choices)}"
                    )


def flag_of(one: Field[Any]) -> str:
    """How the option of a field is written: `--theta-start`, `--no-theta`."""
    option: Option = one.metadata[_KEY]
    if option.flag:
        return option.flag
    return f"--{'no-' if one.default is True else ''}{one.name.replace('_', '-')}"


def help_of(one: Field[Any]) -> str:
    """The help of an option: its clause, its choices, its default."""
    option: Option = one.metadata[_KEY]
    if option.constant is not None or isinstance(one.default, bool):
        return option.help
    choices = f": {', '.join(option.choices)}" if option.choices else ""
    return f"{option.help}{choices} (default: {default_of(one)})"


def default_of(one: Field[Any]) -> str:
    """A default for people."""
    option: Option = one.metadata[_KEY]
    value = one.default
    assert value is not MISSING, f"{one.name} has no default"
    if isinstance(value, bool) or option.constant is not None:
        return "off"  # the option takes no value: until it is named, what it says is not done
    if value is None:
        return option.unset or "none"
    if isinstance(value, tuple):
        if not value:
            return option.unset or "none"
        separator = "," if "," in option.metavar else " "
        return separator.join(f"{word:g}" if isinstance(word, float) else str(word) for word in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _parsing(one: Field[Any], option: Option) -> dict[str, Any]:
    """The argparse keywords of an option, by the type of its field (a string here: `float | None`)."""
    kind: dict[str, Any] = {"default": argparse.SUPPRESS}
    if option.constant is not None:
        return {**kind, "action": "store_const", "const": option.constant}
    if isinstance(one.default, bool):
        return {**kind, "action": "store_false" if one.default else "store_true"}
    words = str(one.type).replace(" ", "")
    if option.metavar:
        kind["metavar"] = option.metavar
    if option.bare is not None:
        kind |= {"nargs": "?", "const": option.bare}
    if words.startswith("tuple[str"):
        return {**kind, "type": _words} if "," in option.metavar else {**kind, "nargs": "+"}
    if words.startswith("tuple[int"):
        return {**kind, "type": _numbers}
    if words.startswith("tuple[float"):
        return {**kind, "type": _decimals}
    if "int" in words.split("|"):
        return {**kind, "type": int}
    return {**kind, "type": float} if "float" in words.split("|") else kind


def _numbers(text: str) -> tuple[int, ...]:
    """`0,10,25` -> (0, 10, 25)."""
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} are not numbers; write 0,10,25") from None


def _decimals(text: str) -> tuple[float, ...]:
    """`1,7.5` -> (1.0, 7.5)."""
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} are not numbers; write 1,7.5") from None


def _words(text: str) -> tuple[str, ...]:
    """`embedding,output` -> ("embedding", "output")."""
    return tuple(word.strip() for word in text.split(","))


def unlike(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Where settings of an earlier run differ from those of this one, each as "seeds 2 there, 3 here"."""
    return [
        f"{name} {there.get(name)!r} there, {here.get(name)!r} here"
        for name in sorted({*there, *here})
        if there.get(name) != here.get(name)
    ]


def unlike_headers(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """The same of headers: of `settings` each one; of anything else, hashes of inputs mostly, the name."""
    differences = []
    for name in sorted({*there, *here}):
        before, now = there.get(name), here.get(name)
        if before == now:
            continue
        if name == "settings" and isinstance(before, dict) and isinstance(now, dict):
            differences += unlike(before, now)
        else:
            differences.append(name)
    return differences
