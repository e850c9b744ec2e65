"""Counts of outcomes and defects of one kind of trial, and the line of the table that shows them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Tally:
    """Outcomes and defects of trials, each with how often it was seen."""

    what: str
    trials: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    defects: Counter[str] = field(default_factory=Counter)

    def print(self) -> int:
        """One line, and one more for each defect -> number of defects."""
        outcomes = ", ".join(f"{name} {count}" for name, count in self.outcomes.items())
        print(f"{self.what:<44} {self.trials:>7}  {outcomes}", flush=True)
        for defect, count in self.defects.items():
            print(f"    DEFECT, {count} times: {defect}", flush=True)
        return self.defects.total()
