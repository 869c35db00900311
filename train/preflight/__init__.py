"""Checks before a training: ``python -m train.preflight`` (see :mod:`train.preflight.__main__`)."""
