"""A MindIR file as a cell, once it has been looked through: MindSpore's own reader believes whatever stands in it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import nn

from models.protobuf import fields

OPERATORS_WITH_CODE = re.compile(r"(?:REF::)?(Custom\w*|Py\w+|TensorDump)\b")
MOST_STRUCTURE = 16 << 20
"""Bytes of a graph beside its weights; in memory they become far more."""
_GRAPH, _PARAMETER = 7, 3  # numbers of fields: ModelProto.graph, GraphProto.parameter
# TensorProto.DataType, of those that weights and constants have.
_TYPES = {1: "f4", 2: "u1", 3: "i1", 4: "u2", 5: "i2", 6: "i4", 7: "i8", 9: "?", 10: "f2", 11: "f8", 12: "u4", 13: "u8"}
_TYPES |= {16: "u2", 17: "f8"}  # the former is bfloat16


class CodeInside(ValueError):
    """An operator in a file loads a library, calls Python or writes files; the message is its name."""


def load_mindir(path: Path, content: bytes, *, trust_code: bool) -> nn.GraphCell:
    """Return the graph of the file ``path``, which holds ``content``.

    Raises:
        CodeInside: see there; not with ``trust_code``.
        ValueError: no MindIR file, or one with a tensor that is not whole or not finite.
    """
    from google.protobuf.message import DecodeError
    from mindspore.train.mind_ir_pb2 import ModelProto

    refuse_bombs(memoryview(content))
    model = ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise ValueError(str(error)) from None
    if not model.graph.node or not model.graph.output:
        raise ValueError("it holds no graph")
    graphs = [model.graph, *model.functions]
    names = [node.op_type for graph in graphs for node in graph.node] + [one.op_type for one in model.primitives]
    for name in names:
        if (found := OPERATORS_WITH_CODE.match(name)) and not trust_code:
            raise CodeInside(found[1])
    stored = {id(one) for graph in graphs for one in graph.parameter}
    for tensor in _tensors(model):
        _check(tensor, whole=id(tensor) in stored)
    try:
        return nn.GraphCell(ms.load(str(path)))
    except RuntimeError as error:
        raise ValueError(" ".join(str(error).split())[:200]) from None


def refuse_bombs(content: memoryview) -> None:
    """Raise ValueError where the graph without its weights is larger than any."""
    structure = len(content)
    for number, graph in fields(content):
        if number == _GRAPH and not isinstance(graph, int):
            structure -= sum(len(p) for n, p in fields(graph) if n == _PARAMETER and not isinstance(p, int))
    if structure > MOST_STRUCTURE:
        raise ValueError(f"{structure} bytes beside the weights are more than the {MOST_STRUCTURE} that are read")


def _tensors(message: Any) -> Iterator[Any]:
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for one in value if isinstance(value, Sequence) else [value]:
                yield from _tensors(one)


def _check(tensor: Any, *, whole: bool) -> None:
    """Refuse a tensor whose content is not what its type and dimensions say, or is not finite.

    Args:
        whole: it must have content; those of inputs and outputs tell of a type alone.
    """
    if tensor.external_data.ByteSize():
        raise ValueError(f"the content of {tensor.name!r} lies in another file")
    if not (whole or tensor.raw_data):
        return
    kind = np.dtype(_TYPES.get(tensor.data_type, "V1"))
    expected = math.prod(tensor.dims) * kind.itemsize
    if kind.kind == "V" or min(tensor.dims, default=1) < 0 or len(tensor.raw_data) != expected:
        raise ValueError(f"{tensor.name!r} holds {len(tensor.raw_data)} bytes for {list(tensor.dims)} of its type")
    if kind.kind == "f" and not np.isfinite(np.frombuffer(tensor.raw_data, kind)).all():
        raise ValueError(f"{tensor.name!r} holds NaN or infinity")
