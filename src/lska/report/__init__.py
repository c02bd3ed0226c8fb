"""The site of a scale: `results/<scale>/report/`, static pages that open from the file system and need no network."""
