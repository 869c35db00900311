"""Every sentence of the report, in English and in Chinese; figures come in formatted, the same for both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

Language = Literal["en", "zh"]
LANGUAGES: tuple[Language, ...] = get_args(Language)

PAIRS: dict[str, tuple[str, str]] = {
    # heading and headline table
    "title": (
        "Run {run}: {optimizer}, {ranks}, {layers}, {steps} of {total}, seed {seed}",
        "运行 {run}：{optimizer}，{ranks}，{layers}，{steps}（共 {total} 步），种子 {seed}",
    ),
    "rank": ("{n} rank", "{n} 个 rank"),
    "ranks": ("{n} ranks", "{n} 个 rank"),
    "layer": ("{n} recorded layer", "所记录的层 {n} 个"),
    "layers": ("{n} recorded layers", "所记录的层 {n} 个"),
    "and": (" and ", " 和 "),
    "comma": (", ", "、"),
    "semicolon": ("; ", "；"),
    "space": (" ", ""),
    "rule": (
        "ΔW = lr·{d}, W_new = W_start − ΔW. Schedule {fingerprint}.",
        "ΔW = lr·{d}，W_new = W_start − ΔW。学习率“剧本”的指纹：{fingerprint}。",
    ),
    "headline_columns": (
        "phase|lr|‖ΔW‖, same W and {d}|‖ΔW‖, as it happened|ΔW[0], same W and {d}|ΔW[0], as it happened|what it meant",
        "训练阶段|学习率 lr|步伐 ‖ΔW‖，W 与 {d} 相同|步伐 ‖ΔW‖，实际发生|更新幅度 ΔW[0]，W 与 {d} 相同|更新幅度 "
        "ΔW[0]，实际发生|物理意义",
    ),
    "headline_note": (
        "Figures of `{layer}` {shape}; ΔW[0] is its first element. Same W and {d}: those at t = {t}, through the "
        "optimizer's own kernel at each step. The last column compares loss and ‖ΔW‖/‖W‖ with the row above, the first "
        "row with the first logged update.",
        "以上为 `{layer}` {shape} 的数值；ΔW[0] 是它的第一个元素。W 与 {d} 相同：取 t = {t} 的 W 与 {d}，在每一步交给"
        "优化器自己的内核。末列把损失和 ‖ΔW‖/‖W‖ 与上一行比较，第一行与最早记录的一步比较。",
    ),
    "changes_columns": (
        "t|lr ×|‖ΔW‖ ×, same W and {d}|as lr, up to rounding|‖{d}‖ ×, as it happened|‖ΔW‖ ×, as it happened|part of lr",
        "t|lr ×|‖ΔW‖ ×，W 与 {d} 相同|在舍入误差内与 lr 相同|‖{d}‖ ×，实际发生|‖ΔW‖ ×，实际发生|lr 所占",
    ),
    "changes_note": (
        "‖ΔW‖ = lr·‖{d}‖: its factor is the product of the other two, and the part of lr is that of the logarithms (– "
        "where lr and {d} pull in opposite directions, or an update is zero); the rest is {d}'s.",
        "‖ΔW‖ = lr·‖{d}‖：它的倍数是另外两者的乘积，lr 所占的比例按对数计算（lr 与 {d} 方向相反或有一步更新为零时"
        "记为 –），其余属于 {d}。",
    ),
    "picture": ("lr, ΔW and the norms at the recorded steps", "所记录各步的 lr、ΔW 与范数"),
    # phases of a schedule; others keep their names
    "warm-up": ("warm-up", "初期（Warm-up）"),
    "decay": ("decay", "中后期（Decay）"),
    "constant": ("constant", "恒定"),
    "peak": ("peak", "峰值"),
    "stable": ("stable", "平稳"),
    # what an update meant
    "loss": ("loss {loss}", "损失 {loss}"),
    "loss_at": ("loss {loss} (at t = {at})", "损失 {loss}（t = {at}）"),
    "relative": ("an update moves W by {relative} of its norm", "每步移动 W 自身范数的 {relative}"),
    "since": (
        "since t = {t}: loss × {loss}, ‖ΔW‖/‖W‖ × {relative}",
        "自 t = {t} 起：损失 × {loss}，‖ΔW‖/‖W‖ × {relative}",
    ),
    "longer_lower": (
        "larger steps, and the loss falls: it explores, and finds its way down",
        "步伐变大、损失下降：正以较大的步伐探索损失函数的地貌，并找到了下降方向",
    ),
    "longer_alike": (
        "larger steps, and the loss hardly changes: it explores, with no clear way down yet",
        "步伐变大、损失几乎未变：仍在探索，尚未找到明确的下降方向",
    ),
    "longer_higher": (
        "larger steps, and the loss rises: they may be too large",
        "步伐变大、损失上升：步伐可能过大",
    ),
    "shorter_lower": (
        "smaller steps at a lower loss: it searches the valley floor",
        "步伐变小、损失更低：已到“山谷”，正在谷底精细搜索",
    ),
    "shorter_alike": (
        "smaller steps at about the same loss: it slows down where it is",
        "步伐变小、损失几乎未变：在原处放慢",
    ),
    "shorter_higher": (
        "smaller steps at a higher loss: it slows down before it has found a valley",
        "步伐变小、损失更高：尚未找到“山谷”就已放慢",
    ),
    "alike_lower": (
        "steps of the same size, and the loss falls: it keeps its pace downhill",
        "步伐相当、损失下降：保持步伐，继续下降",
    ),
    "alike_alike": (
        "steps of the same size at about the same loss: it stays where it is",
        "步伐相当、损失几乎未变：停留在原处",
    ),
    "alike_higher": (
        "steps of the same size, and the loss rises: it drifts uphill",
        "步伐相当、损失上升：偏离了下降方向",
    ),
    "unknown": ("nothing earlier was logged to compare with", "没有更早的记录可比较"),
    # conclusion
    "one_step": (
        "One step was recorded; how the update changes with lr needs two.",
        "只记录了一步；要看更新如何随 lr 变化，需要两步。",
    ),
    "no_ratio": ("Not tested: an update is zero.", "无法检验：有一步更新为零。"),
    "same_lr": ("Not tested: lr is the same at all recorded steps.", "无法检验：所记录各步的 lr 相同。"),
    "fails": (
        "**‖ΔW‖ does not follow lr here**, with the same W and {d}.",
        "**此处 ‖ΔW‖ 并不随 lr 变化**（W 与 {d} 相同）。",
    ),
    "holds": (
        "**The larger learning rate takes the longer step**: with the same W and {d}, in the ratio of the two.",
        "**学习率越大，步伐越大**：W 与 {d} 相同时，‖ΔW‖ 之比等于 lr 之比。",
    ),
    "document_fails": (
        "**The document's conclusion fails here**: with the same W and {d}, ‖ΔW‖ does not follow lr.",
        "**文档的核心结论在此不成立**：W 与 {d} 相同时，‖ΔW‖ 并不随 lr 变化。",
    ),
    "document_holds": (
        "**The document's conclusion holds**: with the same W and {d} the larger lr takes the longer step, in the "
        "ratio of the two. The schedule is the throttle: the warm-up opens it, the decay closes it.",
        "**文档的核心结论成立**：W 与 {d} 相同时，lr 越大步伐越大，‖ΔW‖ 之比等于 lr 之比。"
        "学习率张量就是预先设定好的“油门控制器”：初期逐渐踩下油门，中后期平滑地松开。",
    ),
    "as_happened": (
        "As it happened it did so too, though {d} changed as well.",
        "实际发生的也是如此，尽管 {d} 也变了。",
    ),
    "against": (
        "As it happened it did not ({pairs}): {d} changed more, the other way.",
        "实际发生的并非如此（{pairs}）：{d} 反方向变化得更多。",
    ),
    # sections
    "observed_title": ("As it happened (observed)", "实际发生（观测）"),
    "observed_columns": (
        "layer|t|phase|lr|‖{d}‖|‖ΔW‖|‖ΔW‖/‖W‖|ΔW[0]",
        "层|t|阶段|lr|‖{d}‖|‖ΔW‖|‖ΔW‖/‖W‖|ΔW[0]",
    ),
    "observed_ratios": (
        "layer|t|‖ΔW‖ ×|= lr ×|‖{d}‖ ×|part of lr",
        "层|t|‖ΔW‖ ×|= lr ×|‖{d}‖ ×|lr 所占",
    ),
    "more_layers": ("The first {n} layers; comparison.json has all.", "前 {n} 个层；全部的层见 comparison.json。"),
    "document_title": ("The document's example", "文档中的示例"),
    "document_intro": (
        "The document's W_start and v (4×2) through the `nn.Momentum` kernel, beside what it prints:",
        "把文档中的 W_start 与 v（4×2）交给 `nn.Momentum` 内核，与文档所印数值并列：",
    ),
    "document_step": ("t = {t}, lr = {lr} (printed {printed}):", "t = {t}，lr = {lr}（文档印作 {printed}）："),
    "document_columns": ("element|ΔW|printed|W_new|printed", "元素|ΔW|文档|W_new|文档"),
    "document_within": (
        "Largest difference {difference}: all within {tolerance}.",
        "最大差 {difference}：全部在 {tolerance} 以内。",
    ),
    "document_beyond": (
        "Largest difference {difference}: **not** all within {tolerance}.",
        "最大差 {difference}：**并非**全部在 {tolerance} 以内。",
    ),
    "document_slip": (
        "\\* Last digit printed wrongly: {matrix}[{row},{column}] at t = {t} is {measured}, rounded {rounded}, printed "
        "{printed}.",
        "\\* 末位印错：{matrix}[{row},{column}] 在 t = {t} 为 {measured}，四舍五入 {rounded}，文档印作 {printed}。",
    ),
    "replay_title": ("Proof: the optimizer makes W_new again", "证明：优化器重新得到同一个 W_new"),
    "proof_title": ("Proof: W_new = W_start − lr·v", "证明：W_new = W_start − lr·v"),
    "proof_columns": (
        "t|ranks|largest difference|in ulp|made again|lr = lr[t]|kernel's step = t|ranks identical",
        "t|rank 数|最大差|以 ulp 计|重新得到|lr = lr[t]|内核步数 = t|各 rank 相同",
    ),
    "rule_holds": ("Every update is W_start − lr·v.", "每一步更新都是 W_start − lr·v。"),
    "replay_holds": (
        "Given the same W_start, state and gradient, the optimizer makes W_new and its state again.",
        "给定同样的 W_start、状态与梯度，优化器重新得到同样的 W_new 与状态。",
    ),
    "proof_fails": ("**Something is wrong** (see Problems).", "**有错误**（见“问题”）。"),
    "proof_note": (
        "One ulp is a unit in the last place of the largest of W_start, lr·v and W_new; float32 rounding explains "
        "up to {bound}. Made again (– where no gradient was recorded), equal and identical mean bit for bit.",
        "一个 ulp 是 W_start、lr·v、W_new 三者中最大者的末位单位；float32 舍入至多可解释 {bound}。"
        "重新得到（未记录梯度时为 –）、相等与相同均指逐比特。",
    ),
    "other_path": (" ({n} in the other path, {units} ulp)", "（{n} 个元素走另一路径，{units} ulp）"),
    "other_path_note": (
        "In the other path: a kernel cuts an array into blocks for its threads where it likes, and computes what is "
        "left of a block's last vector by other instructions, which round otherwise. Of these elements, so many ulp "
        "from what the whole array gave, that path makes every bit again: a property of the kernel, and no fault.",
        "另一路径：内核为各线程自行划分数组，每块末尾不足一个向量的元素由另一种指令计算，舍入因此不同。这些元素与整体"
        "重算的结果相差所示的 ulp，而由另一路径重算则逐比特相同：这是内核的特性，不是错误。",
    ),
    "yes": ("yes", "是"),
    "no": ("**no**", "**否**"),
    "of": ("{n} of {all}", "{n} / {all}"),
    "problems_title": ("Problems", "问题"),
    # the whole run
    "curve_title": ("Over the whole run", "整个训练过程"),
    "curve_none": (
        "Left out: the norms of these layers were not logged (metrics.jsonl, `update/<layer>/…`).",
        "略去：没有记录这些层的范数（metrics.jsonl，`update/<layer>/…`）。",
    ),
    "curve_picture": ("lr, ‖{d}‖ and ‖ΔW‖ over the whole run", "整个训练过程的 lr、‖{d}‖ 与 ‖ΔW‖"),
    "curve_document": (
        "The document concludes: as lr rises in the warm-up the step gets longer, as it falls in the decay the step "
        "gets shorter.",
        "文档的结论：初期 lr 升高，步伐变大；中后期 lr 降低，步伐变小。",
    ),
    "curve_intro": (
        "With the same {d} the step follows lr; as it happened {d} changes too, and may override lr. Figures are "
        "geometric means over stretches of updates, so that the change of ‖ΔW‖ is that of lr times that of ‖{d}‖.",
        "{d} 相同时，步伐随 lr 变化；实际上 {d} 也在变，可能盖过 lr。数值是一段更新的几何平均，因此 ‖ΔW‖ 的变化等于 "
        "lr 的变化乘以 ‖{d}‖ 的变化。",
    ),
    "layers_picture": ("‖ΔW‖/‖W‖ of every layer over the whole run", "整个训练过程中每一层的 ‖ΔW‖/‖W‖"),
    "all_layers": ("All layers", "所有的层"),
    "phase_span": ("**{phase}** (t = {a} to {b})", "**{phase}**（t = {a} 至 {b}）"),
    "lr_constant": (
        "{span}: lr does not change; ‖{d}‖ and with it ‖ΔW‖ by the factor {ratio}.",
        "{span}：lr 不变；‖{d}‖ 以及 ‖ΔW‖ 变为 {ratio} 倍。",
    ),
    "phase_change": (
        "{span}: ‖ΔW‖ changes by the factor {delta} = {lr} (lr) × {d_ratio} (‖{d}‖): {verdict}{exceptions}. From one "
        "update to the next, ‖ΔW‖ went the way of lr {n} of {all} times.",
        "{span}：‖ΔW‖ 变为 {delta} 倍 = {lr}（lr）× {d_ratio}（‖{d}‖）：{verdict}{exceptions}。逐步来看，‖ΔW‖ 与 lr "
        "同向变化 {n} / {all} 次。",
    ),
    "longer": ("longer", "变大"),
    "shorter": ("shorter", "变小"),
    "overridden": (
        "**{d} overrides lr**, the step does not get {direction}",
        "**{d} 盖过了 lr**，步伐没有{direction}",
    ),
    "holds_against": (
        "the step gets {direction}, though {d} works against it",
        "步伐{direction}，尽管 {d} 的作用相反",
    ),
    "holds_with": (
        "the step gets {direction}; lr's fraction of that is {fraction}",
        "步伐{direction}；其中 lr 占 {fraction}",
    ),
    "except_overridden": ("; otherwise from {places}, where {d} overrides lr", "；例外：{places}，其间 {d} 盖过 lr"),
    "except_follows": ("; otherwise from {places}, where it follows lr", "；例外：{places}，其间步伐随 lr 变化"),
    "place": ("t = {a}–{b} to {c}–{e}", "t = {a}–{b} 至 {c}–{e}"),
    "curve_columns": (
        "phase|t|lr|‖{d}‖|‖ΔW‖|lr·‖{d}_{t}‖|lr ×|‖{d}‖ ×|‖ΔW‖ ×|as lr",
        "阶段|t|lr|‖{d}‖|‖ΔW‖|lr·‖{d}_{t}‖|lr ×|‖{d}‖ ×|‖ΔW‖ ×|随 lr",
    ),
    "layers_follow": (
        "{phase}: the step follows lr in {n} of {all} layers.",
        "{phase}：{n} / {all} 个层的步伐随 lr 变化。",
    ),
}
"""By name: (English, Chinese), templates of :meth:`str.format`. A row of columns is separated by ``|``."""


class Words:
    """The sentences of one language: ``say("loss", loss="0.1")``; ``d`` is filled in, the sign of the direction."""

    def __init__(self, language: Language, direction: str):
        self.index = LANGUAGES.index(language)
        self.direction = direction

    def __call__(self, name: str, **figures: object) -> str:
        return PAIRS[name][self.index].format(**{"d": self.direction, **figures})

    def columns(self, name: str, **figures: object) -> list[str]:
        return self(name, **figures).split("|")

    def count(self, name: str, n: int) -> str:
        return self(name if n == 1 else f"{name}s", n=n)

    def phase(self, name: str) -> str:
        return self(name) if name in PAIRS else name

    def yes(self, value: bool) -> str:
        return self("yes" if value else "no")

    def listed(self, items: Sequence[str]) -> str:
        """``a, b and c``; at least one item."""
        return self("and").join([*([self("comma").join(items[:-1])] if items[1:] else []), items[-1]])
