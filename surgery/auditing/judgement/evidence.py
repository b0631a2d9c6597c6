"""What a verdict is drawn from: the numbers of one prompt, attack by attack. No model, no picture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AttackEvidence:
    """What one attack found of one prompt's image; scores as `surgery.auditing.attack.protocol` makes them.

    Attributes:
        name: of the attack.
        effort: what it spent on the image: steps, prompts.
        passes_edit: whether it must go through the text conditioning, which an edit can close.
        learns: whether it teaches the image to the weights, and is scored by how soon it comes.
        source, patched, twin: the score on SOURCE, on PATCHED and on the twin; None where it was not made.
        highest, twin_highest: the most alike of all pictures that it drew from PATCHED, from the twin.
        controls: its scores on PATCHED for images that no model saw, under this prompt's mask.
        controls_highest: the most alike of all pictures that it drew of any of them.
        controls_twin: the same on the twin, in the same order; empty without one.
        shortfall: why it is weaker than its effort says; "" where it is not.
        blind: why the canaries show that it sees nothing; "" where they do not, or where there are none.
    """

    name: str
    effort: int
    passes_edit: bool = True
    learns: bool = False
    source: float | None = None
    patched: float | None = None
    twin: float | None = None
    highest: float | None = None
    twin_highest: float | None = None
    controls: tuple[float, ...] = ()
    controls_highest: float | None = None
    controls_twin: tuple[float, ...] = ()
    shortfall: str = ""
    blind: str = ""

    @property
    def paired(self) -> bool:
        """Whether everything can be compared with the twin, image by image."""
        return self.twin is not None and len(self.controls_twin) == len(self.controls)

    @property
    def score(self) -> float:
        """What is judged: PATCHED's score, or what it exceeds the twin's by."""
        assert self.patched is not None
        return self.patched - self._floor

    @property
    def control_scores(self) -> tuple[float, ...]:
        """The same of the controls."""
        if not self.paired:
            return self.controls
        return tuple(one - other for one, other in zip(self.controls, self.controls_twin, strict=True))

    @property
    def source_score(self) -> float | None:
        """The same of SOURCE, which holds the memory."""
        return None if self.source is None else self.source - self._floor

    @property
    def _floor(self) -> float:
        return self.twin if self.paired and self.twin is not None else 0.0


@dataclass(frozen=True)
class Evidence:
    """What was measured for one prompt; None where it was not.

    Attributes:
        before, after: share of seeds that replicate, in SOURCE and in PATCHED.
        tried: on how many seeds.
        attacks: those that have a say.
        canaries: how many pictures of known presence the attacks were tried on.
    """

    before: float | None = None
    after: float | None = None
    tried: int = 0
    attacks: tuple[AttackEvidence, ...] = ()
    canaries: int = 0
