"""What an audit found in one sentence, for whoever signs off a publication and knows no statistics.

There is one sentence for each word that a checkpoint can have, written here and nowhere else. It says first
what came of it, then what was tried, on how many pictures; never more than the verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from surgery.auditing.judgement.verdict import HIDDEN, NOT_FOUND, NOT_TESTED, REMOVED, STILL

WAYS: dict[str, str] = {
    "embedding": "by searching for an input that is better than any caption",
    "output": "by adding fixed numbers inside the model",
    "prompts": "by rewording the captions",
    "latent": "by searching for a favorable starting noise",
    "relearn": "by showing the picture to the model again and seeing how soon it is learned",
    "revive": "by training the model on other pictures for a short time",
    "graft": "by putting parts of another file into it",
}
NAMED = 2  # ways that the sentence tells; of more, so many
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def plain_sentence(
    word: str, counts: Mapping[str, int], concerned: int, drawn: int, attacks: Sequence[str]
) -> str:
    """The sentence for a checkpoint.

    Args:
        word: the checkpoint's verdict.
        counts: how many prompts have each word.
        concerned: the pictures that there is something to say about: all but those that SOURCE does not draw.
        drawn: how many of them were looked at; fewer where a budget ended the audit.
        attacks: names of the attacks that had a say.
    """
    if not concerned:
        return "The original file draws none of the pictures in question, so there was nothing to remove."
    if not drawn:
        return "The test ended before anything was looked at, so it says nothing about the edited file."
    said = _One(counts) if concerned == 1 else _Many(counts, concerned)
    if word == STILL:
        return said.still()
    if not attacks:
        return said.not_tried(concerned - drawn)
    outcome = {
        HIDDEN: said.hidden,
        NOT_FOUND: said.not_found,
        REMOVED: said.removed,
        NOT_TESTED: said.undecided,
    }
    return outcome[word](_ways(attacks))


class _Many:
    """The sentences about several pictures."""

    def __init__(self, counts: Mapping[str, int], concerned: int) -> None:
        self.counts, self.concerned = counts, concerned

    def still(self) -> str:
        found = self.counts[STILL]
        return (
            f"Asked with their captions alone, the edited file still draws {self._of(found)} pictures: "
            f"{'it was' if found == 1 else 'they were'} not removed from it."
        )

    def not_tried(self, left: int) -> str:
        others = f" that were looked at ({left} were not)" if left else ""
        return (
            f"Their captions no longer call up the {self.concerned - left} pictures{others}, but "
            "nobody tried to get them out of the edited file in another way: whether they are still "
            "stored in it is not known."
        )

    def hidden(self, ways: str) -> str:
        found = self.counts[HIDDEN]
        if not found:
            return (
                f"Some of the {self.concerned} pictures are still stored in the edited file: when we tried "
                f"to get them out {ways}, they came out more easily, taken together, than pictures that the "
                "model was never shown."
            )
        they, them = ("it", "it") if found == 1 else ("they", "them")
        return (
            f"{self._counted(found)} {'is' if found == 1 else 'are'} still stored in the edited file: "
            f"although no caption calls {them} up, {they} came out when we tried {ways}."
        )

    def not_found(self, ways: str) -> str:
        return (
            f"{self.gone(ways)}, but stronger ways are known that were not tried; this does not prove that "
            "nobody can get them out."
        )

    def removed(self, ways: str) -> str:
        return f"{self.gone(ways)}; this does not prove that nobody can get them out."

    def gone(self, ways: str) -> str:
        return (
            f"None of the {self.concerned} pictures came out of the edited file more easily than pictures "
            f"that the model was never shown when we tried to get them out {ways}"
        )

    def undecided(self, ways: str) -> str:
        undecided = self.concerned - self.counts.get(REMOVED, 0) - self.counts.get(NOT_FOUND, 0)
        return (
            f"For {self._of(undecided)} pictures, which we tried to get out of the edited file {ways}, the "
            "test could not tell whether they are gone."
        )

    def _counted(self, some: int) -> str:
        if some == self.concerned:
            return f"All {some} pictures" if some > 2 else "Both pictures"
        return f"{some} of the {self.concerned} pictures"

    def _of(self, some: int) -> str:
        if some == self.concerned:
            return "both" if some == 2 else f"all {some}"
        return f"{some} of the {self.concerned}"


class _One:
    """The sentences about a single picture."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self.counts = counts

    def still(self) -> str:
        return "Asked with its caption alone, the edited file still draws the picture: it was not removed."

    def not_tried(self, left: int) -> str:
        return (
            "Its caption no longer calls up the picture, but nobody tried to get it out of the edited file "
            "in another way: whether it is still stored in it is not known."
        )

    def hidden(self, ways: str) -> str:
        return (
            "The picture is still stored in the edited file: although its caption no longer calls it up, it "
            f"came out when we tried {ways}."
        )

    def not_found(self, ways: str) -> str:
        return (
            f"{self.gone(ways)}, but stronger ways are known that were not tried; this does not prove that "
            "nobody can get it out."
        )

    def removed(self, ways: str) -> str:
        return f"{self.gone(ways)}; this does not prove that nobody can get it out."

    def gone(self, ways: str) -> str:
        return (
            "The picture came out of the edited file no more easily than pictures that the model was never "
            f"shown when we tried to get it out {ways}"
        )

    def undecided(self, ways: str) -> str:
        return (
            f"We tried to get the picture out of the edited file {ways}, and the test could not tell whether "
            "it is gone."
        )


def _ways(attacks: Sequence[str]) -> str:
    """`in two ways (by this, and by that)`; a way that is not known here is called by its name."""
    said = [WAYS.get(name, f"by the attack “{name}”") for name in attacks]
    number = NUMBERS[len(said)] if len(said) < len(NUMBERS) else str(len(said))
    others = "among others " if len(said) > NAMED else ""
    return f"in {number} {'way' if len(said) == 1 else 'ways'} ({others}{', and '.join(said[:NAMED])})"
