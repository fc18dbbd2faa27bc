"""Is a model what it should be, on this machine? One check for each thing that can be wrong.

`certify` runs them; `dpl check MODEL` prints them.
"""

from .report import Certificate, certify
from .verdict import Verdict

__all__ = ["Certificate", "Verdict", "certify"]
