"""The train command, with other settings on one rank: ``odd_rank.py RANK key=value -- arguments of train``."""

from __future__ import annotations

import os
import sys

from train.__main__ import main

if __name__ == "__main__":
    odd, setting, *arguments = sys.argv[1:]
    mine = os.environ.get("MS_ROLE") == "MS_WORKER" and os.environ.get("RANK_ID") == odd
    sys.exit(main([*arguments, setting] if mine else arguments))
