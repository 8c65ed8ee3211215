"""Where the numbers of tables come from, and whether they still are what they were.

`provenance` is what a run records of the code; `audit` looks at all that a table's numbers stand on today:
recipe, weights, data and code.
"""
