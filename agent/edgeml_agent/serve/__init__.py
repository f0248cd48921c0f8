"""The device's HTTP server: live models (`models`), one file per door (`predict`, `oip`), who may enter (`access`).

Nothing here fetches, verifies or decides what to run: the agent's shell activates, this room answers.
"""
