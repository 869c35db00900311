"""The train command, with another setting on one rank, or a folder in which it alone finds modules first:
``odd_rank.py RANK key=value arguments of train``, ``odd_rank.py RANK FOLDER arguments of train``."""

from __future__ import annotations

import os
import sys

from train.__main__ import main

if __name__ == "__main__":
    odd, setting, *arguments = sys.argv[1:]
    mine = os.environ.get("MS_ROLE") == "MS_WORKER" and os.environ.get("RANK_ID") == odd
    if mine and "=" not in setting:
        sys.path.insert(0, setting)
    sys.exit(main([*arguments, setting] if mine and "=" in setting else arguments))
