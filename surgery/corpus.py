"""Prompt corpora as people have them, read as a stream.

| suffix | read as |
|---|---|
| .txt | one caption a line |
| .csv, .tsv | a table with a caption column; comma, semicolon or tab as in its header line |
| .jsonl | one JSON object a line with a caption field, or one JSON string a line |
| .parquet | a caption column (needs pyarrow) |

The caption column is found by name: `caption`, `prompt` or `text`, in any case, in this order; `column` names
another. The published lists of memorized prompts are `Caption;URL;type;...` tables and read as they are.
Blank captions are skipped and counted, repeated ones are kept once and counted, broken rows are skipped and
reported with their line.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgery.errors import UsageError
from surgery.files import expanded

COLUMNS = ("caption", "prompt", "text")
SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")
BROKEN_ROWS_LISTED = 20
LONGEST_CELL = 1 << 24


@dataclass
class PromptCorpus:
    """Distinct captions in file order, and what was left out on the way.

    Attributes:
        prompts: the distinct captions.
        rows: rows read, blank and broken ones included.
        blank, repeated: rows without a caption; rows whose caption stood before.
        broken: (line, cause) of rows that could not be read, the first 20.
        broken_count: how many there were.
        source: the file's name, or "given prompts".
    """

    prompts: list[str] = field(default_factory=list)
    rows: int = 0
    blank: int = 0
    repeated: int = 0
    broken: list[tuple[int, str]] = field(default_factory=list)
    broken_count: int = 0
    source: str = "given prompts"

    def counts(self) -> dict[str, Any]:
        """The `corpus` object of `neurons.json`."""
        return {
            "source": self.source,
            "rows": self.rows,
            "prompts": len(self.prompts),
            "blank": self.blank,
            "repeated": self.repeated,
            "broken": self.broken_count,
        }


@dataclass(frozen=True)
class _Broken:
    line: int
    cause: str


def read_prompts(path: str | Path, column: str | None = None, limit: int | None = None) -> PromptCorpus:
    """Read a corpus file.

    Args:
        path: .txt, .csv, .tsv, .jsonl or .parquet.
        column: the caption column; default: found by name.
        limit: stop after so many distinct captions.

    Raises:
        UsageError: no such file, an unknown suffix, no caption column, text that is not UTF-8, no caption at
            all.
    """
    path = expanded(path)
    if not path.is_file():
        raise UsageError(path, "is a folder" if path.is_dir() else "no such file", "give a file of prompts")
    readers = {".txt": _lines, ".csv": _table, ".tsv": _table, ".jsonl": _json_lines, ".parquet": _parquet}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            path, f"{path.suffix or 'no suffix'} is not understood", f"give {', '.join(SUFFIXES)}"
        )
    try:
        corpus = collect_prompts(reader(path, column), limit)
    except UnicodeDecodeError as error:
        raise UsageError(
            path, f"is not UTF-8 text ({error.reason} at byte {error.start})", "convert it"
        ) from None
    except OSError as error:
        raise UsageError(
            path, f"cannot be read ({error.strerror or error})", "check its permissions"
        ) from None
    corpus.source = path.name
    if not corpus.prompts:
        raise UsageError(
            path, f"holds no prompt ({corpus.rows} rows, {corpus.broken_count} broken)", "give captions"
        )
    return corpus


def as_corpus(prompts: str | Path | Iterable[str] | PromptCorpus) -> PromptCorpus:
    """The corpus that a file name, captions or a corpus stand for.

    Raises:
        UsageError: it holds no prompt, or a caption is not text.
    """
    if isinstance(prompts, PromptCorpus):
        return prompts
    if isinstance(prompts, str | Path):
        return read_prompts(prompts)
    listed = list(prompts)
    for prompt in listed:
        if not isinstance(prompt, str):
            raise UsageError("prompts", f"{prompt!r} is not text", "give strings")
    corpus = collect_prompts(listed)
    if not corpus.prompts:
        raise UsageError("prompts", "there are none", "give at least one caption")
    return corpus


def collect_prompts(rows: Iterable[Any], limit: int | None = None) -> PromptCorpus:
    """Drop blank and repeated captions from a stream, and count them. Broken rows count as rows."""
    corpus = PromptCorpus()
    seen: set[str] = set()
    for row in rows:
        if limit is not None and len(seen) >= limit:
            break
        corpus.rows += 1
        if isinstance(row, _Broken):
            corpus.broken_count += 1
            if len(corpus.broken) < BROKEN_ROWS_LISTED:
                corpus.broken.append((row.line, row.cause))
            continue
        caption = str(row).strip()
        if not caption:
            corpus.blank += 1
        elif caption in seen:
            corpus.repeated += 1
        else:
            seen.add(caption)
            corpus.prompts.append(caption)
    return corpus


def _lines(path: Path, column: str | None) -> Iterator[str]:
    if column is not None:
        raise UsageError(path, "a .txt file has no columns", "leave --column out")
    with path.open(encoding="utf-8-sig") as file:
        yield from file


def _table(path: Path, column: str | None) -> Iterator[str | _Broken]:
    csv.field_size_limit(LONGEST_CELL)
    with path.open(encoding="utf-8-sig", newline="") as file:
        header_line = file.readline()
        separator = max(("\t", ";", ","), key=header_line.count)
        header = next(csv.reader([header_line], delimiter=separator), [])
        place = _column_place(path, header, column)
        reader = csv.reader(file, delimiter=separator)
        while True:
            line = reader.line_num + 2  # the reader starts below the header line
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield _Broken(line, str(error))
                continue
            if not cells:
                yield ""
            elif place >= len(cells):
                yield _Broken(line, f"{len(cells)} cells, and the caption is cell {place + 1}")
            else:
                yield cells[place]


def _json_lines(path: Path, column: str | None) -> Iterator[str | _Broken]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                yield ""
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield _Broken(number, f"is not JSON ({error})")
                continue
            if isinstance(value, dict):
                name = _find(list(value), column)
                value = value[name] if name is not None else None
            yield value if isinstance(value, str) else _Broken(number, "has no caption text")


def _parquet(path: Path, column: str | None) -> Iterator[str]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise UsageError(path, "reading parquet needs pyarrow", "pip install pyarrow") from None
    try:
        with parquet.ParquetFile(path) as file:
            header = file.schema_arrow.names
            name = header[_column_place(path, header, column)]
            for batch in file.iter_batches(columns=[name]):
                yield from (value or "" for value in batch.column(0).to_pylist())
    except pyarrow.ArrowException as error:
        cause = str(error).splitlines()[0]
        raise UsageError(path, f"is not a readable parquet file ({cause})", "check the file") from None


def _column_place(path: Path, header: list[str], column: str | None) -> int:
    name = _find(header, column)
    if name is None:
        shown = ", ".join(header[:10]) or "nothing"
        wanted = f"no column {column!r}" if column else "no caption, prompt or text column"
        raise UsageError(path, f"{wanted} (its header: {shown})", "name the column with --column")
    return header.index(name)


def _find(names: list[str], column: str | None) -> str | None:
    lowered = {name.strip().lower(): name for name in reversed(names)}
    for wanted in (column.strip().lower(),) if column else COLUMNS:
        if wanted in lowered:
            return lowered[wanted]
    return None
