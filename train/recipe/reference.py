"""``python -m train.recipe.reference [--language zh]``: a Markdown page of all keys of a recipe, made from the code.

It is kept as ``train/KEYS.md`` and ``train/KEYS.zh-CN.md``; what a key is for stands at the key, and in Chinese in
``keys.zh.yaml``.
"""

from __future__ import annotations

import sys
from typing import Any, get_origin

import yaml
from pydantic.fields import FieldInfo

from train.recipe.sections import CHINESE, RunConfig, choices, default_words, keys
from train.runtime.errors import OneLineParser, run_command
from train.runtime.keys import MAX_INT, Duration, traits

HEAD = {
    "en": """\
# All keys of a recipe

English | [简体中文](KEYS.zh-CN.md)

Made from the code by `python -m train.recipe.reference`. Durations are written as `10`, `"5 epochs"` or `"3%"`. A key
that is *fixed* must be the same when a run is resumed, unless `resume_changes` names it. The keys of `schedule` are
those of its kind: [schedules](../schedules/README.md).

| key | values | default | on resume | meaning |""",
    "zh": """\
# 全部配置项

[English](KEYS.md) | 简体中文

由 `python -m train.recipe.reference --language zh` 从代码生成。时长写作 `10`、`"5 epochs"` 或 `"3%"`。标为“固定”的
配置项在续训时必须相同，除非列入 `resume_changes`。`schedule` 的各项取决于其种类：
[schedules](../schedules/README.md)（英文）。

| 配置项 | 取值 | 默认值 | 续训时 | 含义 |""",
}
WORDS = {
    "en": {
        "int": "whole number",
        "float": "number",
        "str": "text",
        "list": "list",
        "dict": "mapping",
        "duration": "duration",
        "required": "required",
        "fixed": "fixed",
        "may change": "may change",
        "other": "several forms",
    },
    "zh": {
        "int": "整数",
        "float": "数值",
        "str": "文本",
        "list": "列表",
        "dict": "映射",
        "duration": "时长",
        "required": "必填",
        "fixed": "固定",
        "may change": "可改",
        "other": "多种形式",
    },
}
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def page(language: str) -> str:
    """The whole page. A key without a sentence in Chinese raises a KeyError."""
    words = WORDS[language]
    chinese = yaml.safe_load(CHINESE.read_text(encoding="utf-8"))
    rows = [HEAD[language], "|---|---|---|---|---|"]
    for key, field in keys():
        default = words["required"] if field.is_required() else f"`{default_words(field)}`"
        resume = words["may change" if traits(RunConfig, key).may_change_on_resume else "fixed"]
        meaning = chinese[key] if language == "zh" else field.description
        cells = [f"`{key}`", values(field, words), default, resume, str(meaning).replace("*", r"\*")]
        rows.append(f"| {' | '.join(cell.replace('|', '¦') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def values(field: FieldInfo, words: dict[str, str]) -> str:
    """What may stand there: the choices, or the type and its limits."""
    kind: Any = field.annotation
    if allowed := choices(field) or (["true", "false"] if kind is bool else []):
        return ", ".join(f"`{choice}`" for choice in allowed)
    limits = {(name, getattr(mark, name)) for mark in field.metadata for name in SIGNS if hasattr(mark, name)}
    if kind is Any and any(isinstance(mark, Duration) for mark in field.metadata):
        return words["duration"]
    name = words.get((get_origin(kind) or kind).__name__ if kind is not Any else "other", words["other"])
    tightest = {sign: (max if sign[0] == "g" else min)(v for s, v in limits if s == sign) for sign, _ in limits}
    said = [f"{SIGNS[sign]} {tightest[sign]}" for sign in SIGNS if sign in tightest and tightest[sign] != MAX_INT]
    return " ".join([name, *said])


def main(arguments: list[str] | None = None) -> int:
    parser = OneLineParser(prog="python -m train.recipe.reference", description="All keys of a recipe, as Markdown.")
    parser.add_argument("--language", choices=list(HEAD), default="en", help="English or Chinese (default: en)")
    options = parser.parse_args(arguments)

    def command() -> int:
        print(page(options.language), end="")
        return 0

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
