"""The paper's tables and figures, filled from metric files and written in every format."""
