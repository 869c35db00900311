"""How fast training is: ``python -m tests.benchmarks.speed --help``. Ratios, each against something of the same run."""
