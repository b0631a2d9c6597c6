"""`surgery apply RECIPE -o OUT`: localize, patch and diff as a recipe says."""

from __future__ import annotations

import argparse
import sys

from surgery.files import strict_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `surgery apply`."""
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe (TOML); see the recipes folder")
    parser.add_argument("-o", "--output", required=True, help="the patched checkpoint, new")
    parser.add_argument(
        "--neurons",
        help="where neurons.json goes (default: OUTPUT.neurons.json); it quotes prompts: do not publish it",
    )
    parser.add_argument("--model", help="in place of the recipe's model")
    parser.add_argument("--prompts", metavar="FILE", help="in place of the recipe's prompts")
    parser.add_argument("--device", help="cpu, cuda or mps (default: the best there is)")
    parser.add_argument(
        "--dtype", help="float32 (default on a CPU), float16, bfloat16, mixed-float16, mixed-bfloat16"
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry the recipe out; status 3 where a prompt's memory is left, 0 otherwise."""
    from surgery.apply import apply_recipe

    neurons_file = arguments.neurons or f"{arguments.output.rstrip('/')}.neurons.json"
    applied = apply_recipe(
        arguments.recipe,
        arguments.output,
        neurons_file,
        model=arguments.model,
        prompts=arguments.prompts,
        device=arguments.device,
        dtype=arguments.dtype,
        quiet=arguments.quiet,
    )
    count = applied.localization.neurons.count
    if arguments.json:
        summary = {
            "output": str(applied.output) if applied.output else None,
            "neurons": count,
            "prompts": len(applied.localization.records),
            "unresolved": applied.unresolved,
            "unconfirmed": applied.unconfirmed,
        }
        print(strict_json(summary))
    elif applied.output is None:
        print("no prompt is memorized: nothing to zero, no checkpoint written")
    else:
        print(f"{count} neurons zeroed: {applied.output}; the evidence: {neurons_file} (do not publish it)")
    left = applied.unresolved + applied.unconfirmed
    if left:
        fresh = f" ({applied.unconfirmed} of them on fresh seeds)" if applied.unconfirmed else ""
        print(f"{left} prompts stay memorized{fresh}: do not publish", file=sys.stderr)
        return 3
    return 0
