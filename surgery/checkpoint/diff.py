"""Diff: which tensors and rows of two checkpoints differ, and is that exactly the plan?

1. Survey both; pair what is the same copy of the same component (`surgery.checkpoint.comparison.pairing`).
2. Compare tensor by tensor in file order, at reading speed where they are equal
   (`surgery.checkpoint.comparison.tensors`).
3. Compare all other files byte by byte; a file that one side lacks is listed, the manifest too.
4. With a plan: every edited row must hold in B what the plan says, and nothing else may differ
   (`surgery.checkpoint.comparison.violations`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from surgery.checkpoint.comparison.difference import Difference, SetDifference
from surgery.checkpoint.comparison.files import compare_files
from surgery.checkpoint.comparison.pairing import Pairing, WeightSet, pair_checkpoints
from surgery.checkpoint.comparison.tensors import compare_tensors
from surgery.checkpoint.comparison.violations import violations
from surgery.checkpoint.edit.edit_file import GivenEdit, load_edit
from surgery.checkpoint.edit.edits import Change
from surgery.checkpoint.formats.opening import open_pickle
from surgery.checkpoint.formats.same_bytes import equal_tensors
from surgery.checkpoint.formats.weights import Progress
from surgery.checkpoint.survey.source import locate
from surgery.checkpoint.survey.survey import Checkpoint, survey
from surgery.errors import SurgeryError, UsageError
from surgery.neurons import NeuronSet
from surgery.progress import byte_progress


def diff(
    a: str | Path,
    b: str | Path,
    *,
    plan: GivenEdit | None = None,
    revision: str | None = None,
    tolerance: float = 0.0,
    changes: Sequence[Change] = (),
    quiet: bool = True,
) -> Difference:
    """Compare two checkpoints: folders, single files, cached Hub ids, in any combination.

    Args:
        a: the first, with a plan the source.
        b: the second, with a plan the patched one.
        plan: neurons, or an edit; the result then says whether the difference is exactly that the rows are
            zero in B, and the trained tensors what the edit says.
        revision: of A, where it is a Hub id: branch, tag or commit.
        tolerance: relative difference of two values that counts as none; above 0 it also bridges dtypes (an
            fp16 twin against float32). 0 compares bytes.
        changes: what else is planned (`surgery.checkpoint.edit.edits.Change`), as `patch` was told.
        quiet: no progress bar.

    Returns:
        the difference; nothing is left unmentioned.

    Raises:
        UsageError: a side is no checkpoint, or the tolerance is negative or no number.
        SurgeryError: reading failed.
    """
    if not 0 <= tolerance < float("inf"):
        raise UsageError(
            "--tolerance", f"{tolerance} is not a number of at least 0", "give 0.001 for half precision"
        )
    edit = None if plan is None else load_edit(plan)
    one, other = survey(locate(a, revision), open_pickle), survey(locate(b), open_pickle)
    return compare_surveyed(
        one,
        other,
        plan=None if edit is None else edit.neurons,
        tolerance=tolerance,
        changes=changes if edit is None else (*edit.changes, *changes),
        quiet=quiet,
    )


def compare_surveyed(
    one: Checkpoint,
    other: Checkpoint,
    *,
    plan: NeuronSet | None = None,
    tolerance: float = 0.0,
    changes: Sequence[Change] = (),
    quiet: bool = True,
) -> Difference:
    """Compare two checkpoints that were surveyed, as `diff` does.

    Args:
        one, other: from `survey`.
        plan, tolerance, changes, quiet: as for `diff`.

    Raises:
        SurgeryError: reading failed.
    """
    pairing = pair_checkpoints(one, other)
    planned = None if plan is None and not changes else changes
    try:
        return _diff(pairing, planned, plan or NeuronSet(), tolerance, quiet)
    except OSError as error:
        names = f"{one.source.name}, {other.source.name}"
        raise SurgeryError(names, f"could not be compared ({error})", "run again") from error


def _diff(
    pairing: Pairing, changes: Sequence[Change] | None, neurons: NeuronSet, tolerance: float, quiet: bool
) -> Difference:
    total = sum(file.bytes for file in pairing.one.files)
    with byte_progress(total, "diff", quiet) as advance:
        equal: set[tuple[int, str, int, str]] = set()
        sets = tuple(
            _diff_sets(first, second, tolerance, pairing.by_component, equal, advance)
            for first, second in pairing.pairs
        )
        files = () if pairing.layouts_differ else tuple(compare_files(pairing.one, pairing.other, advance))
    difference = Difference(
        sets,
        tuple(each.label for each in pairing.only_a),
        tuple(each.label for each in pairing.only_b),
        files,
        pairing.layouts_differ,
    )
    if changes is None:
        return difference
    found = violations(difference, pairing, neurons, changes, tolerance, equal)
    return replace(difference, violations=tuple(found))


def _diff_sets(
    first: WeightSet,
    second: WeightSet,
    tolerance: float,
    across_layouts: bool,
    equal: set[tuple[int, str, int, str]],
    advance: Progress,
) -> SetDifference:
    changed = []
    shared = [name for name in first.tensors if name in second.tensors]
    for name in shared:
        (weights_a, one), (weights_b, other) = first.tensors[name], second.tensors[name]
        if equal_tensors(weights_a, one, weights_b, other, advance):
            equal.add((id(weights_a), one.name, id(weights_b), other.name))
            continue
        found = compare_tensors(
            weights_a, one, weights_b, other, tolerance=tolerance, name=name, across_layouts=across_layouts
        )
        if found is not None:
            changed.append(found)
    return SetDifference(
        first.label,
        second.label,
        tuple(sorted(second.tensors.keys() - first.tensors.keys())),
        tuple(sorted(first.tensors.keys() - second.tensors.keys())),
        tuple(changed),
        len(shared),
    )
