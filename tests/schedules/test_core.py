import numpy as np

from schedules import Schedule, build, get_lr

DOCUMENT = {"kind": "cosine", "lr_init": 0.01, "lr_max": 0.1, "lr_end": 0.001, "warmup": 10, "total": 100}


def test_document_values(tmp_path):
    lr = get_lr(lr_init=0.01, lr_max=0.1, lr_end=0.001, warmup_steps=10, total_steps=100)
    assert lr.dtype == np.float32 and lr.shape == (100,)
    assert lr[5] == np.float32(0.055)
    assert abs(lr[60] - 0.041905) < 1e-6
    schedule = build(DOCUMENT)
    assert np.array_equal(schedule.lr, lr)
    assert [schedule.phase_at(t) for t in (0, 9, 10, 11, 99)] == ["warm-up"] * 2 + ["peak"] + ["decay"] * 2
    schedule.save(tmp_path / "schedule.npz")
    assert Schedule.load(tmp_path / "schedule.npz") == schedule
