"""A run folder becomes one HTML file and a set of figures; nothing here needs the model.

`write_report(folder)` writes the page, `write_figures(folder, into)` its figures one by one.
The plotting library and the template engine are imported when the first page is written.
"""

from influence.report.figures import write_figures
from influence.report.page import write_report

__all__ = ["write_figures", "write_report"]
