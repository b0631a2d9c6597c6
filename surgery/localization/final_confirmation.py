"""The confirmation of the corpus's one set, prompt by prompt, dealt out to the processes."""

from __future__ import annotations

from surgery.localization.one_prompt import PromptLocalizer
from surgery.localization.records import NOT_MEMORIZED, PromptRecord
from surgery.model.work import Work
from surgery.neurons import NeuronSet
from surgery.processes import Processes
from surgery.progress import bar


def confirm_final(
    localizer: PromptLocalizer,
    records: list[PromptRecord],
    neurons: NeuronSet,
    processes: Processes,
    show_progress: bool = False,
) -> list[PromptRecord]:
    """The records with the confirmation of the corpus's set, spread over the processes, in their order."""
    searched = [record for record in records if record.outcome != NOT_MEMORIZED]
    if not localizer.settings.confirm_seeds:
        return records
    done: dict[str, PromptRecord] = {}
    with bar(len(searched), "confirm", show_progress and processes.is_main) as progress:
        for number in processes.deal(len(searched)):
            record, work = searched[number], Work()
            final = localizer.confirmation.final(record.prompt, neurons, work)
            done[record.prompt] = record.with_final(final, work.as_json())
            progress.update(number + 1 - progress.n)
    everything: dict[str, PromptRecord] = {}
    for some in processes.gather(done):
        everything.update(some)
    return [everything.get(record.prompt, record) for record in records]
