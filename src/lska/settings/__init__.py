"""What a scale is made of: runs, recipes, sections of the configuration, versions of what makes results."""
