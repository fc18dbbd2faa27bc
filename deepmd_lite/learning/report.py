"""What has been learnt, round by round: a table and a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..files import write_atomically
from ..page import panels, png

TABLE, PICTURE = "rounds.csv", "rounds.png"


@dataclass(frozen=True)
class Round:
    """What one round came to; forces in eV/Å are lengths of vectors."""

    number: int
    frames_training: int
    frames_validation: int
    error_validation: float
    """Root mean square, of the forces on atoms of the validation frames, or of the training's where
    there are none."""
    explored: int
    accurate: int
    candidates: int
    failed: int
    broke_off: int
    """Runs that a guard ended."""
    largest_deviation: float
    labelled: int = 0
    error_labelled: float | None = None
    """Root mean square, of this round's model on the frames that were labelled after it."""
    deviation_labelled: float | None = None
    """What that model had said of it."""

    def line(self) -> str:
        """In words."""
        share = 100.0 / max(self.explored, 1)
        found = (
            f"round {self.number}: {self.frames_training} + {self.frames_validation} frames, "
            f"force error {self.error_validation:.3g} eV/Å on "
            f"{'the latter' if self.frames_validation else 'those of the training'}; "
            f"{self.explored} explored: accurate {share * self.accurate:.1f} %, candidates "
            f"{share * self.candidates:.1f} %, failed {share * self.failed:.1f} %, largest "
            f"deviation {self.largest_deviation:.3g} eV/Å"
        )
        if self.broke_off:
            found += f"; {self.broke_off} run{'s' * (self.broke_off != 1)} broke off"
        if self.labelled:
            found += (
                f"; {self.labelled} labelled, error there {self.error_labelled:.3g} eV/Å, foretold "
                f"{self.deviation_labelled:.3g}"
            )
        return found


def what_helps(last: Round, most: int, initial: bool) -> str:
    """What is to be added to the advice of more rounds; empty where these are enough.

    Where explorations break off before they have met the `most` structures that a round may have
    labelled, each brings a few. `initial`: whether the loop began with structures of its own.
    """
    met = last.candidates + last.failed
    if not last.broke_off or met >= most:
        return ""
    data = "more 'initial' frames, or more rattled ones" if initial else "more training data"
    return (
        f"; the last explorations broke off after {met} structures to label, of up to {most} a "
        f"round: {data} or a lower temperature to begin with make rounds larger"
    )


def write_report(rounds: Sequence[Round], folder: Path) -> None:
    """`rounds.csv` and `rounds.png`, anew."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(asdict(rounds[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(r) for r in rounds)
    write_atomically(folder / TABLE, text.getvalue().encode())
    write_atomically(folder / PICTURE, _picture(rounds))


def _picture(rounds: Sequence[Round]) -> bytes:
    from matplotlib.ticker import MaxNLocator

    figure, (shares, errors, data) = panels(3)
    for axis in (shares, errors, data):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    numbers = [r.number for r in rounds]
    low = [0.0] * len(rounds)
    for name, color in (("accurate", "C2"), ("candidates", "C1"), ("failed", "C3")):
        part = [100.0 * getattr(r, name) / max(r.explored, 1) for r in rounds]
        shares.bar(numbers, part, bottom=low, color=color, label=name)
        low = [a + b for a, b in zip(low, part, strict=True)]
    shares.set(xlabel="round", ylabel="explored structures (%)")
    shares.legend(fontsize=8, loc="lower left")
    errors.plot(numbers, [r.error_validation for r in rounds], "o-", label="error, held out")
    labelled = [r for r in rounds if r.labelled]
    for name, what in (
        ("error_labelled", "error, newly labelled"),
        ("deviation_labelled", "foretold"),
    ):
        values = [getattr(r, name) for r in labelled]
        errors.plot([r.number for r in labelled], values, "s--", ms=4, label=what)
    errors.set(xlabel="round", ylabel="force (eV/Å)", ylim=(0, None))
    errors.legend(fontsize=8)
    data.plot(numbers, [r.frames_training for r in rounds], "o-", label="training")
    data.plot(numbers, [r.frames_validation for r in rounds], "o-", label="validation")
    data.set(xlabel="round", ylabel="frames", ylim=(0, None))
    data.legend(fontsize=8)
    return png(figure)
