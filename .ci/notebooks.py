"""Run all notebooks in one process (parallel workers fork, and JAX does not survive a fork), and leave without taking the interpreter down piece by piece, which takes minutes after a hundred of them."""

import os
import sys

from nbdev.test import nbdev_test

code = 0
try:
    nbdev_test.__wrapped__(path=sys.argv[1] if len(sys.argv) > 1 else None, n_workers=0, do_print=True, timing=True)  # the function, not the command
except SystemExit as stopped:
    code = stopped.code or 0
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)
