"""Settings for every test, before torch is imported: offline, and no more threads than there are cores."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # one worker a core: further threads would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
