"""What a person reads of a comparison: figures, one self-contained page, and the table of models."""

from mu_jax.evaluation.report.page import write_report
from mu_jax.evaluation.report.report_data import ReportData
from mu_jax.evaluation.report.tables import comparison_table

__all__ = ["ReportData", "comparison_table", "write_report"]
