"""`surgery upload OUT --repo-id OWNER/NAME`: say what would be published; with --push, publish it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from surgery.files import strict_json
from surgery.text import printable

if TYPE_CHECKING:
    from surgery.publish.upload import Upload


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("out", metavar="OUT", help="folder that patch wrote, with its audit and card")
    parser.add_argument("--repo-id", required=True, metavar="OWNER/NAME", help="the repository on the Hub")
    parser.add_argument("--push", action="store_true", help="act; without it nothing is sent or written")
    parser.add_argument("--public", action="store_true", help="for everybody to see (default: private)")
    parser.add_argument(
        "--replace", action="store_true", help="replace what the repository holds: delete its stale files"
    )
    parser.add_argument(
        "--accept-risk",
        metavar="REASON",
        help="publish although the verdict is not `removed`; the reason is written into the card",
    )
    parser.add_argument("--source", metavar="SOURCE", help="the checkpoint that was patched: prove the edit")
    parser.add_argument("--revision", help="of SOURCE, where it is a Hub id (default: main)")
    parser.add_argument("--audit", metavar="FILE", help="audit.json: the manifest must say what it says")
    parser.add_argument("--sign", metavar="PEM", help="sign the folder with this private key, with --push")
    parser.add_argument("--public-key", metavar="PEM", help="check the signature with this key")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="FILE", help="publish this picture or text as well"
    )


def run(arguments: argparse.Namespace) -> int:
    """Plan or push, print the list, and return 0, or 3 where a gate said no."""
    from surgery.publish.upload import upload

    done = upload(
        arguments.out,
        arguments.repo_id,
        push=arguments.push,
        public=arguments.public,
        replace=arguments.replace,
        accept_risk=arguments.accept_risk,
        source=arguments.source,
        revision=arguments.revision,
        audit=arguments.audit,
        sign=arguments.sign,
        public_key=arguments.public_key,
        allow=arguments.allow,
        quiet=arguments.quiet,
    )
    if arguments.json:
        print(strict_json(done.as_json()))
    else:
        print(as_table(done, arguments.quiet))
    return 3 if done.refusals else 0


def as_table(done: Upload, quiet: bool = False) -> str:
    """The upload for people: every file, what goes, what stays, what speaks against it."""
    kind = "private" if done.private else "public"
    lines = [f"{done.url} ({kind}; before: {done.remote})"]
    lines += [f"  {file.sha256}  {file.bytes:>13}  {file.path}" for file in done.files]
    lines += [f"  deleted: {path}" for path in done.deletes]
    lines += [f"  still there: {path}" for path in done.keeps]
    lines += [f"note: {note}" for note in done.notes if not quiet]
    lines += [f"refused: {reason}" for reason in done.refusals]
    total = sum(file.bytes for file in done.files) / 1e9
    if done.pushed:
        lines.append(f"published, read back and compared: {len(done.files)} files, commit {done.commit}")
    elif done.refusals:
        lines.append("NOT to be published")
    else:
        lines.append(
            f"would publish {len(done.files)} files, {total:.3f} GB; nothing was sent: --push does that"
        )
    return "\n".join(map(printable, lines))
