"""Reports: training scalars, TensorBoard and log, and the table, file and figure of an evaluation."""

from aladin_jax.reporting.figures import save_recall_figure
from aladin_jax.reporting.metrics import TrainMetrics
from aladin_jax.reporting.table import Reports, print_reports, report_scalars, write_report
from aladin_jax.reporting.writers import create_profile, create_progress, create_writer, log_parameters

__all__ = [
    "Reports",
    "TrainMetrics",
    "create_profile",
    "create_progress",
    "create_writer",
    "log_parameters",
    "print_reports",
    "report_scalars",
    "save_recall_figure",
    "write_report",
]
