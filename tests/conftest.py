"""What all tests have in common."""

import os

# Workers and ranks share few cores: a thread that spins while it waits takes the time of another's
# work. Read by OpenMP as it is loaded, also in processes that tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
