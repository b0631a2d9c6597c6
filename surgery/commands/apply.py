"""`surgery apply RECIPE -o OUT`: from a recipe to a folder that may be published."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import TYPE_CHECKING, Any

from surgery.files import strict_json
from surgery.text import printable

if TYPE_CHECKING:
    from surgery.applying.forecast import ApplyPlan
    from surgery.applying.results import Applied, StepResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `surgery apply`."""
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe (TOML); see docs/recipes.md")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="the folder to publish, new")
    parser.add_argument(
        "--work",
        metavar="DIR",
        help="private evidence, and what a later run goes on from (default: OUT.evidence); do not publish it",
    )
    parser.add_argument("--model", help="in place of the recipe's model")
    parser.add_argument("--prompts", metavar="FILE", help="in place of the recipe's prompts")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be done and what it costs; write nothing"
    )
    parser.add_argument("--device", help="cpu, cuda or mps (default: the best there is)")
    parser.add_argument(
        "--dtype", help="float32 (default on a CPU), float16, bfloat16, mixed-float16, mixed-bfloat16"
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry the recipe out, print a summary; 0, or 3 where a gate said no."""
    from surgery.processes import Processes

    if arguments.dry_run:
        return _dry_run(arguments)
    from surgery.applying.apply import apply_recipe

    with Processes.join() as processes:
        applied = apply_recipe(
            arguments.recipe,
            arguments.output,
            **{**_asked(arguments), "device": processes.device(arguments.device)},
            processes=processes,
            on_step=None if arguments.quiet else _tell,
        )
    if processes.is_main:
        print(strict_json(applied.as_json()) if arguments.json else as_table(applied))
        for line in complaints(applied):
            print(printable(f"surgery apply: {line}"), file=sys.stderr)
    return applied.exit_status


def _asked(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        name: getattr(arguments, name) for name in ("work", "model", "prompts", "device", "dtype", "quiet")
    }


def _dry_run(arguments: argparse.Namespace) -> int:
    from surgery.applying.forecast import plan_recipe

    plan = plan_recipe(arguments.recipe, arguments.output, **_asked(arguments))
    print(strict_json(plan.as_json()) if arguments.json else plan_table(plan))
    return 0


def _tell(step: StepResult) -> None:
    """One line on stderr as a step ends: the table comes at the end, which may be hours away."""
    print(printable(f"{step.name}: {step.says} ({step.state}, {step.seconds:.1f} s)"), file=sys.stderr)


def as_table(applied: Applied) -> str:
    """What was done, as text: a line for every step, the gates, and what comes next."""
    lines = [f"{'step':<10} {'state':<10} {'seconds':>8}  result"]
    lines += [f"{one.name:<10} {one.state:<10} {one.seconds:>8.1f}  {one.says}" for one in applied.steps]
    lines.append("")
    lines += [
        f"gate {gate.name:<9} {'holds' if gate.passed else 'says NO':<8} {gate.says}"
        for gate in applied.gates
    ]
    if applied.output is None:
        lines.append("no prompt is memorized: nothing to zero, no checkpoint written")
        return "\n".join(map(printable, lines))
    lines.append(f"output:   {applied.output}")
    lines.append(f"evidence: {applied.work} (private: it quotes prompts)")
    if applied.passed:
        output, repository = shlex.quote(str(applied.output)), applied.repo_id or "OWNER/NAME"
        risk = "" if applied.facts("card")["open"] else ' --accept-risk "why, though the audit says this"'
        lines.append(f"next:     surgery upload {output} --repo-id {repository}{risk}")
    return "\n".join(map(printable, lines))


def complaints(applied: Applied) -> list[str]:
    """What must not be overlooked: warnings of the patch, gates that said no, an audit that was not made."""
    warned = [f"warning: {one}" for one in applied.facts("patch").get("warnings", ())]
    failed = [f"{gate.says}: do not publish" for gate in applied.gates if not gate.passed]
    declined = [gate.says for gate in applied.gates if gate.passed and gate.name == "audit"]
    if applied.output is not None and not applied.facts("audit"):
        failed += [f"{says}, or leave it at `audit = false`" for says in declined]
    return warned + failed


def plan_table(plan: ApplyPlan) -> str:
    """A dry run as text."""
    lines = [
        f"prompts:  {plan.prompts}",
        f"output:   {plan.output}",
        f"evidence: {plan.work} (private)",
        "",
        f"{'step':<10} {'sample-forwards':>26} {'bytes':>15}  state; note",
    ]
    for step in plan.steps:
        forwards = "-" if step.forwards is None else f"{step.bound} {step.forwards:,}".strip()
        size = f"{step.bytes:,}" if step.bytes else "-"
        note = f"; {step.note}" if step.note else ""
        lines.append(f"{step.name:<10} {forwards:>26} {size:>15}  {step.state}{note}")
    lines.append(f"{'to be done':<10} {plan.forwards:>26,} {plan.bytes:>15,}  by these bounds")
    if not plan.audited:
        lines.append("NOTHING WOULD BE AUDITED")
    lines.append("nothing was written: run without --dry-run")
    return "\n".join(map(printable, lines))
