"""Two processes beside one, a thread each: how much faster, how evenly dealt, and the same result.

    python benchmarks/processes.py [--count N] [--only NAME ...] [--json FILE]

`localize`, `scan`, `audit` and `harden` on the embedded testbed, small: all of it takes about seven
minutes on two idle cores. Each is started by one process and then by N; the clock runs from the moment when
all have loaded their models (that takes as long for one as for many) until all have the result. A line says

- seconds of one process, of N, and their ratio, which needs N idle cores;
- sample-forwards of each of the N, and what their most allows for: sum / largest;
- CPU seconds of one process over the most of the N: the ratio that the machine's load hardly touches;
- whether the results are the same, seconds aside.

Nothing is written but a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from surgery.auditing.audit import audit
from surgery.auditing.canaries import own_copy
from surgery.auditing.identity import digest
from surgery.auditing.settings import AuditSettings
from surgery.hardening.harden import harden
from surgery.hardening.material import zero_rows
from surgery.hardening.settings import HardenSettings
from surgery.localization.calibration import calibrate
from surgery.localization.localize import localize
from surgery.localization.scan import scan
from surgery.localization.settings import LocalizeSettings
from surgery.model.pipeline import LiveModel, load_pipeline
from surgery.neurons import NeuronSet
from surgery.ordinary import ordinary_prompts
from surgery.processes import Processes
from surgery.testbed.demo import training_images
from surgery.testbed.load import PLANTED_FOLDER, read_ground_truth

AUDIT = AuditSettings(
    seeds=4, more_seeds=0, steps=10, ordinary=4, ordinary_seeds=2, timesteps=4, restarts=1, controls=6,
    attack=("embedding", "output"), curve=(0, 6), output_curve=(0, 4), selection_seeds=1,
    attack_guidance=(1.0,),
)  # fmt: skip
# The ladder of the default recipe for four memories at a thirteenth of its size: 7,460 runs of a sample,
# forward or backward, where the default has 97,016 if the gate never holds. Shares of it, here and there:
# gate 70 and 74 %, blinding 10 and 9 %, attack 7 and 5 %, repair 5 and 6 %, gathering 8 and 5 %. Ten images
# are attacked in the gate, two together (batch_size / attack_batch), which makes five pieces of each attack:
# with the default of eight together there would be two, and two processes would wait.
HARDEN = HardenSettings(
    rounds=2, embedding_steps=8, output_steps=4, blinding_states=128, repair_steps=8, positions=4,
    surrogates=1, ordinary=40, neighbors=2, drawing_steps=10, gate_embedding=16, gate_output=8,
    gate_ordinary=4, gate_seeds=2, gate_guidance=(1.0,), batch_size=8,
)  # fmt: skip
MEMORIES = read_ground_truth()


@dataclass
class Worker:
    """One process of a benchmark.

    Attributes:
        models: SOURCE, and SOURCE with the rows of the first memories zeroed.
        forwards: sample-forwards of this process, whatever the model.
    """

    processes: Processes
    source: LiveModel
    patched: LiveModel
    neurons: NeuronSet
    forwards: int = 0
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, processes: Processes) -> Worker:
        """With both models loaded."""
        neurons = NeuronSet().union(*(memory.neurons for memory in MEMORIES[:4]))
        source = load_pipeline(PLANTED_FOLDER, device="cpu", dtype="float32")
        worker = cls(processes, source, source, neurons)

        def count(module: Any, arguments: Any, keywords: dict[str, Any]) -> None:
            sample = keywords["sample"] if "sample" in keywords else arguments[0]
            worker.forwards += int(sample.shape[0])

        source.denoiser.register_forward_pre_hook(count, with_kwargs=True)  # copies keep it
        worker.patched = own_copy(source)
        zero_rows(worker.patched, neurons)
        return worker

    def timed(self, name: str, act: Callable[[], Any]) -> None:
        """Run a benchmark; `act` returns what must be the same for any number of processes."""
        self.processes.gather(None)
        before, started, cpu = self.forwards, time.perf_counter(), time.process_time()
        found = act()
        own = self.forwards - before, time.process_time() - cpu
        spent = self.processes.gather(own)
        self.results[name] = {
            "seconds": time.perf_counter() - started,
            "forwards": [forwards for forwards, _ in spent],
            "cpu_seconds": [seconds for _, seconds in spent],
            "digest": digest(found),
        }

    def run(self, names: list[str]) -> None:
        """Everything that is asked for."""
        captions = [memory.caption for memory in MEMORIES]
        ordinary, _ = ordinary_prompts(str(PLANTED_FOLDER))
        if "localize" in names or "scan" in names:
            settings = LocalizeSettings()
            calibration = calibrate(self.source, ordinary[:64], settings, score_prompts=6)
            given: dict[str, Any] = {"settings": settings, "calibration": calibration}
            given["processes"] = self.processes
        if "localize" in names:
            corpus = [*captions[:6], *ordinary[:24]]  # the long ones first: the short ones fill up the end
            self.timed("localize", lambda: _neurons(localize(self.source, corpus, **given)))
        if "scan" in names:
            many = ordinary[:256]
            given["settings"] = LocalizeSettings(confirm_seeds=0, batch_size=4)  # pieces of 32 prompts
            self.timed("scan", lambda: [one.as_json() for one in scan(self.source, many, **given).records])
        images = dict(zip(captions[:4], training_images(MEMORIES[:4]), strict=True))
        if "audit" in names:
            self.timed(
                "audit",
                lambda: _without_seconds(
                    audit(
                        self.source, self.patched, captions[:4], images, settings=AUDIT,
                        processes=self.processes,
                    ).document
                ),
            )  # fmt: skip
        if "harden" in names:
            with tempfile.TemporaryDirectory() as folder:
                edit = Path(self.processes.from_main(folder)) / "edit"
                self.timed("harden", lambda: self._hardened(captions[:4], images, edit))
                self.processes.gather(None)

    def _hardened(self, captions: list[str], images: dict[str, torch.Tensor], edit: Path) -> Any:
        result = harden(
            self.source, captions, edit, neurons=self.neurons, images=images, settings=HARDEN,
            keep_going=True, processes=self.processes,
        )  # fmt: skip
        tensors = result.rungs[-1].tensors
        return digest(*(tensors[name] for name in sorted(tensors)))


def _neurons(found: Any) -> Any:
    return [found.neurons.as_json(), [record.refined.as_json() for record in found.records]]


def _without_seconds(value: Any) -> Any:
    """A document without seconds, and without names that are drawn by chance."""
    if isinstance(value, dict):
        return {key: _without_seconds(one) for key, one in value.items() if key not in ("seconds", "id")}
    return [_without_seconds(one) for one in value] if isinstance(value, list) else value


def measure(count: int, names: list[str]) -> dict[str, dict[str, Any]]:
    """What so many processes took, by name of the benchmark."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {**os.environ, "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, __file__, "--work", "--only", *names]
    running = [
        subprocess.Popen(command, env={**shared, "RANK": str(rank)}, stdout=subprocess.PIPE)
        for rank in range(count)
    ]
    printed = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit("a process failed; see above")
    results: dict[str, dict[str, Any]] = json.loads(printed[0])
    return results


def table(count: int, alone: dict[str, dict[str, Any]], shared: dict[str, dict[str, Any]]) -> str:
    """The lines that a person reads."""
    lines = [
        f"{'':9} {'1 process':>10} {count:>3} processes {'ratio':>6}  {'forwards of each':>18} "
        f"{'allow for':>9} {'CPU ratio':>9}  result"
    ]
    for name, one in alone.items():
        many = shared[name]
        forwards, cpu = many["forwards"], many["cpu_seconds"]
        same = "the same" if one["digest"] == many["digest"] else "DIFFERS"
        lines.append(
            f"{name:9} {one['seconds']:>8.1f} s {many['seconds']:>11.1f} s "
            f"{one['seconds'] / many['seconds']:>6.2f}  {' + '.join(map(str, forwards)):>18} "
            f"{sum(forwards) / max(forwards):>9.2f} {one['cpu_seconds'][0] / max(cpu):>9.2f}  {same}"
        )
    return "\n".join(lines)


def main() -> None:
    """Start one process, then several, and print the lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = ["localize", "scan", "audit", "harden"]
    parser.add_argument("--count", type=int, default=2, help="processes beside one (default: 2)")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--json", metavar="FILE", help="write all numbers here")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.work:
        torch.set_num_threads(1)
        with Processes.join() as processes:
            worker = Worker.of(processes)
            worker.run(parsed.only)
            if processes.is_main:
                print(json.dumps(worker.results))
        return
    started = time.perf_counter()
    alone, shared = measure(1, parsed.only), measure(parsed.count, parsed.only)
    print(table(parsed.count, alone, shared))
    print(f"\n{time.perf_counter() - started:.0f} s in all; {os.cpu_count()} cores")
    if parsed.json:
        Path(parsed.json).write_text(json.dumps({"1": alone, str(parsed.count): shared}, indent=1))


if __name__ == "__main__":
    main()
