"""What is known of kernels: the types that CANN publishes (``kernels.yaml``), and which ones run on the AI CPU."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml

Taken = tuple[str, tuple[int, ...]]
"""a kernel, and CANN's number for the type of each of its tensors"""
TYPES = {
    **dict(enumerate(("float32", "float16", "int8", "int32", "uint8"))),
    **dict(enumerate(("int16", "uint16", "uint32", "int64", "uint64", "float64", "bool"), start=6)),
    **{16: "complex64", 17: "complex128", 27: "bfloat16"},
}
OF_NO_AI_CORE = {"float64", "complex64", "complex128"}


@functools.cache
def published() -> dict[str, list[set[str]]]:
    """Return for each kernel the types of its tensors in their order; the last of them go for all that follow."""
    written = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    sets = written["sets"]

    def types(words: str) -> set[str]:
        return set(" ".join(sets.get(word, word) for word in words.split()).split())

    return {
        kernel: [types(words) for words in (of_each if isinstance(of_each, list) else [of_each])]
        for kernels, of_each in written["kernels"].items()
        for kernel in re.findall(r"(?:aclop )?\w+", kernels)
    }


def of_the_ai_cpu(package: Path) -> set[str]:
    """Return the operators for which MindSpore's ``package`` knows a kernel of the AI CPU, by the name by which it asks
    CANN for it: its own are "CustX"; those of CANN may run there where CANN has none for the AI cores."""
    plugin = package / "lib/plugin/ascend"
    kernels = (plugin / "custom_aicpu_ops/op_impl/cpu/config/cust_aicpu_kernel.json").read_text()
    words = (plugin / "libmindspore_ascend_res_manager.so").read_bytes()
    own = {name for name in re.findall(r'"(Cust\w+)"', kernels) if name.encode() + b"\0" in words}
    files = (package / "ops/_op_impl/aicpu").glob("*.py")
    return own.union(*(re.findall(r'AiCPURegOp\("(\w+)"', file.read_text()) for file in files))


def is_unchecked(kernel: str) -> bool:
    return kernel.startswith("acl") and kernel not in published() and not kernel.startswith("aclop Cust")


def unpublished(kernel: str, numbers: Sequence[int]) -> list[str]:
    """Return the types, of those with CANN's ``numbers``, that ``kernel`` is not said to take where they stand."""
    types = published().get(kernel, [])
    names = [TYPES.get(number) for number in numbers if types]  # None: an optional tensor that is not there
    return [name for place, name in enumerate(names) if name and name not in types[min(place, len(types) - 1)]]


def refusals(taken: Iterable[Taken], ai_cpu: set[str]) -> list[tuple[str, str]]:
    """Return each kernel with a type that have nothing to run them."""
    found = {kernel: name for kernel, numbers in taken for name in unpublished(kernel, numbers)}
    return [(kernel, name) for kernel, name in found.items() if kernel.removeprefix("aclop ") not in ai_cpu]


def maybe_on_the_ai_cpu(taken: Mapping[Taken, int], ai_cpu: set[str]) -> dict[str, int]:
    """Return how often each kernel was asked for that may run there."""
    found: Counter[str] = Counter()
    for (kernel, numbers), count in taken.items():
        name = kernel.removeprefix("aclop ")
        unknown = name in ai_cpu and (kernel not in published() or unpublished(kernel, numbers))
        if not name.startswith("Cust") and (unknown or OF_NO_AI_CORE & {TYPES.get(number) for number in numbers}):
            found[kernel] += count
    return dict(found)
