"""`surgery patch SOURCE NEURONS -o OUT`: zero neurons for good, or apply an edit, in a new checkpoint."""

from __future__ import annotations

import argparse
import sys

from surgery.files import strict_json
from surgery.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("source", metavar="SOURCE", help="diffusers folder, single file, or cached Hub id")
    parser.add_argument(
        "neurons", metavar="NEURONS", help="neurons.json (layer name -> rows), or the folder of an edit"
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="folder or .safetensors file to write"
    )
    parser.add_argument("--revision", help="of a Hub id: branch, tag or commit (default: main)")
    parser.add_argument("--force", action="store_true", help="replace OUT, if an earlier patch wrote it")
    parser.add_argument(
        "--any-model", action="store_true", help="allow neurons that were found in another model"
    )
    parser.add_argument(
        "--keep", action="append", default=[], metavar="FILE", help="carry over one more text file or picture"
    )
    parser.add_argument(
        "--follow-links", action="store_true", help="carry over text files linked from outside the checkpoint"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="refuse a denoiser that text also enters by a way that zeroed rows cannot close",
    )
    parser.add_argument(
        "--sha256", action="store_true", help="hash every byte for the manifest, of large files too (slower)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Patch, print what was done, return 0."""
    from surgery.checkpoint.patch import patch

    result = patch(
        arguments.source,
        arguments.neurons,
        arguments.output,
        revision=arguments.revision,
        force=arguments.force,
        any_model=arguments.any_model,
        keep=arguments.keep,
        follow_links=arguments.follow_links,
        strict=arguments.strict,
        sha256=arguments.sha256,
        quiet=arguments.quiet,
    )
    if not arguments.quiet:
        for warning in result.warnings:
            print(f"surgery patch: warning: {printable(warning)}", file=sys.stderr)
    if arguments.json:
        document = {
            "output": str(result.output),
            "seconds": result.seconds,
            "warnings": list(result.warnings),
            "text_paths": list(result.text_paths),
            "left_out": [{"path": file.path, "reason": file.reason} for file in result.left_out],
            "manifest": result.manifest,
        }
        print(strict_json(document))
        return 0
    print(_summary(result.manifest))
    for file in result.left_out:
        print(printable(f"  left out: {file.path} ({file.reason})"))
    print(f"{printable(result.output)}: {result.bytes / 1e9:.3f} GB in {result.seconds:.1f} s")
    print(f"manifest: {printable(result.manifest_path)}")
    return 0


def _summary(manifest: object) -> str:
    assert isinstance(manifest, dict)
    neurons, copies, verified = manifest["neurons"], manifest["copies"], manifest["verified"]
    lines = [f"{neurons['count']} neurons in {len(neurons['layers'])} layers zeroed in {len(copies)} copies:"]
    lines += [f"  {copy['label']}: {'/'.join(copy['dtypes'])}, {copy['naming']} names" for copy in copies]
    equal = verified["rows_compared"] - verified["rows_zero"]
    if "trained" in manifest:
        lines.append(
            f"verified: {verified['rows_zero']} rows zero, "
            f"{manifest['trained']['count']} tensors as the edit says"
        )
    else:
        lines.append(
            f"verified: {verified['rows_zero']} rows zero, {equal} rows of {verified['value_layers']} "
            "value layers equal to the source"
        )
    return "\n".join(map(printable, lines))
