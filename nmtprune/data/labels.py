"""Labels of texts: from their names to the numbers that a model knows them by."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from nmtprune.data.ragged import Ids
from nmtprune.data.text import first_of
from nmtprune.errors import DataError

_SHOWN = 40
_LISTED = 10


def label_numbers(labels: Sequence[str], names: Sequence[str], where: str, place: Callable[[int], str]) -> Ids:
    """Numbers of labels that are written as their names or, where no name is such a number, as numbers.

    Args:
        labels: as a file has them.
        names: of the model's labels, by number.
        where: the file, for messages.
        place: of a label that is counted from 0, for messages: ``line 7``.

    Returns:
        [N], numbers from 0.

    Raises:
        DataError: labels that the model does not have, or names that two of its labels share; all faults.
    """
    known = {str(number): number for number in range(len(names))}
    if any(name in known and known[name] != number for number, name in enumerate(names)):
        known = {}
    known |= {name: number for number, name in enumerate(names)}
    shared = {name for name, count in Counter(names).items() if count > 1}
    faults = []
    for row, label in enumerate(labels):
        if label in shared:
            faults.append(f"{place(row)}: '{label[:_SHOWN]}' is the name of several labels")
        elif label not in known:
            faults.append(f"{place(row)}: '{label[:_SHOWN]}'")
    if faults:
        listed = ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
        raise DataError.of_faults(f"{where}: labels that the model does not have ({listed})", first_of(faults))
    return np.array([known[label] for label in labels], dtype=np.int64)


def only_label(labels: Ids, names: Sequence[str]) -> str | None:
    """The label that all texts have; None where there are several."""
    found = np.unique(labels)
    return names[int(found[0])] if len(found) == 1 else None
