"""Comparison of the updates at the recorded steps of a finished run.

``report.compare(run_dir)`` writes ``comparison/comparison.json``, ``.md`` and ``.png`` into a run folder; as a command:
``python -m train.comparison runs/<name>``. Reading the folder, the observed figures and the proof need NumPy
only; MindSpore is imported when the first update is pushed through its kernel.
"""
