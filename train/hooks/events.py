"""TensorBoard's event files, written at once: what :meth:`EventLog.flush` returned from has left the process.

``tensorboardX.SummaryWriter`` hands events to two threads through a queue; a run that is killed loses what still waits
there, though the checkpoint beside it has been written. One event of ``EventLog`` holds all values of its step.
"""

from __future__ import annotations

import io
import re
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from tensorboard.plugins.hparams import api_pb2 as hparams
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboardX.record_writer import RecordWriter

from train.rundir.folder import make_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SECONDS_BETWEEN_FLUSHES = 5.0
"""What TensorBoard shows of a running job is at most this old."""

HISTOGRAM_BINS = 64
_EVENT_FILE = re.compile(r"events\.out\.tfevents\.(\d+)\.")


class EventLog:
    """One event file, appended to the others in ``folder``.

    Args:
        suffix: end of the file's name, which otherwise holds the second of its making and the host.
        purge_step: where a run goes on: readers drop what earlier files say about this step and later ones.

    Raises:
        OSError: when the file cannot be written.
    """

    def __init__(self, folder: Path, *, suffix: str = "", purge_step: int | None = None):
        make_folder(folder)
        # TensorBoard reads files in the order of their names, so a clock that was set back must not decide it.
        latest = max(
            (int(match[1]) for path in folder.iterdir() if (match := _EVENT_FILE.match(path.name))), default=-1
        )
        second = max(int(time.time()), latest + 1)
        self._writer = RecordWriter(str(folder / f"events.out.tfevents.{second:010d}.{socket.gethostname()}{suffix}"))
        self._flushed = 0.0
        self._write(Event(file_version="brain.Event:2"))
        if purge_step is not None:
            self._write(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))

    def add(self, step: int, *values: Summary.Value | Summary) -> None:
        """Write one event at x = ``step``."""
        event = Event(step=step)
        for value in values:
            event.summary.value.extend(value.value if isinstance(value, Summary) else [value])
        self._write(event)

    def add_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        self.add(step, *(Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items()))

    def flush(self) -> None:
        self._writer.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        self._writer.close()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())
        if time.monotonic() - self._flushed >= SECONDS_BETWEEN_FLUSHES:
            self.flush()


def text(tag: str, markdown: str) -> Summary:
    """A page of Markdown under ``tag``; tables stand as in a terminal, since TensorBoard breaks numbers in its own."""
    tables = r"(?:^\|.*(?:\n|\Z))+"
    markdown = re.sub(tables, lambda table: f"```\n{table[0].rstrip()}\n```\n", markdown, flags=re.M)
    page = summary.text(tag, markdown)
    page.value[0].tag = tag  # without the word that tensorboardX appends
    return page


def histogram(tag: str, values: np.ndarray) -> Summary:
    """Counts of the finite ``values``, any shape, in bins of one width."""
    finite = values[np.isfinite(values)]
    return summary.histogram(tag, finite if finite.size else np.zeros(1), HISTOGRAM_BINS)


def picture(tag: str, pixels: np.ndarray) -> Summary:
    """An image of uint8 pixels, (height, width) or (height, width, 3)."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="png")
    height, width = pixels.shape[:2]
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=file.getvalue())
    return Summary(value=[Summary.Value(tag=tag, image=image)])


def figure(tag: str, drawing: Figure) -> Summary:
    """A Matplotlib figure at its own size and resolution."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes a third of a second, at the first figure

    canvas = FigureCanvasAgg(drawing)
    canvas.draw()
    return picture(tag, np.asarray(canvas.buffer_rgba())[..., :3])


def charts(layout: Mapping[str, Mapping[str, Sequence[str]]]) -> Summary:
    """The page "Custom Scalars": sections of charts, each of which shows the scalars that match its regular
    expressions from their beginning."""
    return summary.custom_scalars(
        {
            section: {title: ["Multiline", list(tags)] for title, tags in drawn.items()}
            for section, drawn in layout.items()
        }
    )


def hyperparameters(values: Mapping[str, bool | float | str], metrics: Sequence[str], shown: Sequence[str]) -> Summary:
    """A run's row in the table of the page "HParams", and what that table is to show.

    ``tensorboardX`` has a call for this, which puts the row into a folder of its own, a run without curves.

    Args:
        values: the row, by name.
        metrics: further columns: tags of scalars of the same run.
        shown: names of values, at most five, that the page shows from the start.
    """
    columns = [hparams.HParamInfo(name=name, type=_data_type(values[name]), differs=name in shown) for name in values]
    names = [hparams.MetricInfo(name=hparams.MetricName(tag=tag)) for tag in metrics]
    table = HParamsPluginData(experiment=hparams.Experiment(hparam_infos=columns, metric_infos=names))
    row = HParamsPluginData(session_start_info=SessionStartInfo())
    for name, value in values.items():
        field = {bool: "bool_value", str: "string_value"}.get(type(value), "number_value")
        setattr(row.session_start_info.hparams[name], field, value)
    return Summary(value=[_hparams("experiment", table), _hparams("session_start_info", row)])


def run_succeeded() -> Summary:
    """The end of the row that :func:`hyperparameters` began."""
    end = SessionEndInfo(status=hparams.Status.Value("STATUS_SUCCESS"))
    return Summary(value=[_hparams("session_end_info", HParamsPluginData(session_end_info=end))])


def _hparams(name: str, content: HParamsPluginData) -> Summary.Value:
    plugin = SummaryMetadata.PluginData(plugin_name="hparams", content=content.SerializeToString())
    return Summary.Value(tag=f"_hparams_/{name}", metadata=SummaryMetadata(plugin_data=plugin))


def _data_type(value: bool | float | str) -> hparams.DataType.ValueType:
    names = {bool: "DATA_TYPE_BOOL", str: "DATA_TYPE_STRING"}
    return hparams.DataType.Value(names.get(type(value), "DATA_TYPE_FLOAT64"))
