"""When this process began: imported before anything heavy, so that a run can say what its start took."""

import time

PROCESS_STARTED = time.monotonic()
