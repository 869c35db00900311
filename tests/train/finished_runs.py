"""Folders of finished runs that never were, to be compared and damaged."""

import numpy as np

import schedules
from train.rundir.folder import SNAPSHOTS
from train.rundir.snapshots import snapshot_name

DOCUMENT = {"kind": "cosine", "lr_init": 0.01, "lr_max": 0.1, "lr_end": 0.001, "warmup": 10, "total": 100}


LAYERS = {"conv1.weight": (4, 3, 3, 3), "fc.weight": (10, 8), "bn1.gamma": (6,), "scale": ()}


def write_run(folder, *, schedule=DOCUMENT, steps=(5, 60), world_size=2, layers=LAYERS, v_scale=0.5, update=None):
    """A run folder as training leaves it: each W_new is one real float32 update; v shrinks by ``v_scale`` a step."""
    script = schedules.build(schedule)
    (folder / SNAPSHOTS).mkdir(parents=True)
    script.save(folder / "schedule.npz")
    for i, step in enumerate(steps):
        rng = np.random.default_rng(step)
        arrays = {}
        for j, shape in enumerate(layers.values()):
            W_start, v = (np.asarray(rng.normal(scale=s, size=shape), np.float32) for s in (0.1, v_scale**i))
            W_new = W_start - script.lr[step] * v if update is None else update(step, W_start, v, script.lr)
            arrays |= {f"W_start.{j}": W_start, f"v.{j}": v, f"W_new.{j}": W_new}
        for rank in range(world_size):
            scalars = {"step": step, "kernel_step": step, "rank": rank, "world_size": world_size}
            arrays["optimizer"] = np.array("Momentum")
            np.savez(
                folder / SNAPSHOTS / snapshot_name(step, rank),
                lr=script.lr[step],
                layers=np.array(list(layers)),
                **{key: np.int64(value) for key, value in scalars.items()},
                **arrays,
            )
    return folder


def moved(folder):
    """‖ΔW‖ of each recorded update, by step and layer, for logs that belong to the snapshots."""
    from train.comparison.finished_run import open_run

    run = open_run(folder)
    recorded = [(t, layer) for t in run.steps for layer in run.load(t).layers]
    return {(t, layer.name): float(np.linalg.norm(layer.W_start - layer.W_new)) for t, layer in recorded}


def edit(folder, step, rank, **changes):
    """Rewrites a snapshot; each change maps the old array to the new one, or None drops it."""
    file = folder / SNAPSHOTS / snapshot_name(step, rank)
    with np.load(file) as stored:
        arrays = dict(stored)
    for key, change in changes.items():
        key = key.replace("__", ".")
        arrays[key] = change(arrays[key])
    np.savez(file, **arrays)


def flip_lowest_bit(values, index):
    changed = np.array(values)
    changed.view(np.uint32)[index] ^= 1
    return changed
