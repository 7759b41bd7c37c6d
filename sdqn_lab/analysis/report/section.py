"""A part of a report."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sdqn_lab.analysis.figures import Figure
from sdqn_lab.analysis.tables import Table


@dataclass(frozen=True)
class Section:
    """A question and what answers it.

    Attributes:
        name: of its anchor in the page.
        title: the question.
        remarks: sentences that stand before everything else.
        items: tables and figures in their order.
    """

    name: str
    title: str
    remarks: Sequence[str] = ()
    items: Sequence[Table | Figure] = field(default_factory=list)

    @property
    def tables(self) -> list[Table]:
        """Its tables."""
        return [item for item in self.items if isinstance(item, Table)]

    @property
    def figures(self) -> list[Figure]:
        """Its figures."""
        return [item for item in self.items if isinstance(item, Figure)]
