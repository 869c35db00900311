"""Durations, the peak, and the refusal of everything that is no schedule."""

import math

import numpy as np
import pytest

from schedules import build

COSINE = {"kind": "cosine", "lr_init": 0.01, "lr_max": 0.1, "lr_end": 0.001, "warmup": 10, "total": 100}


@pytest.mark.parametrize(
    "duration, steps",
    [(0, 0), (10, 10), ("10", 10), ("10 steps", 10), ("1 step", 1), (10.0, 10), ("2 epochs", 14), ("1 epoch", 7),
     ("3epochs", 21), ("0.5 epochs", 4), ("0.3 epochs", 2), ("3%", 3), ("2.5 %", 3), ("2.4%", 2), (np.int64(4), 4)],
)  # fmt: skip
def test_durations(duration, steps):
    schedule = build({**COSINE, "warmup": duration}, steps_per_epoch=7)
    assert schedule.phase_at(steps) == "peak"
    assert steps == 0 or schedule.phase_at(steps - 1) == "warm-up"


def test_an_imagenet_recipe_scales_with_the_global_batch():
    """Goyal et al. 2017: 0.1 per 256 images; 8192 images a step make 3.2."""
    config = {"kind": "cosine", "lr_per_256": 0.1, "warmup": "5 epochs", "total": "90 epochs", "steps_per_epoch": 157}
    schedule = build(config, global_batch=8192)
    assert schedule.total_steps == 90 * 157
    assert schedule.lr[5 * 157] == np.float32(3.2)
    assert np.array_equal(schedule.lr, build({**config, "lr_per_256": None, "lr_max": 3.2}).lr)


def test_text_counts_as_a_number_because_yaml_reads_1e_3_as_text():
    assert build({**COSINE, "lr_end": "1e-3"}) == build(COSINE)


REFUSED = [
    # what is changed, how the message must begin, what rule it must state
    ({"lr_init": math.nan}, "lr_init = nan", "finite number, not negative"),
    ({"lr_max": math.inf}, "lr_max = inf", "finite number, not negative"),
    ({"lr_end": -0.001}, "lr_end = -0.001", "finite number, not negative"),
    ({"lr_max": 1e39}, "lr_max = 1e+39", "finite number"),
    ({"lr_max": True}, "lr_max = True", "finite number"),
    ({"lr_max": "fast"}, "lr_max = 'fast'", "finite number"),
    ({"lr_max": [0.1]}, "lr_max = [0.1]", "finite number"),
    ({"lr_max": 0}, "lr_max = 0", "must be > 0"),
    ({"lr_max": 1e-320}, "lr_max = 1e-320", "must be > 0"),
    ({"lr_max": "1_000"}, "lr_max = '1_000'", "finite number"),
    ({"total": "9" * 30 + " epochs"}, "total = '9", "must be steps, epochs or percent"),
    ({"lr_max": None}, "lr_max = None", "exactly one of lr_max and lr_per_256"),
    ({"lr_per_256": 0.1}, "lr_max = 0.1", "exactly one of lr_max and lr_per_256"),
    ({"lr_max": None, "lr_per_256": 0.1}, "lr_per_256 = 0.1", "global batch"),
    ({"lr_init": 0.2}, "lr_init = 0.2", "must not exceed the peak"),
    ({"lr_end": 0.2}, "lr_end = 0.2", "must not exceed"),
    ({"warmup": 100}, "warmup = 100", "shorter than the whole"),
    ({"warmup": "100%"}, "warmup = '100%'", "shorter than the whole"),
    ({"warmup": "101%"}, "warmup = '101%'", "at most 100%"),
    ({"warmup": -1}, "warmup = -1", "not negative"),
    ({"warmup": "soon"}, "warmup = 'soon'", "steps, epochs or percent"),
    ({"warmup": True}, "warmup = True", "steps, epochs or percent"),
    ({"warmup": 2.5}, "warmup = 2.5", "whole number of steps"),
    ({"warmup": "5 epochs"}, "warmup = '5 epochs'", "epochs need steps_per_epoch"),
    ({"cooldown": 90}, "cooldown = 90", "leave steps"),
    ({"total": 0}, "total = 0", "1 step at least"),
    ({"total": 10.5}, "total = 10.5", "whole number of steps"),
    ({"total": "50%"}, "total = '50%'", "percentages refer to it"),
    ({"total": None}, "total = None", "required"),
    ({"total": 2**31 - 1}, "total = 2147483647", "at most 100000000"),
    ({"total": "0.05 epochs", "steps_per_epoch": 7}, "total = '0.05 epochs'", "1 step at least"),
    ({"total": "1e9 epochs", "steps_per_epoch": 7}, "total = '1e9 epochs'", "steps, epochs or percent"),
    ({"total": "999999999 epochs", "steps_per_epoch": 7}, "total = '999999999 epochs'", "at most 100000000"),
    (
        {"update": "epoch", "steps_per_epoch": 3, "total": "4 epochs", "warmup": "0.5 epochs"},
        "warmup = '0.5 epochs'",
        "whole epochs of 3 steps",
    ),
    ({"steps_per_epoch": 0}, "steps_per_epoch = 0", "whole number ≥ 1"),
    ({"steps_per_epoch": 1.5}, "steps_per_epoch = 1.5", "whole number ≥ 1"),
    ({"update": "epoch"}, "update = 'epoch'", "needs steps_per_epoch"),
    ({"update": "epoch", "steps_per_epoch": 3}, "total = 100", "whole epochs of 3 steps"),
    ({"update": "day"}, "update = 'day'", "step or epoch"),
    ({"kind": "cosin"}, "kind = 'cosin'", "did you mean cosine"),
    ({"kind": ["cosine"]}, "kind = ['cosine']", "must be a name"),
    ({"kind": None}, "kind = None", "required; known are constant, cosine"),
    ({"warmpu": 5}, "warmpu = 5", "did you mean warmup"),
    ({"milestones": [50]}, "milestones = [50]", "kind cosine does not use it; multistep would"),
    ({"warmup_shape": "lineer"}, "warmup_shape = 'lineer'", "did you mean linear"),
    ({"warmup_shape": "exponential", "lr_init": 0}, "lr_init = 0", "exponential warm-up"),
    ({"warmup_count_from": 2}, "warmup_count_from = 2", "must be 0 (i/W) or 1"),
    ({"reach_end": "yes"}, "reach_end = 'yes'", "true or false"),
    ({"reach_end": True, "warmup": 99}, "reach_end = True", "2 steps at least"),
    ({"dialect": "tim"}, "dialect = 'tim'", "did you mean timm"),
    ({"dialect": "timm", "kind": "linear"}, "dialect = 'timm'", "has no kind linear"),
    ({"dialect": "timm", "warmup_count_from": 1}, "warmup_count_from = 1", "dialect timm has 0"),
    ({"kind": "exponential", "lr_end": 0}, "lr_end = 0", "must be > 0"),
    ({"kind": "exponential", "lr_end": None}, "lr_end = None", "required"),
    ({"kind": "polynomial", "power": 0}, "power = 0", "must be > 0"),
]
WITHOUT_END = [
    ({"kind": "step"}, "every = None", "required"),
    ({"kind": "step", "every": 0}, "every = 0", "1 step at least"),
    ({"kind": "step", "every": 10, "gamma": 1.5}, "gamma = 1.5", "> 0 and ≤ 1"),
    ({"kind": "multistep", "milestones": [60, 30]}, "milestones = [60, 30]", "must increase"),
    ({"kind": "multistep", "milestones": [30, 30]}, "milestones = [30, 30]", "must increase"),
    ({"kind": "multistep", "milestones": [3, 200]}, "milestones = [3, 200]", 'epochs are written ["30 epochs", …]'),
    ({"kind": "multistep", "milestones": [5]}, "milestones = [5]", "after the warm-up (10)"),
    ({"kind": "multistep", "milestones": [100]}, "milestones = [100]", "before the end (100)"),
    ({"kind": "multistep", "milestones": []}, "milestones = []", "must increase"),
    ({"kind": "multistep", "milestones": [30], "dialect": "zoo_resnet"}, "milestones = [30]", "the dialect decides it"),
    ({"kind": "multistep", "milestones": 30}, "milestones = 30", "list of durations"),
    ({"kind": "multistep", "milestones": [30], "cooldown": 5}, "cooldown = 5", "no lr_end"),
    ({"kind": "constant", "reach_end": True}, "reach_end = True", "no lr_end to reach"),
    ({"kind": "inverse_sqrt", "warmup": 0}, "timescale = 0", "must be given"),
    ({"kind": "cosine_restarts", "cycles": 91}, "cycles = 91", "every cycle needs a step"),
    ({"kind": "cosine_restarts", "cycles": 7, "cycle_mult": 3}, "cycles = 7", "every cycle needs a step"),
    ({"kind": "cosine_restarts", "cycles": 2.5}, "cycles = 2.5", "whole number"),
    ({"kind": "warmup_stable_decay", "decay": 91}, "decay = 91", "at most the 90 after the warm-up"),
    ({"kind": "warmup_stable_decay", "decay": 0}, "decay = 0", "1 step at least"),
    ({"kind": "warmup_stable_decay", "decay": 9, "decay_shape": "steep"}, "decay_shape = 'steep'", "known are"),
    ({"kind": "one_cycle", "warmup": 0}, "warmup = 0", "a cycle goes up first"),
    ({"kind": "one_cycle", "warmup": 50, "three_phase": True}, "warmup = 50", "shorter than half"),
    ({"kind": "one_cycle", "three_phase": 1}, "three_phase = 1", "true or false"),
]


@pytest.mark.parametrize(
    "change, value, rule", [*REFUSED, *(({"lr_end": None, **c}, v, r) for c, v, r in WITHOUT_END)], ids=str
)
def test_refuses_with_the_key_the_value_and_the_rule(change, value, rule):
    with pytest.raises(ValueError) as caught:
        build({**COSINE, **change})
    message = str(caught.value)
    assert message.startswith(f"schedule.{value}") and rule in message and "\n" not in message


@pytest.mark.parametrize(
    "arguments, start",
    [
        ({"steps_per_epoch": 5}, "schedule.steps_per_epoch = 7: the data have 5"),
        ({"global_batch": 0}, "schedule.global_batch = 0: must be a whole number"),
        ({"global_batch": -8}, "schedule.global_batch = -8: must be a finite number, not negative"),
    ],
)
def test_refuses_what_the_data_say(arguments, start):
    config = {"kind": "constant", "lr_per_256": 0.1, "total": 10, "steps_per_epoch": 7}
    with pytest.raises(ValueError) as caught:
        build(config, **arguments)
    assert str(caught.value).startswith(start)
