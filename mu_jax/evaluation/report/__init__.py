"""What a person reads of an experiment: figures, one self-contained page, and the table of models."""

from mu_jax.evaluation.report.attack_data import AttackReportData, AttackScores
from mu_jax.evaluation.report.attack_tables import attack_table
from mu_jax.evaluation.report.audit_page import write_audit_report
from mu_jax.evaluation.report.methods_data import MethodsReportData, NeighbourPair
from mu_jax.evaluation.report.methods_page import write_methods_report
from mu_jax.evaluation.report.page import write_report
from mu_jax.evaluation.report.report_data import ReportData
from mu_jax.evaluation.report.sweep_data import SweepReportData
from mu_jax.evaluation.report.sweep_page import write_sweep_report
from mu_jax.evaluation.report.tables import comparison_table

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
