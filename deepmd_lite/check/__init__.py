"""Is a data set what it should be? Findings in one sentence each, with what to do about them.

`check_data` asks everything (`dpl check`); `findings_in_sample` is the fast part that a
training begins with.
"""

from .finding import SEVERITIES, Finding
from .report import Report
from .run import check_data, findings_in_sample

__all__ = ["SEVERITIES", "Finding", "Report", "check_data", "findings_in_sample"]
