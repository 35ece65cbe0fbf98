"""An engine in a process of its own: attaches, saves, loads what it saved, and says so; with `die`, is killed then."""

import os
import sys

from test_library import Engine, hashes

engine = Engine(os.environ["REMOTE_G2_SOCKET"])
if not engine.until(lambda: engine.scheduler.attached):
    sys.exit("the node is not there")
engine.step()
names = hashes(4, os.environ["REMOTE_G2_SALT"].encode())
for block in range(4):
    engine.fill(block, 10 * block + 3)
engine.save(names)
if not engine.until(lambda: engine.is_ready(names, 4)):
    sys.exit("what was saved is not ready")
engine.scheduler.bind(2, 0, [8, 9, 10, 11])
done = engine.step()
if done != ([2], []) or not all(engine.holds(8 + block, 10 * block + 3) for block in range(4)):
    sys.exit(f"what was loaded is not what was saved: {done}")
print(f"right, as process {os.getpid()} of user {os.getuid()}", flush=True)
if "die" in sys.argv:
    os.kill(os.getpid(), 9)
engine.close()
