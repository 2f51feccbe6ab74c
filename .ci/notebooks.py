"""Run all notebooks, or those under a path, in one process (parallel workers fork, and JAX does not survive a fork), and leave without taking the interpreter down piece by
piece, which takes minutes after a hundred of them.

Programs are compiled without optimisation, as those of the tests are (tests/conftest.py), in less than half the time. A second process, beside the first, compiles as a user's
does: for the notebooks whose programs run for longer than that saves."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

LONG = "06_parity|12_neural"

if len(sys.argv) < 2:
    both = [subprocess.Popen([sys.executable, __file__, which]) for which in ("long", "quick")]
    sys.exit(any([process.wait() for process in both]))
if sys.argv[1] == "quick":  # before JAX is imported
    runpy.run_path(str(Path(__file__).parents[1] / "tests" / "conftest.py"))

from nbdev.test import nbdev_test  # noqa: E402

code, (which,) = 0, sys.argv[1:]
some = {"quick": {"skip_file_re": rf"^[_.]|{LONG}"}, "long": {"file_re": LONG}}.get(which, {"path": which})
try:
    nbdev_test.__wrapped__(n_workers=0, do_print=True, timing=True, **some)  # the function, not the command
except SystemExit as stopped:
    code = stopped.code or 0
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)
