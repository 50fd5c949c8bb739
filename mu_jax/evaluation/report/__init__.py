"""What a person reads of an experiment: figures, one self-contained page, and the table of models."""

from mu_jax.evaluation.report.page import write_report
from mu_jax.evaluation.report.report_data import ReportData
from mu_jax.evaluation.report.sweep_data import SweepReportData
from mu_jax.evaluation.report.sweep_page import write_sweep_report
from mu_jax.evaluation.report.tables import comparison_table

__all__ = ["ReportData", "SweepReportData", "comparison_table", "write_report", "write_sweep_report"]
