"""Where numbers come from, and whether they still do: `lska explain` and `lska verify`. Imports nothing heavy."""
