"""Makes pytester available to the tests, and lets those that run side by side share the cores."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported: threads that wait for the cores of another process spin, and slow both down.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))

pytest_plugins = ["pytester"]
