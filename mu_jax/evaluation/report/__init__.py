"""What a person reads of an experiment: figures, one self-contained page, and the table of models.

Names come from their files only as they are asked for: what draws takes a second or two to import, and not all who read
a table draw.
"""

import importlib
from typing import Any

_FILES = {
    "AttackReportData": "attack_data",
    "AttackScores": "attack_data",
    "MethodsReportData": "methods_data",
    "NeighbourPair": "methods_data",
    "ReportData": "report_data",
    "SweepReportData": "sweep_data",
    "attack_table": "attack_tables",
    "comparison_table": "tables",
    "write_audit_report": "audit_page",
    "write_methods_report": "methods_page",
    "write_report": "page",
    "write_sweep_report": "sweep_page",
}

__all__ = [
    "AttackReportData",
    "AttackScores",
    "MethodsReportData",
    "NeighbourPair",
    "ReportData",
    "SweepReportData",
    "attack_table",
    "comparison_table",
    "write_audit_report",
    "write_methods_report",
    "write_report",
    "write_sweep_report",
]


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_FILES[name]}"), name)
