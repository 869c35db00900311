"""What a schedule says of itself that its author may not have meant."""

import pytest

from schedules import Schedule, build

COSINE = {"kind": "cosine", "lr_init": 0.01, "lr_max": 0.1, "total": "90 epochs", "steps_per_epoch": 625}
STEPS = {"kind": "multistep", "lr_max": 0.1, "total": "90 epochs", "steps_per_epoch": 1251}


@pytest.mark.parametrize(
    "config, notes",
    [
        (COSINE, []),
        ({**COSINE, "warmup": "5 epochs"}, []),
        ({**COSINE, "warmup": "0.5 epochs"}, ["warmup = '0.5 epochs': is 312.5 steps, rounded to 313"]),
        ({**COSINE, "warmup": "0.4 epochs"}, []),  # 250 steps
        ({**COSINE, "warmup": "500 steps"}, []),  # spelt out, so it is meant
        ({**COSINE, "warmup": 0}, []),
        ({**COSINE, "warmup": "3%"}, []),
        (
            {**COSINE, "warmup": 5},
            ['warmup = 5: updates (of 56250), while other keys count epochs; if epochs are meant, write '
             'warmup: "5 epochs"'],
        ),
        (
            {**COSINE, "total": 90_000, "warmup": "5 epochs"},
            ['total = 90000: updates (of 90000), while other keys count epochs; if epochs are meant, write '
             'total: "90000 epochs"'],
        ),
        (
            {**STEPS, "milestones": [30, 60], "lr_max": None, "lr_per_256": 0.1},
            ['milestones = [30, 60]: updates (of 112590), while other keys count epochs; if epochs are meant, write '
             'milestones: ["30 epochs", …]'],
        ),
        ({**STEPS, "milestones": ["30 epochs", "60 epochs"]}, []),
        (
            {**STEPS, "milestones": ["0.3 epochs", "60 epochs"]},
            ["milestones = '0.3 epochs': is 375.3 steps, rounded to 375"],
        ),
        ({**STEPS, "total": 100, "milestones": [30, 60]}, []),
        (
            {**COSINE, "lr_init": 0, "warmup": "5 epochs"},
            ["lr[0] = 0: the first update changes no weight; set lr_init, or warmup_count_from: 1"],
        ),
        (
            {**COSINE, "lr_init": 0, "warmup": "5 epochs", "update": "epoch"},
            ["lr[0] = 0: the first 625 updates change no weight; set lr_init, or warmup_count_from: 1"],
        ),
        ({**COSINE, "lr_init": 0, "warmup": "5 epochs", "warmup_count_from": 1}, []),
        ({**COSINE, "lr_init": 0}, []),
    ],
    ids=str,
)  # fmt: skip
def test_notes(config, notes):
    assert list(build(config, global_batch=256).notes) == notes


def test_they_are_no_part_of_the_schedule(tmp_path):
    with_note, without = build({**COSINE, "warmup": 5}), build({**COSINE, "warmup": "5 steps"})
    assert with_note.notes and not without.notes
    assert with_note == without and with_note.fingerprint == without.fingerprint
    for name, schedule in (("with", with_note), ("without", without)):
        schedule.save(tmp_path / name)
    assert (tmp_path / "with").read_bytes() == (tmp_path / "without").read_bytes()
    assert Schedule.load(tmp_path / "with") == with_note
