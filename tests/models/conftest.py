"""Settings that MindSpore reads when it is imported."""

import os

os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")  # on AVX-512 hosts the bundled oneDNN is 20 times slower without
os.environ.setdefault("GLOG_v", "3")
