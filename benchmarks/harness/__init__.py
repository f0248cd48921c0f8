"""The parts that all benchmark programs share: figures, host load, rivals' environments, the report.

`program` runs one program, `suite` runs all of them. Neither measures anything.
"""
