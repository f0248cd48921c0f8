"""An fp32 model becomes an int8 one: `recipes` says which ways to try, one pass a file does the work.

Nothing here judges the result: `edgeml.check` does. Importing this package imports no quantizer.
"""
