"""What all tests have in common."""

import os
import sys

# Workers and ranks share few cores: a thread that spins while it waits takes the time of another's
# work. Read by OpenMP as it is loaded, also in processes that tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# The same for ranks: MPICH sleeps a moment where it would only offer the processor.
os.environ.setdefault("MPIR_CVAR_ENABLE_HEAVY_YIELD", "1")
# Many processes are started: each would compile the package again if none kept what it compiled.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
