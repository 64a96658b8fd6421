"""Pictures of how scores or predictions are distributed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fedpredict.errors import InputError

_ENDINGS = (".png", ".svg", ".pdf")


def check_plot(path: Path | None) -> None:
    """Raise `InputError` where a picture is asked for that could not be saved, before anything is computed."""
    if path is None:
        return
    if path.suffix not in _ENDINGS:
        raise InputError(f"--plot {path}: a picture ends in {', '.join(_ENDINGS)}")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--plot {path}: there is no folder {path.absolute().parent}")
    if find_spec("matplotlib") is None:
        raise InputError("--plot needs matplotlib: pip install matplotlib; --json prints the same numbers")


def save_plot(path: Path, reports: Sequence[Mapping[str, Any]], what: str = "partial score") -> None:
    """Save one histogram for each model and output.

    Args:
        path: .png, .svg or .pdf.
        reports: As `report_of` returns them: `model`, `date` and `histograms` are used.
        what: The numbers.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415  slow to import, and mostly not there

    panels = [(report, each) for report in reports for each in report["histograms"]]
    figure = Figure(figsize=(7, 2.6 * max(1, len(panels))), layout="constrained")
    axes = figure.subplots(max(1, len(panels)), squeeze=False)[:, 0]
    for axis, (report, histogram) in zip(axes, panels, strict=False):
        first, width, counts = histogram["first"], histogram["width"], histogram["counts"]
        axis.bar([first + (at - 0.5) * width for at in range(len(counts))], counts, width=width)
        axis.set_title(f"{report['model']}, output {histogram['output']}, {report['date']}", fontsize=9)
        axis.set_xlabel(f"{what}; the outer bars hold all beyond")
        axis.set_ylabel("ids")
    figure.savefig(path)
