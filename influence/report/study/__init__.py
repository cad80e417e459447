"""The report of a study: its verdicts in words, depth × influence of every concept, trends with scale, methods.

Everything comes in as plain data, a mapping with these keys (all but `tables` may be missing):

    tables    frames by name: models, concepts, curve, depth, layer_mass, layer_tail, tails, margin, removal, signature,
              llc, with the columns in `read.COLUMNS` at least; only models must be there
    models, concepts   the same two frames, where they are kept apart from the other tables
    verdicts  mappings with quantity, effect, low, high, unit, p, p_adjusted, null, decision, words, and optionally
              falsifiers, controls (name -> p), parts (a frame or list of mappings), details, remarks
    settings  a mapping, nested as you like
    skipped   mappings with why, and model, step, concept, part as far as they are known
    versions, facts   mappings: packages; hardware, time and the like (`remarks`, a list, stands at the top)
    command, toml     what runs the study again, and the file that describes it
    title     of the study
"""

from influence.report.study.methods import methods_text
from influence.report.study.page import study_figures, write_study_report

__all__ = ["methods_text", "study_figures", "write_study_report"]
