"""Split: a batch's arrays into everybody's rows."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from regard_server.engine.runner import Arrays
from regard_server.errors import NonFiniteOutputError, RegardError
from regard_server.work import Work

Rows = dict[str, npt.NDArray[np.float32]]


def split(outputs: Arrays, batch: Sequence[Work]) -> list[Rows | RegardError]:
    """Give every image its rows of the outputs it asked for; NaN and infinity are an error, never a vector."""
    finite = {name: _are_finite(values) for name, values in outputs.items()}
    rows: list[Rows | RegardError] = []
    for index, work in enumerate(batch):
        broken = [name for name in work.outputs if not finite[name][index]]
        if broken:
            names = ", ".join(broken)
            rows.append(NonFiniteOutputError(f"the network gave NaN or infinity in {names} for this image"))
        else:
            rows.append({name: outputs[name][index] for name in work.outputs})
    return rows


def _are_finite(values: npt.NDArray[np.float32]) -> list[bool]:
    """Tell for every image whether all its values are finite."""
    finite: npt.NDArray[np.bool_] = np.isfinite(values).reshape(len(values), -1)
    return [bool(row.all()) for row in finite]
