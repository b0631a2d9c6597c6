"""Apply a recipe: calibrate, localize, harden, patch, diff, audit, card, verify. What an upload script calls.

1. Read and check everything that can be checked without work (`surgery.applying.request`).
2. For each step that the recipe asks for: hash what it depends on; skip it where the ledger has the same
   hashes, and what it left is still there and unchanged (`surgery.applying.ledger`).
3. Else do it, going on from what a killed run left, and note it.
4. Ask the gates (`surgery.applying.results`).

The output holds what may be published and nothing else; evidence that quotes prompts or shows pictures lies
in the working folder beside it, readable by its owner only. Of several processes, all work on the steps that
are dealt out (`surgery.applying.dealing`), and process 0 does the others while the rest wait.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from surgery.applying.dealing import is_dealt_out
from surgery.applying.ledger import DAMAGED, NEW, STARTED, Entry, Ledger, digests
from surgery.applying.recipe import Recipe
from surgery.applying.request import Request, check_denoiser, make_request
from surgery.applying.results import DONE, UNCHANGED, Applied, StepResult, gates_of
from surgery.applying.run import Run
from surgery.applying.steps.patch import check_free, check_place, check_room
from surgery.applying.steps.sequence import SEARCH, WRITE, steps_of
from surgery.applying.steps.step import Step
from surgery.errors import UsageError
from surgery.processes import Processes

OnStep = Callable[[StepResult], None]


def apply_recipe(
    recipe: Recipe | str | Path,
    output: str | Path,
    *,
    work: str | Path | None = None,
    model: str | Path | None = None,
    prompts: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    processes: Processes | None = None,
    on_step: OnStep | None = None,
    quiet: bool = True,
) -> Applied:
    """Carry a recipe out, from prompts to a folder that may be published; go on where an earlier run stopped.

    Args:
        recipe: a read recipe, or its file.
        output: the folder to make. One that an earlier run of the same working folder made is replaced where
            the recipe's inputs have changed.
        work: the working folder: private evidence, and what a later run goes on from; default: beside the
            output, `OUTPUT.evidence`.
        model, prompts: take the place of the recipe's.
        device, dtype: as for `load_pipeline`.
        processes: this process among those of a launcher (`Processes.join`); default: the only one.
        on_step: called on process 0 with every step as it ends.
        quiet: no progress bars.

    Returns:
        what was done and what the gates say; the same on every process.

    Raises:
        UsageError: the recipe or one of its parts is wrong, or the output is somebody else's. Nothing was
            written.
        GateError: hardening does not reach its gate, or the output differs from its source in more than the
            plan, or does not verify.
        SurgeryError: a step failed; the same call goes on from there.
    """
    processes = processes or Processes()
    request = make_request(
        recipe, output, work=work, model=model, prompts=prompts, device=device, dtype=dtype, quiet=quiet
    )
    existed = os.path.lexists(request.work)
    run = Run(request, Ledger(request.work, request.output), processes)
    try:
        check_free(run)
        processes.gather(None)  # nobody looks for the working folder any more: process 0 may make it
        with run.ledger.held() if processes.is_main else nullcontext():
            _fetch(request, processes)
            check_place(run)
            check_room(run)
            results = _steps(run, on_step)
    except UsageError:
        if processes.is_main and not existed and run.ledger.is_empty:
            run.ledger.remove()  # nothing was done: nothing is left
        raise
    patched = "patch" in run.facts
    return Applied(
        output=request.output if patched else None,
        work=request.work,
        neurons_file=run.neurons_file,
        steps=tuple(results),
        gates=gates_of(run),
        repo_id=request.recipe.publish.repo_id,
    )


def decide(step: Step, run: Run, inputs: Mapping[str, Any]) -> str | None:
    """Why a step must be done, in words; None where it is done already."""
    entry = run.ledger.entry(step.name)
    if entry is None:
        return NEW
    if changed := entry.changed(digests(inputs)):
        return f"changed: {', '.join(changed)}"
    if not entry.done:
        return STARTED
    return None if step.left(run) == entry.left else DAMAGED


def _fetch(request: Request, processes: Processes) -> None:
    """Download a Hub id that is not in the cache, as `load_pipeline` does."""
    if request.source is not None:
        return
    if processes.is_main:
        from surgery.model.pipeline import load_pipeline

        load_pipeline(
            request.model, request.device, request.dtype, request.revision, request.recipe.model.variant
        )
    processes.from_main(None)
    check_denoiser(request)


def _steps(run: Run, on_step: OnStep | None) -> list[StepResult]:
    asked = steps_of(run)
    results = [_step(step, run, on_step) for step in asked if step in SEARCH]
    if _is_anything_to_do(run):
        results += [_step(step, run, on_step) for step in asked if step in WRITE]
    return results


def _is_anything_to_do(run: Run) -> bool:
    """Whether there are neurons to zero or memories to train away.

    Raises:
        UsageError: there are none, and the output holds what an earlier recipe made.
    """
    facts = run.facts.get("localize") or run.facts["neurons"]
    trains = run.request.recipe.harden is not None
    anything = bool(run.processes.from_main(facts["neurons"] or (trains and run.memorized())))
    if not anything and os.path.lexists(run.request.output):
        raise UsageError(
            run.request.output, "is of an earlier recipe, and this one finds nothing to patch", "remove it"
        )
    return anything


def _step(step: Step, run: Run, on_step: OnStep | None) -> StepResult:
    """One step on all processes: process 0 decides, and all leave with its result."""
    processes = run.processes
    known: StepResult | None = None
    inputs: dict[str, Any] = {}
    if processes.is_main:
        inputs = step.inputs(run)
        known = _begun(step, run, inputs)
    known = processes.from_main(known)
    if known is None:
        started = time.perf_counter()
        facts: dict[str, Any] = {}
        if is_dealt_out(step.name):
            run.ledger.hashes.learn(processes.from_main(run.ledger.hashes.as_json()))
        if processes.is_main or is_dealt_out(step.name):
            facts = step.do(run)
        seconds = time.perf_counter() - started
        if processes.is_main:
            if step.is_complete(facts):
                run.ledger.finish(step.name, inputs, step.left(run), facts, seconds)
            known = StepResult(step.name, DONE, round(seconds, 3), step.says(facts), facts)
        known = processes.from_main(known)
    assert known is not None
    run.facts[step.name] = known.facts
    if processes.is_main and on_step is not None:
        on_step(known)
    return known


def _begun(step: Step, run: Run, inputs: Mapping[str, Any]) -> StepResult | None:
    """The result of a step that is done; else None, with everything ready for doing it."""
    entry = run.ledger.entry(step.name)
    reason = decide(step, run, inputs)
    if reason is None:
        assert entry is not None
        return StepResult(step.name, UNCHANGED, entry.seconds, step.says(entry.facts), entry.facts)
    if reason != STARTED:
        step.clear(run)
    if reason == DAMAGED:
        assert entry is not None
        _remove_damaged(step, run, entry)
    run.ledger.start(step.name, inputs)
    return None


def _remove_damaged(step: Step, run: Run, entry: Entry) -> None:
    """Remove files of the working folder that are not as the step left them: they are not gone on from."""
    for name, left in entry.left.items():
        path = Path(name)
        if run.work in path.parents and run.ledger.hashes.of(path) != left:
            path.unlink(missing_ok=True)
