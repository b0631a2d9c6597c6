"""The proof: is B exactly what the plan makes of A?

The proof starts from what B holds: what could any loader read there as a value layer, under any name, in any
copy? All of it must be accounted for; what is not understood is a violation.

- Where A and B are of one layout, B must be what `patch` would write (`in_place`): the same files, the same
  headers, and in every byte what the plan says.
- Where they are not (a folder against a single file, one naming against another, half precision against
  full), tensors are paired by their meaning (`by_content`), and everything without a counterpart counts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from surgery.checkpoint.comparison.by_content import content_violations
from surgery.checkpoint.comparison.difference import Difference
from surgery.checkpoint.comparison.in_place import EqualTensors, in_place_violations
from surgery.checkpoint.comparison.pairing import Pairing
from surgery.checkpoint.edit.edits import Change
from surgery.checkpoint.edit.hidden_copies import check_no_hidden_copy
from surgery.checkpoint.edit.plan import Plan, make_plan
from surgery.checkpoint.edit.side_files import may_be_kept
from surgery.checkpoint.edit.verify import overlooked_value_layers
from surgery.checkpoint.formats.weights import SafetensorsWeights
from surgery.checkpoint.survey.roles import LEAVE_OUT, OTHER
from surgery.checkpoint.survey.survey import SINGLE
from surgery.errors import UsageError
from surgery.neurons import NeuronSet

LARGEST_TOLERANCE = 0.01  # bfloat16 rounds by 0.4 %; more proves nothing


def violations(
    difference: Difference,
    pairing: Pairing,
    neurons: NeuronSet,
    changes: Sequence[Change],
    tolerance: float,
    equal: EqualTensors,
) -> list[str]:
    """Everything in B that is not what the plan makes of A, one sentence each.

    Args:
        difference: what the comparison found.
        pairing: what it was found in.
        neurons: the rows that are zero in every copy.
        changes: what else is planned.
        tolerance: as for `compare_tensors`.
        equal: the tensors that the comparison found equal byte by byte.

    Raises:
        UsageError: the tolerance is too large to prove anything.
    """
    if tolerance > LARGEST_TOLERANCE:
        raise UsageError(
            "--tolerance", f"{tolerance:g} proves nothing", f"give at most {LARGEST_TOLERANCE:g} with a plan"
        )
    found = [f"B holds {path}, a pickle, which patch never writes" for path in _pickles(pairing)]
    try:
        plan = _plan(pairing, neurons, changes)
    except UsageError as error:
        return [*found, f"patch would not write it: {error}"]
    found += overlooked_value_layers(plan)
    if pairing.by_component or tolerance:
        found += content_violations(difference, pairing, plan, tolerance)
    else:
        found += in_place_violations(pairing.other, plan, equal)
    return list(dict.fromkeys(found))


def _plan(pairing: Pairing, neurons: NeuronSet, changes: Sequence[Change]) -> Plan:
    """What `patch` would do with A, keeping what B kept."""
    one, other = pairing.one, pairing.other
    name = other.source.path.name if other.kind == SINGLE and one.kind == SINGLE else ""
    keep = _kept(pairing) if one.kind != SINGLE and not pairing.layouts_differ else ()
    plan = make_plan(one, neurons, keep=keep, follow_links=True, output_name=name, changes=changes)
    check_no_hidden_copy(plan)
    return plan


def _kept(pairing: Pairing) -> list[str]:
    held = {file.path for file in pairing.other.files}
    return [
        file.path
        for file in pairing.one.files
        if file.path in held and file.action == LEAVE_OUT and file.role == OTHER and may_be_kept(file)
    ]


def _pickles(pairing: Pairing) -> Collection[str]:
    return [
        file.path
        for file in pairing.other.files
        if file.weights is not None and not isinstance(file.weights, SafetensorsWeights)
    ]
