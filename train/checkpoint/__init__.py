"""Checkpoints: what a run needs to continue bit for bit, written so that it is whole or absent.

``checkpoints/step-00000100/`` holds state 100, after 100 completed updates:

``model.safetensors``
    all parameters of the model, with BatchNorm's moving statistics as their mean over the ranks: what users load. Its
    metadata say what the model is and what its images have to look like (:mod:`train.checkpoint.card`).
``ema.safetensors``
    the same with the moving average of weights, where ``step.ema`` keeps one.
``model.json``
    those metadata once more, for what reads no safetensors.
``optimizer.safetensors``
    velocities, ``global_step``, moving average, loss scale: the same on every rank.
``ranks/00/rank-0.safetensors``
    moving statistics and random state of one rank, which alone writes and reads it; a hundred to a folder.
``state.json``
    step, position in the epoch, best metric, configuration, versions (:mod:`train.checkpoint.saved`).
``SHA256SUMS``
    the sum of each file, as ``sha256sum -c`` reads it.

The links ``latest`` and ``best`` beside it are for people; a resumed run looks for itself.
"""
