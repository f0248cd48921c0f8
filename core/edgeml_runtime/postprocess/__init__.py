"""A model's outputs become answers: a table by task, and one module for each kind of answer."""
