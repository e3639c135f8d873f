"""A TensorBoard event file, written by the thread that asks for it: an error is met where it happens.

torch's SummaryWriter hands its events to a thread. When that thread dies of a full disk, the next call raises its error
wherever the training happens to be, or (in older releases) waits for ever for room in the queue.
"""

from __future__ import annotations

import io
import math
import re
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.summary.writer.record_writer import RecordWriter

from dstrain.train.appended import Appended
from dstrain.train.picture import Drawn, Picture, png


class EventFile(Appended):
    """A new file in `folder`. What older ones hold of step `start` + 1 and later is void: TensorBoard drops it."""

    def __init__(self, folder: Path, start: int):
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder / _next_name(folder))
        self._records = io.BytesIO()
        self._writer = RecordWriter(self._records)
        self._add(Event(file_version="brain.Event:2"))
        self._add(Event(step=start + 1, session_log=SessionLog(status=SessionLog.START)))
        self.write_out()

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self._add(Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)])))

    def add_text(self, tag: str, text: str, step: int) -> None:
        """Shown as markdown."""
        metadata = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
        tensor = TensorProto(dtype="DT_STRING", string_val=[text.encode("utf-8", "replace")],
                             tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]))
        value = Summary.Value(tag=f"{tag}/text_summary", metadata=metadata, tensor=tensor)
        self._add(Event(step=step, summary=Summary(value=[value])))

    def add_spread(self, tag: str, values: Sequence[float], step: int) -> None:
        """Shown as a histogram: each of the different values is a bucket of its own, so none is rounded."""
        sizes = sorted(set(values))
        histogram = HistogramProto(
            min=sizes[0], max=sizes[-1], num=len(values), sum=math.fsum(values),
            sum_squares=math.fsum(value * value for value in values), bucket_limit=sizes,
            bucket=[float(sum(value == size for value in values)) for size in sizes])
        self._add(Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, histo=histogram)])))

    def add_picture(self, tag: str, picture: Picture | Drawn, step: int) -> None:
        file, width, height = png(picture)
        image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=file)
        metadata = SummaryMetadata(summary_description=picture.about)
        self._add(Event(step=step, summary=Summary(value=[Summary.Value(tag=tag, image=image, metadata=metadata)])))

    def write_out(self) -> None:
        """Hand what was added to the system, in one piece."""
        self.append(self._records.getvalue())
        self._records.seek(0)
        self._records.truncate()

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write(event.SerializeToString())


def _next_name(folder: Path) -> str:
    """TensorBoard reads files in the order of their names, which begin with a time: also on a clock that was set back
    a new file must come after the older ones."""
    times = [int(found[1]) for path in folder.iterdir() if (found := re.search(r"tfevents\.(\d+)\.", path.name))]
    number = max([int(time.time()), *(before + 1 for before in times)])
    return f"events.out.tfevents.{number:010d}.{socket.gethostname()}"
