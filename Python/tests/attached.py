"""Runs a command while an engine is attached to the node at REMOTE_G2_SOCKET."""

import os
import subprocess
import sys

from test_library import Engine

engine = Engine(os.environ["REMOTE_G2_SOCKET"])
if not engine.until(lambda: engine.scheduler.attached):
    sys.exit("attached: the node is not there")
engine.step()
status = subprocess.run(sys.argv[1:]).returncode
engine.close()
sys.exit(status)
