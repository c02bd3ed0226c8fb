"""What is trained and measured at a scale: runs, the configuration, recipes, and the tasks that follow from them."""
