"""Two processes of a launcher, one recipe: search and audit are dealt out, the folder is that of one."""

import json
import os
import socket
import subprocess
import sys

from small_recipes import AUDIT, SEARCH, write_small_recipe

from surgery.applying.dealing import DEALT_OUT


def run_two(recipe, output, *options):
    """`surgery apply` as `torchrun --nproc-per-node 2` starts it: [(exit status, stdout, stderr)] by rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    words = [sys.executable, "-m", "surgery", "apply", recipe, "-o", output, "--device", "cpu", *options]
    running = [
        subprocess.Popen(
            [*map(str, words)],
            env={**shared, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (1, 0)
    ]
    ended = [(*process.communicate(timeout=300), process.returncode) for process in running]
    return [(status, out, error) for out, error, status in reversed(ended)]


def test_two_processes_make_what_one_makes(tmp_path):
    assert {"localize", "audit"} <= set(DEALT_OUT)
    folders = {}
    for name in ("two", "one"):
        folders[name] = tmp_path / name
        folders[name].mkdir()
        recipe = write_small_recipe(folders[name], body=SEARCH + AUDIT)
        if name == "two":
            main, other = run_two(recipe, folders[name] / "out", "--json", "--quiet")
            assert (main[0], other[0]) == (0, 0), (main, other)
            assert other[1] == "" and json.loads(main[1])["passed"]
        else:
            from surgery.applying.apply import apply_recipe

            assert apply_recipe(recipe, folders[name] / "out", device="cpu").passed
    work = folders["two"] / "out.evidence"
    journals = sorted(path.name for path in work.glob("localize-*.journal*"))
    assert len(journals) == 2, "each process writes a journal of its own"
    # whoever is free takes the next prompt; on a busy machine that may be the same one twice
    searched = [len((work / name).read_text().splitlines()) - 1 for name in journals]
    assert sum(searched) == 2, "each of two prompts once"
    published = [
        {
            path.relative_to(folder): path.read_bytes()
            for path in (folder / "out").rglob("*")
            if path.is_file() and path.name != "surgery-manifest.json"
        }
        for folder in folders.values()
    ]
    assert published[0] == published[1]
