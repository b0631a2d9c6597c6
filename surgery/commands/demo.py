"""`surgery demo`: the whole job on the embedded testbed."""

from __future__ import annotations

import argparse

from surgery.files import strict_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `surgery demo`."""
    parser.add_argument("-o", "--output", default="surgery-demo", help="a new folder (default: surgery-demo)")
    parser.add_argument("--seeds", type=int, default=8, help="fresh seeds drawn per prompt (default: 8)")
    parser.add_argument("--device", help="cpu, cuda or mps (default: the best there is)")
    parser.add_argument(
        "--dtype", help="float32 (default on a CPU), float16, bfloat16, mixed-float16, mixed-bfloat16"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the demo, print its closing table or its one JSON line; status 0."""
    from surgery.testbed.demo import run_demo

    result = run_demo(
        arguments.output,
        seeds=arguments.seeds,
        device=arguments.device,
        dtype=arguments.dtype,
        quiet=arguments.quiet,
    )
    if arguments.json:
        print(strict_json(result.as_json()))
        return 0
    print(f"{'memory':<10} {'kind':<9} {'rows':>4} {'before':>7} {'after':>6}  (fresh seeds that replicate)")
    for memory in result.memories:
        before, after = result.before[memory.name].share, result.after[memory.name].share
        print(f"{memory.name:<10} {memory.kind:<9} {memory.neurons.count:>4} {before:>7.0%} {after:>6.0%}")
    for kind in ("verbatim", "template"):
        before, after = result.share(kind, result.before), result.share(kind, result.after)
        print(f"{'all':<10} {kind:<9} {'':>4} {before:>7.0%} {after:>6.0%}")
    shown = result.at_own_guidance()
    print(
        f"{'all':<10} at guidance {shown['guidance']:g}: {shown['replicas']} of {shown['pictures']} pictures "
        f"are replicas"
    )
    print(
        f"\n{result.neurons.count} neurons zeroed in one mask. Ordinary prompts changed by "
        f"{result.ordinary_change:.2f} of what another seed changes.\n"
        f"{arguments.output}: demo.png (look at it), neurons.json, patched/, demo.json. "
        f"{result.seconds:.0f} seconds."
    )
    return 0
