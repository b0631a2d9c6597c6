"""`surgery diff A B`: compare two checkpoints row by row; with --plan, prove that nothing else changed."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from surgery.files import strict_json
from surgery.text import printable

if TYPE_CHECKING:
    from surgery.checkpoint.comparison.tensors import TensorDifference
    from surgery.checkpoint.diff import Difference

_TABLE_LIMIT = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "a", metavar="A", help="folder, single file, or cached Hub id (with --plan: the source)"
    )
    parser.add_argument(
        "b", metavar="B", help="the checkpoint to compare with it (with --plan: the patched one)"
    )
    parser.add_argument(
        "--plan",
        metavar="PLAN",
        help="neurons.json or edit: exit 0 only if B is what patch makes of A, else 3",
    )
    parser.add_argument(
        "--revision", help="of A, where it is a Hub id: branch, tag or commit (default: main)"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        help="relative difference that counts as none (default 0: bytes)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Compare, print, and return 0, or 3 when a plan is given and the difference is something else."""
    from surgery.checkpoint.diff import diff

    found = diff(
        arguments.a,
        arguments.b,
        plan=arguments.plan,
        revision=arguments.revision,
        tolerance=arguments.tolerance,
        quiet=arguments.quiet,
    )
    print(strict_json(as_json(found)) if arguments.json else as_table(found))
    return 0 if found.as_planned is not False else 3


def as_json(found: Difference) -> dict[str, Any]:
    """The difference as a JSON document; `as_planned` is null without a plan, an infinite `largest` too."""
    return {
        "identical": found.identical,
        "as_planned": found.as_planned,
        "violations": None if found.violations is None else list(found.violations),
        "layouts_differ": found.layouts_differ,
        "sets": [
            {
                "a": each.label,
                "b": each.other_label,
                "compared": each.compared,
                "added": list(each.added),
                "removed": list(each.removed),
                "changed": [_tensor_json(tensor) for tensor in each.changed],
            }
            for each in found.sets
        ],
        "only_a": list(found.only_a),
        "only_b": list(found.only_b),
        "files": [{"path": file.path, "kind": file.kind, "note": file.note} for file in found.files],
    }


def as_table(found: Difference) -> str:
    """The difference for people: one line per changed tensor, rows as ranges."""
    lines: list[str] = []
    for each in found.sets:
        name = each.label if each.label == each.other_label else f"{each.label} -> {each.other_label}"
        lines.append(f"{name}: {each.compared} tensors compared, {len(each.changed)} differ")
        rows: list[tuple[str, str, str]] = []
        for tensor in each.changed[:_TABLE_LIMIT]:
            rows.append((tensor.name, *_described(tensor)))
        width = max((len(row[0]) for row in rows), default=0)
        lines += [f"  {row[0]:<{width}}  {row[1]:>16}  {row[2]}" for row in rows]
        if len(each.changed) > _TABLE_LIMIT:
            lines.append(f"  ... and {len(each.changed) - _TABLE_LIMIT} more tensors (--json lists all)")
        lines += [f"  only in A: {name}" for name in each.removed[:_TABLE_LIMIT]]
        lines += [f"  only in B: {name}" for name in each.added[:_TABLE_LIMIT]]
    lines += [f"weights only in A: {label}" for label in found.only_a]
    lines += [f"weights only in B: {label}" for label in found.only_b]
    lines += [f"file {file.kind}: {file.path} ({file.note})" for file in found.files]
    if found.layouts_differ:
        lines.append("the layouts differ: files other than weights were not compared")
    return "\n".join(map(printable, [*lines, *_verdict(found)]))


def _verdict(found: Difference) -> list[str]:
    if found.violations is None:
        return ["identical"] if found.identical else ["different"]
    if not found.violations:
        return ["as planned: every planned row is zero in B, and nothing else differs"]
    shown = [f"  {sentence}" for sentence in found.violations[:_TABLE_LIMIT]]
    rest = len(found.violations) - len(shown)
    return ["NOT as planned:", *shown, *([f"  ... and {rest} more"] if rest else [])]


def _described(tensor: TensorDifference) -> tuple[str, str]:
    from surgery.neurons import shortened_rows

    if tensor.rows is None:
        (dtype_a, dtype_b), (shape_a, shape_b) = tensor.dtypes, tensor.shapes
        return "all", f"{dtype_a} {list(shape_a)} -> {dtype_b} {list(shape_b)}"
    count = f"{len(tensor.rows)} of {tensor.total_rows} rows"
    if tensor.all_zero:
        state = "zero in B"
    elif tensor.zero_rows:
        state = f"{len(tensor.zero_rows)} zero in B"
    else:
        state = f"not zero, largest change {tensor.largest:.3g}" if tensor.largest is not None else "not zero"
    return count, f"{state}: {shortened_rows(tensor.rows)}"


def _tensor_json(tensor: TensorDifference) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "dtypes": list(tensor.dtypes),
        "shapes": [list(shape) for shape in tensor.shapes],
        "rows": None if tensor.rows is None else list(tensor.rows),
        "zero_rows": list(tensor.zero_rows),
        "total_rows": tensor.total_rows,
        "all_zero": tensor.all_zero,
        "largest": tensor.largest,
    }
